//! Reading what stands in paths, queries and headers. Pure.
//!
//! What must hold: nothing is guessed. Text that is not exactly of the documented form is refused
//! with a sentence that shows the form, because a misread precondition or wait is worse than a
//! refusal.
//!
//! Left out: bodies (`json`), and which parameters a route knows (`routes`).

use std::cmp::Reverse;
use std::time::Duration;

use pennon_evaluator::Version;
use pennon_evaluator::wire::{MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES};
use pennon_raft_store::command::Expected;

use crate::hub::Encoding;

/// Decodes percent-encoding; refuses what is cut, not hexadecimal or not UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Result<String, String> {
    let mut rest = text.as_bytes().iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let digits = rest.as_slice();
            if digits.len() < 2 || !digits[..2].iter().all(u8::is_ascii_hexdigit) {
                return Err(format!(
                    "{text:?} has a % that is not followed by two hexadecimal digits; write %25 for %"
                ));
            }
        }
    }
    percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| format!("{text:?} is not UTF-8 when decoded"))
}

/// Splits a query into decoded pairs, in their order.
pub(crate) fn query_pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((
                percent_decoded(&name.replace('+', " "))?,
                percent_decoded(&value.replace('+', " "))?,
            ))
        })
        .collect()
}

/// Reads a moment: RFC 3339, or milliseconds since 1970. Milliseconds since 1970, rounded down.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    let refused = || {
        format!(
            "{text:?} is no time; write for example 2026-11-22T10:00:00Z, or milliseconds since 1970"
        )
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| refused());
    }
    let moment: jiff::Timestamp = text.parse().map_err(|_| refused())?;
    u64::try_from(moment.as_millisecond()).map_err(|_| refused())
}

/// Reads `250ms`, `5s`, `2m` or `1h`, up to a bound.
pub(crate) fn duration(text: &str, max: Duration) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => {
            return Err(format!(
                "{text:?} is not a duration; write for example 250ms or 5s"
            ));
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a duration; write for example 250ms or 5s"))?;
    let found = Duration::from_millis(number.saturating_mul(unit_ms));
    if found > max {
        return Err(format!(
            "{text} is longer than the {}s allowed",
            max.as_secs()
        ));
    }
    Ok(found)
}

/// What the two precondition headers ask for; `None` when neither is given.
///
/// Each takes its values as they came: a header that comes twice is a list.
pub(crate) fn expected(
    if_match: &[&str],
    if_none_match: &[&str],
) -> Result<Option<Expected>, String> {
    const ALLOWED: &str = "allowed are If-Match: \"<version>\", If-Match: * and If-None-Match: *";
    match (if_match, if_none_match) {
        ([], []) => Ok(None),
        (["*"], []) => Ok(Some(Expected::Present)),
        ([], ["*"]) => Ok(Some(Expected::Absent)),
        ([tag], []) => match entity_tag(tag) {
            Some(version) => Ok(Some(Expected::At(version))),
            None => Err(format!(
                "If-Match: {tag} is not one strong entity tag of a version; {ALLOWED}"
            )),
        },
        ([], [tag]) => Err(format!(
            "If-None-Match: {tag} is not understood on a write; {ALLOWED}"
        )),
        _ => Err(format!(
            "more than one precondition is given; {ALLOWED}, and only one of them"
        )),
    }
}

/// Reads `"<version>"`. Version 0 is no object's.
fn entity_tag(text: &str) -> Option<Version> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let canonical = !inner.is_empty() && !(inner.starts_with('0'));
    inner.parse().ok().filter(|_| canonical)
}

/// The versions in an If-None-Match of a read, weak or strong; other tags are nobody's. `*` gives
/// [`Tags::Any`].
pub(crate) fn tags(values: &[&str]) -> Tags {
    let items = values
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim);
    let mut versions = Vec::new();
    for item in items {
        if item == "*" {
            return Tags::Any;
        }
        versions.extend(entity_tag(item.strip_prefix("W/").unwrap_or(item)));
    }
    Tags::Of(versions)
}

/// Entity tags of an If-None-Match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tags {
    /// `*`.
    Any,
    /// These versions; empty when there was no header or nothing of ours in it.
    Of(Vec<Version>),
}

impl Tags {
    /// Whether what has this version is what the caller has.
    pub(crate) fn include(&self, version: Version) -> bool {
        match self {
            Self::Any => true,
            Self::Of(versions) => versions.contains(&version),
        }
    }
}

/// Which encoding of a stream an Accept header prefers: the higher quality, then the more specific
/// range, then the one named first. Without a header, and for `*/*`, Server-Sent Events.
pub(crate) fn stream_encoding(accept: Option<&str>) -> Option<Encoding> {
    let accept = accept
        .map(str::trim)
        .filter(|accept| !accept.is_empty())
        .unwrap_or("*/*");
    let ranges: Vec<(String, u32)> = accept.split(',').filter_map(media_range).collect();
    // The last of equals wins below, so the preferred one comes last.
    let offers = [
        (Encoding::Frames, MEDIA_TYPE_FRAMES),
        (Encoding::Events, MEDIA_TYPE_EVENTS),
    ];
    let ranked = offers.into_iter().filter_map(|(encoding, media_type)| {
        let fitting = ranges
            .iter()
            .enumerate()
            .filter_map(|(at, (range, quality))| {
                Some((specificity(range, media_type)?, Reverse(at), *quality))
            });
        // The most specific range decides about a type, whatever its quality.
        let (specific, at, quality) = fitting.max()?;
        (quality > 0).then_some(((quality, specific, at), encoding))
    });
    ranked
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, encoding)| encoding)
}

/// A media range in lower case without parameters, and its quality in thousandths.
fn media_range(text: &str) -> Option<(String, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts
        .next()
        .filter(|range| range.contains('/'))?
        .to_ascii_lowercase();
    let quality =
        parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    let quality = match quality {
        None => 1000,
        Some(text) => text
            .parse::<f32>()
            .ok()
            .filter(|q| (0.0..=1.0).contains(q))
            .map(|q| (q * 1000.0) as u32)?,
    };
    Some((range, quality))
}

fn specificity(range: &str, media_type: &str) -> Option<u32> {
    let family = media_type.split('/').next().unwrap_or_default();
    if range == media_type {
        Some(2)
    } else if range.strip_suffix("/*") == Some(family) {
        Some(1)
    } else {
        (range == "*/*").then_some(0)
    }
}

/// Whether a Content-Type means JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    #[test]
    fn preconditions_are_exact_or_refused() {
        assert_eq!(expected(&[], &[]), Ok(None));
        assert_eq!(
            expected(&["\"7\""], &[]),
            Ok(Some(Expected::At(version(7))))
        );
        assert_eq!(expected(&["*"], &[]), Ok(Some(Expected::Present)));
        assert_eq!(expected(&[], &["*"]), Ok(Some(Expected::Absent)));
        let garbage = [
            "7",
            "\"7",
            "\"\"",
            "W/\"7\"",
            "\"7\", \"8\"",
            "\"+7\"",
            "\"07\"",
            "\"0\"",
            "\"9007199254740992\"",
        ];
        for tag in garbage {
            let refusal = expected(&[tag], &[]).unwrap_err();
            assert!(refusal.contains("allowed are"), "{refusal}");
        }
        assert!(expected(&["\"7\"", "\"8\""], &[]).is_err());
        assert!(expected(&["\"7\""], &["*"]).is_err());
        assert!(expected(&[], &["\"7\""]).is_err());
    }

    #[test]
    fn tags_of_a_read_may_be_weak_and_many() {
        assert_eq!(
            tags(&["\"3\", W/\"4\"", "\"x\""]),
            Tags::Of(vec![version(3), version(4)])
        );
        assert!(tags(&["\"3\", *"]).include(version(9)));
        assert!(!tags(&[]).include(version(0)));
    }

    #[test]
    fn durations_name_their_unit() {
        let max = Duration::from_secs(60);
        assert_eq!(duration("250ms", max), Ok(Duration::from_millis(250)));
        assert_eq!(duration("60s", max), Ok(max));
        assert_eq!(duration("1m", max), Ok(max));
        assert_eq!(duration("0s", max), Ok(Duration::ZERO));
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1.5s",
            "5 s",
            "99999999999999999999s",
            "61s",
            "18446744073709551615h",
        ] {
            assert!(duration(text, max).is_err(), "{text:?}");
        }
    }

    #[test]
    fn moments_are_rfc_3339_or_milliseconds() {
        for (text, ms) in [
            ("0", 0),
            ("1767225600123", 1_767_225_600_123),
            ("2026-01-01T00:00:00.123Z", 1_767_225_600_123),
            ("2026-01-01T02:00:00+02:00", 1_767_225_600_000),
        ] {
            assert_eq!(moment(text), Ok(ms), "{text}");
        }
        for wrong in [
            "",
            "-1",
            "1.5",
            "yesterday",
            "2026-01-01",
            "1969-12-31T23:59:59Z",
        ] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn percent_encoding_is_strict() {
        assert_eq!(percent_decoded("web%2Fnew%3aui"), Ok("web/new:ui".into()));
        for text in ["%", "%2", "%zz", "a%+1", "%ff"] {
            assert!(percent_decoded(text).is_err(), "{text}");
        }
        let pairs = query_pairs("reason=a+b%26c&wait=5s&&flag").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs,
            [
                pair("reason", "a b&c"),
                pair("wait", "5s"),
                pair("flag", "")
            ]
        );
    }

    #[test]
    fn the_preferred_encoding_of_a_stream_wins() {
        let of = |accept| stream_encoding(Some(accept));
        assert_eq!(stream_encoding(None), Some(Encoding::Events));
        assert_eq!(of("*/*"), Some(Encoding::Events));
        assert_eq!(of("text/*"), Some(Encoding::Events));
        assert_eq!(of(MEDIA_TYPE_FRAMES), Some(Encoding::Frames));
        assert_eq!(
            of("application/vnd.pennon.frames, text/event-stream"),
            Some(Encoding::Frames)
        );
        assert_eq!(
            of("application/vnd.pennon.frames;q=0.5, TEXT/event-stream"),
            Some(Encoding::Events)
        );
        assert_eq!(
            of("application/vnd.pennon.frames, */*"),
            Some(Encoding::Frames)
        );
        assert_eq!(of("text/event-stream;q=0, */*"), Some(Encoding::Frames));
        assert_eq!(of("application/json"), None);
        assert_eq!(of("text/event-stream;q=0"), None);
        assert_eq!(of("nonsense"), None);
    }

    #[test]
    fn json_is_recognised_with_its_parameters() {
        assert!(
            is_json("application/json; charset=utf-8") && is_json("application/merge-patch+json")
        );
        assert!(!is_json("text/plain") && !is_json("text/json"));
    }
}
