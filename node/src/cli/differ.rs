//! What differs between two JSON values: for programs by pointer, for people line by line.
//!
//! What must hold: two values differ for people exactly when they do for programs; the order of
//! the fields of an object is no difference.

use serde_json::{Map, Value, json};

use super::terminal::pretty;

/// Lines around a difference that are shown with it.
const CONTEXT: usize = 3;
/// Beyond so many pairs of lines, the differing middle is shown whole: removed, then added.
const PAIRS_MAX: usize = 4_000_000;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Removed,
    Added,
    /// Lines that are kept and not shown.
    Skipped,
}

/// Every difference as `{pointer, before?, after?}`; a side that has nothing there has no field.
pub(crate) fn pointers(before: Option<&Value>, after: Option<&Value>) -> Vec<Value> {
    let mut found = Vec::new();
    descend("", before, after, &mut found);
    found
}

fn descend(at: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Value>) {
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                descend(&at, old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for n in 0..old.len().max(new.len()) {
                descend(&format!("{at}/{n}"), old.get(n), new.get(n), found);
            }
        }
        (before, after) => {
            let mut difference = Map::from_iter([("pointer".to_owned(), json!(at))]);
            for (name, side) in [("before", before), ("after", after)] {
                if let Some(side) = side {
                    difference.insert(name.to_owned(), side.clone());
                }
            }
            found.push(Value::Object(difference));
        }
    }
}

/// The differences of the indented texts, each with some lines around it.
pub(crate) fn lines(before: Option<&Value>, after: Option<&Value>) -> Vec<(Fate, String)> {
    let before = match (before, after) {
        (Some(before), Some(after)) => Some(in_order_of(before, after)),
        (before, _) => before.cloned(),
    };
    let text = |side: Option<&Value>| side.map(pretty).unwrap_or_default();
    let (old, new) = (text(before.as_ref()), text(after));
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    if old == new {
        return Vec::new();
    }
    with_context(compare(&old, &new))
}

/// The value with the fields of its objects in the order in which another has them.
fn in_order_of(value: &Value, model: &Value) -> Value {
    match (value, model) {
        (Value::Object(fields), Value::Object(model)) => {
            let both = model.iter().filter_map(|(name, model)| {
                let field = fields.get(name)?;
                Some((name.clone(), in_order_of(field, model)))
            });
            let rest = fields.iter().filter(|(name, _)| !model.contains_key(*name));
            let rest = rest.map(|(name, field)| (name.clone(), field.clone()));
            Value::Object(both.chain(rest).collect())
        }
        (Value::Array(items), Value::Array(model)) => {
            let items = items.iter().enumerate();
            let items = items.map(|(n, item)| match model.get(n) {
                Some(model) => in_order_of(item, model),
                None => item.clone(),
            });
            Value::Array(items.collect())
        }
        (value, _) => value.clone(),
    }
}

fn compare(old: &[&str], new: &[&str]) -> Vec<(Fate, String)> {
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| {
        pairs.take_while(|(old, new)| old == new).count()
    };
    let head = same(&mut old.iter().zip(new));
    let (old, new, kept) = (&old[head..], &new[head..], &old[..head]);
    let tail = same(&mut old.iter().rev().zip(new.iter().rev()));
    let (old, end) = old.split_at(old.len() - tail);
    let new = &new[..new.len() - tail];
    let of = |fate: Fate, lines: &[&str]| {
        let lines = lines.iter().map(|line| (fate, (*line).to_owned()));
        lines.collect::<Vec<_>>()
    };
    let mut all = of(Fate::Kept, kept);
    match old.len() * new.len() > PAIRS_MAX {
        true => {
            all.extend(of(Fate::Removed, old));
            all.extend(of(Fate::Added, new));
        }
        false => all.extend(longest_common(old, new)),
    }
    all.extend(of(Fate::Kept, end));
    all
}

/// Keeps as many lines as can be kept.
fn longest_common(old: &[&str], new: &[&str]) -> Vec<(Fate, String)> {
    let width = new.len() + 1;
    // How many lines the texts from (i, j) on have in common at most.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i * width + j] = match old[i] == new[j] {
                true => common[(i + 1) * width + j + 1] + 1,
                false => common[(i + 1) * width + j].max(common[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j, mut all) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        let remove = j == new.len()
            || (i < old.len() && common[(i + 1) * width + j] >= common[i * width + j + 1]);
        if i < old.len() && j < new.len() && old[i] == new[j] {
            all.push((Fate::Kept, old[i].to_owned()));
            (i, j) = (i + 1, j + 1);
        } else if remove {
            all.push((Fate::Removed, old[i].to_owned()));
            i += 1;
        } else {
            all.push((Fate::Added, new[j].to_owned()));
            j += 1;
        }
    }
    all
}

fn with_context(all: Vec<(Fate, String)>) -> Vec<(Fate, String)> {
    let differs: Vec<usize> = (0..all.len())
        .filter(|at| all[*at].0 != Fate::Kept)
        .collect();
    let near = |at: usize| {
        let next = differs.partition_point(|differs| *differs < at);
        let after = differs.get(next).is_some_and(|next| next - at <= CONTEXT);
        after || next > 0 && at - differs[next - 1] <= CONTEXT
    };
    let mut shown: Vec<(Fate, String)> = Vec::new();
    for (at, line) in all.into_iter().enumerate() {
        if near(at) {
            shown.push(line);
        } else if shown.last().is_none_or(|(fate, _)| *fate != Fate::Skipped) {
            shown.push((Fate::Skipped, "…".to_owned()));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_pointer() {
        let before = json!({"a": {"x/y": 1, "t~": [1, 2, 3]}, "gone": null, "same": {"q": 1}});
        let after = json!({"same": {"q": 1}, "a": {"x/y": 2, "t~": [1, 5]}, "new": "n"});
        assert_eq!(
            pointers(Some(&before), Some(&after)),
            [
                json!({"pointer": "/a/x~1y", "before": 1, "after": 2}),
                json!({"pointer": "/a/t~0/1", "before": 2, "after": 5}),
                json!({"pointer": "/a/t~0/2", "before": 3}),
                json!({"pointer": "/gone", "before": null}),
                json!({"pointer": "/new", "after": "n"}),
            ]
        );
        let whole = pointers(None, Some(&json!(7)));
        assert_eq!(whole, [json!({"pointer": "", "after": 7})]);
        assert!(pointers(None, None).is_empty());
    }

    #[test]
    fn the_order_of_fields_is_no_difference() {
        let one = json!({"a": 1, "b": [{"c": 1, "d": 2}]});
        let other = json!({"b": [{"d": 2, "c": 1}], "a": 1});
        assert!(pointers(Some(&one), Some(&other)).is_empty());
        assert!(lines(Some(&one), Some(&other)).is_empty());
    }

    #[test]
    fn lines_are_shown_with_what_is_around_them() {
        let list = |changed: u32| {
            let items = (0..20).map(|n| if n == 9 { changed } else { n });
            json!(items.collect::<Vec<u32>>())
        };
        let marks: Vec<String> = lines(Some(&list(9)), Some(&list(900)))
            .into_iter()
            .map(|(fate, line)| {
                let mark = match fate {
                    Fate::Kept => ' ',
                    Fate::Removed => '-',
                    Fate::Added => '+',
                    Fate::Skipped => '~',
                };
                format!("{mark}{}", line.trim())
            })
            .collect();
        let wanted = [
            "~…", " 6,", " 7,", " 8,", "-9,", "+900,", " 10,", " 11,", " 12,", "~…",
        ];
        assert_eq!(marks, wanted);
    }

    #[test]
    fn both_texts_can_be_read_out_of_the_comparison() {
        let texts = ["", "a", "ab", "abcabba", "cbabac", "xaxbxc", "cba", "aaaa"];
        for old in texts {
            for new in texts {
                let (o, n): (Vec<String>, Vec<String>) = (split(old), split(new));
                let (o, n): (Vec<&str>, Vec<&str>) = (refs(&o), refs(&n));
                let all = compare(&o, &n);
                let side = |gone: Fate| {
                    let kept = all.iter().filter(|(fate, _)| *fate != gone);
                    kept.map(|(_, line)| line.as_str()).collect::<String>()
                };
                assert_eq!(
                    (side(Fate::Added), side(Fate::Removed)),
                    (old.into(), new.into())
                );
            }
        }
    }

    fn split(text: &str) -> Vec<String> {
        text.chars().map(String::from).collect()
    }

    fn refs(lines: &[String]) -> Vec<&str> {
        lines.iter().map(String::as_str).collect()
    }
}
