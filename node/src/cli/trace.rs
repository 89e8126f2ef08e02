//! The way to an evaluation as an indented tree, a line for everything that was looked at.
//!
//! `✓` holds, `✗` does not, `·` is neither: readable without colour and without looking at the
//! indent. A line says first what was asked, then in parentheses what the subject has or is.
//! Lines are never broken, so that they can be searched and pasted; long lists and values are cut.
//!
//! What must hold: nothing that the node did not say, except what follows from it (which share a
//! bucket is in). What it says in words that are not known here is shown as it is.
//!
//! Left out: the answer itself and asking for it (`explain.rs`).

use std::collections::BTreeMap;

use serde_json::Value;

use super::terminal::{Paint, Terminal, cut, shown};

/// So many values of a clause are shown.
const VALUES_MAX: usize = 8;

/// The longest value shown, in characters.
const VALUE_CHARS_MAX: usize = 48;

/// The longest value of the subject, and the longest text that is hashed, in characters.
const FOUND_CHARS_MAX: usize = 120;

/// So many shares are shown; of more only the one that is served.
const SHARES_MAX: usize = 8;

/// What a line says of its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Yes,
    No,
    Neither,
}

impl Mark {
    fn of(holds: &Value) -> Mark {
        match holds.as_bool() {
            Some(true) => Mark::Yes,
            Some(false) => Mark::No,
            None => Mark::Neither,
        }
    }
}

/// The lines so far.
pub(crate) struct Tree<'a> {
    terminal: &'a Terminal,
    lines: Vec<String>,
    /// Attributes that were no text where text is compared, and what was found there.
    not_text: BTreeMap<String, String>,
}

/// Lays out the steps of an explanation.
pub(crate) fn tree<'a>(terminal: &'a Terminal, explanation: &Value) -> Tree<'a> {
    let mut tree = Tree {
        terminal,
        lines: Vec::new(),
        not_text: BTreeMap::new(),
    };
    let trace = &explanation["trace"];
    tree.steps(0, list(&trace["steps"]), &explanation["variant"]);
    if trace["truncated"] == true {
        let text = "… and more steps than are shown; they are part of the decision";
        tree.line(0, Mark::Neither, text);
    }
    tree
}

impl Tree<'_> {
    /// Returns the lines.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Returns the attributes that were no text where text is compared, and what was there.
    pub(crate) fn not_text(&self) -> &BTreeMap<String, String> {
        &self.not_text
    }

    fn line(&mut self, depth: usize, mark: Mark, text: impl AsRef<str>) {
        let (mark, paint) = match mark {
            Mark::Yes => ("✓", Paint::Good),
            Mark::No => ("✗", Paint::Warn),
            Mark::Neither => ("·", Paint::Dim),
        };
        let mark = self.terminal.paint(mark, paint);
        let indent = "  ".repeat(depth);
        self.lines.push(format!("{indent}{mark} {}", text.as_ref()));
    }

    /// The steps of one flag. `serves` is the variant that they end at.
    fn steps(&mut self, depth: usize, steps: &[Value], serves: &Value) {
        for step in steps {
            match step["step"].as_str() {
                Some("prerequisite") => self.prerequisite(depth, step),
                Some("target") => match step["variant"].as_str() {
                    Some(variant) => {
                        let text = format!("target: serves {} to this subject", word(variant));
                        self.line(depth, Mark::Yes, self.bold_at(depth, &text));
                    }
                    None => self.line(depth, Mark::Neither, "target: none for this subject"),
                },
                Some("rule") => self.rule(depth, step, serves),
                Some("default") => {
                    let text = format!("default serves {}", name(serves));
                    self.line(depth, Mark::Yes, self.bold_at(depth, &text));
                    self.split(depth + 1, &step["rollout"]);
                }
                _ => self.line(depth, Mark::Neither, json(step, FOUND_CHARS_MAX)),
            }
        }
    }

    /// What decided the flag that was asked for stands out.
    fn bold_at(&self, depth: usize, text: &str) -> String {
        match depth {
            0 => self.terminal.paint(text, Paint::Bold),
            _ => text.to_owned(),
        }
    }

    fn prerequisite(&mut self, depth: usize, step: &Value) {
        let accepts: Vec<String> = list(&step["accepts"]).iter().map(name).collect();
        let found = &step["found"];
        let is = match found.as_str() {
            Some(variant) => format!("it is at {}", word(variant)),
            None => "it is missing, archived, disabled or cannot be decided".to_owned(),
        };
        let steps = list(&step["steps"]);
        let above = match steps.is_empty() && found.is_string() {
            true => ", see above",
            false => "",
        };
        let (flag, accepts) = (name(&step["flag"]), any_of(&accepts, 0));
        let mut text = format!("prerequisite {flag} at {accepts}  ({is}{above})");
        if step["holds"] == false {
            text = self.bold_at(depth, &format!("{text}: serves the off variant"));
        }
        self.line(depth, Mark::of(&step["holds"]), text);
        self.steps(depth + 1, steps, found);
    }

    /// A rule of a flag.
    fn rule(&mut self, depth: usize, rule: &Value, serves: &Value) {
        let mut text = rule_name(rule);
        let clauses = list(&rule["clauses"]);
        if clauses.is_empty() {
            text.push_str(", without clauses");
        }
        if rule["holds"] == true {
            text = self.bold_at(depth, &format!("{text}: serves {}", name(serves)));
        }
        self.line(depth, Mark::of(&rule["holds"]), text);
        self.clauses(depth + 1, clauses);
        if rule["experiment"].is_object() {
            self.experiment(depth + 1, &rule["experiment"]);
        }
        self.split(depth + 1, &rule["rollout"]);
    }

    fn clauses(&mut self, depth: usize, clauses: &[Value]) {
        for step in clauses {
            match step["clause"]["op"].as_str() {
                Some("in_segment") => self.segments_clause(depth, step),
                _ => {
                    let text = format!("{}  ({})", question(step), self.found(step));
                    self.line(depth, Mark::of(&step["holds"]), text);
                }
            }
        }
    }

    /// What the subject has where a clause looks.
    fn found(&mut self, step: &Value) -> String {
        let (clause, found) = (&step["clause"], &step["found"]);
        if found.is_null() {
            let either = match clause["negate"] == true && step["outcome"] == "missing" {
                true => ", so neither this nor the opposite holds",
                false => "",
            };
            return format!("the subject has none{either}");
        }
        let shown = json(found, FOUND_CHARS_MAX);
        if step["outcome"] != "wrong_type" {
            return format!("it is {shown}");
        }
        let (op, values) = (&clause["op"], list(&clause["values"]));
        let wanted = wanted(op.as_str().unwrap_or_default());
        let wants_text = wanted.is_text || op == "in" && values.iter().any(Value::is_string);
        let is_scalar = found.is_number() || found.is_boolean();
        if let (true, true, Some(attribute)) = (is_scalar, wants_text, clause["attribute"].as_str())
        {
            self.not_text.insert(attribute.to_owned(), shown.clone());
        }
        let kind = match found {
            Value::String(_) => "the text ",
            Value::Number(_) => "the number ",
            _ => "",
        };
        format!("it is {kind}{shown}, wrong type: {}", wanted.not)
    }

    fn segments_clause(&mut self, depth: usize, step: &Value) {
        let mark = Mark::of(&step["holds"]);
        let segments = list(&step["segments"]);
        match (segments, list(&step["clause"]["values"])) {
            ([segment], [_]) => {
                let text = format!("{}  ({})", question(step), membership(segment));
                self.line(depth, mark, text);
                self.segment_rules(depth + 1, segment);
            }
            _ => {
                let undecided = match step["outcome"] == "undecided" {
                    true => "  (one of them cannot be decided, and it is in no other)",
                    false => "",
                };
                self.line(depth, mark, format!("{}{undecided}", question(step)));
                for segment in segments {
                    self.segment(depth + 1, segment);
                }
            }
        }
    }

    fn segment(&mut self, depth: usize, segment: &Value) {
        let text = format!(
            "segment {}  ({})",
            name(&segment["segment"]),
            membership(segment)
        );
        self.line(depth, Mark::of(&segment["within"]), text);
        self.segment_rules(depth + 1, segment);
    }

    fn segment_rules(&mut self, depth: usize, segment: &Value) {
        for rule in list(&segment["rules"]) {
            let (clauses, share) = (list(&rule["clauses"]), &rule["rollout"]);
            let everybody = match clauses.is_empty() {
                true => ", without clauses",
                false => "",
            };
            let text = format!("{}{everybody}", rule_name(rule));
            self.line(depth, Mark::of(&rule["holds"]), text);
            self.clauses(depth + 1, clauses);
            if share.is_object() {
                let range = &share["shares"][0];
                let bucket = self.bucket("bucket", share);
                let text = format!("share {}: {bucket}", half_open(range));
                let within = Value::Bool(is_within(range, &share["bucket"]));
                self.line(depth + 1, Mark::of(&within), text);
            }
        }
    }

    fn experiment(&mut self, depth: usize, experiment: &Value) {
        let mark = Mark::of(&experiment["takes_part"]);
        let part = match mark {
            Mark::No => "takes no part, so the rule is passed over",
            _ => "takes part",
        };
        self.line(
            depth,
            mark,
            format!("experiment {}  ({part})", name(&experiment["key"])),
        );
        let holdout = &experiment["holdout"];
        if holdout.is_object() {
            let segment = &holdout["segment"];
            let (mark, kept) = match holdout["held_out"] == true {
                true => (Mark::No, "in"),
                false => (Mark::Yes, "not in"),
            };
            let text = format!(
                "{kept} the holdout {}  ({})",
                name(&segment["segment"]),
                membership(segment)
            );
            self.line(depth + 1, mark, text);
            self.segment_rules(depth + 2, segment);
        }
        let layer = &experiment["layer"];
        if layer.is_object() {
            let range: Vec<String> = list(&layer["range"]).iter().map(Value::to_string).collect();
            let slot = self.bucket("slot", &layer["slot"]);
            let text = format!(
                "layer {}, slots [{}): {slot}",
                name(&layer["layer"]),
                range.join(", ")
            );
            self.line(depth + 1, Mark::of(&layer["within"]), text);
        }
    }

    /// The bucket of a rollout and the share that it is in.
    fn split(&mut self, depth: usize, rollout: &Value) {
        if !rollout.is_object() {
            return;
        }
        let bucket = &rollout["bucket"];
        let mut text = self.bucket("bucket", rollout);
        if bucket.is_null() {
            text.push_str("; so the last variant is served");
        }
        self.line(depth, Mark::Neither, text);
        let shares = list(&rollout["shares"]);
        let hit = match bucket.is_null() {
            true => shares.len().checked_sub(1),
            false => shares.iter().position(|share| is_within(share, bucket)),
        };
        let names: Vec<String> = shares.iter().map(|share| name(&share["variant"])).collect();
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or(0);
        let all = shares.len() <= SHARES_MAX;
        for (n, (share, name)) in shares.iter().zip(&names).enumerate() {
            if !all && Some(n) != hit {
                continue;
            }
            let mark = match Some(n) == hit {
                true => Mark::Yes,
                false => Mark::Neither,
            };
            let percent = percent(share, &rollout["total"]);
            let text = format!("{name:<width$} {percent:>6}  {}", half_open(share));
            self.line(depth + 1, mark, text);
        }
        if !all {
            let others = shares.len() - usize::from(hit.is_some());
            self.line(depth + 1, Mark::Neither, format!("… and {others} more"));
        }
    }

    /// `bucket 7 of 100 = murmur3-v1("saltuser-42")`.
    fn bucket(&self, what: &str, step: &Value) -> String {
        let by = name(&step["bucket_by"]);
        let Some(number) = step["bucket"].as_u64() else {
            return format!("no {what}: {by} of the subject is neither text nor a whole number");
        };
        let by = match by.as_str() {
            "subject_key" => String::new(),
            by => format!(", by {by}"),
        };
        let input = json(&step["input"], FOUND_CHARS_MAX);
        let hashed = format!("= {}({input}){by}", name(&step["algorithm"]));
        let hashed = self.terminal.paint(hashed, Paint::Dim);
        format!("{what} {number} of {} {hashed}", step["total"])
    }
}

/// What a clause asks, without what the subject has.
fn question(step: &Value) -> String {
    let clause = &step["clause"];
    let attribute = name(&clause["attribute"]);
    let negate = clause["negate"] == true;
    let op = clause["op"].as_str().unwrap_or("?");
    let not = if negate { "not " } else { "" };
    if op == "exists" {
        return match negate {
            true => format!("{attribute} does not exist"),
            false => format!("{attribute} exists"),
        };
    }
    let more = step["values_more"].as_u64().unwrap_or(0);
    let values = list(&clause["values"]).iter();
    match op {
        "in_segment" => {
            let values: Vec<String> = values.map(name).collect();
            format!("{not}in segment {}", any_of(&values, more))
        }
        op => {
            let values: Vec<String> = values.map(|value| json(value, VALUE_CHARS_MAX)).collect();
            format!("{not}{attribute} {} {}", word(op), any_of(&values, more))
        }
    }
}

/// Lists the first of some values. `more` are not even here.
fn any_of(values: &[String], more: u64) -> String {
    let kept = match values.len() <= VALUES_MAX + 1 && more == 0 {
        true => values.len(),
        false => values.len().min(VALUES_MAX),
    };
    let left = more.saturating_add((values.len() - kept) as u64);
    let mut text = values[..kept].join(", ");
    if left > 0 {
        text.push_str(&format!(", … and {left} more"));
    }
    text
}

/// What an operator compares, in words.
struct Wanted {
    not: &'static str,
    /// Whether it only compares text.
    is_text: bool,
}

fn wanted(op: &str) -> Wanted {
    let (not, is_text) = match op {
        "in" => ("no value is of that type", false),
        "lt" | "lte" | "gt" | "gte" => ("not a number", false),
        "before" | "after" => ("not a time", false),
        "in_cidr" => ("not an address as text", true),
        op if op.starts_with("semver_") => ("not a version as text", true),
        _ => ("not text", true),
    };
    Wanted { not, is_text }
}

/// Why a subject is in a segment, or not.
fn membership(segment: &Value) -> String {
    let rules = list(&segment["rules"]);
    match (segment["by"].as_str(), segment["within"].as_bool()) {
        (Some("excluded"), _) => "excluded by its key".to_owned(),
        (Some("included"), _) => "included by its key".to_owned(),
        (Some("rule"), _) => match rules.last() {
            Some(rule) => format!("by {}", rule_name(rule)),
            None => "by a rule".to_owned(),
        },
        (Some("nothing"), _) => match rules.is_empty() {
            true => "not listed there".to_owned(),
            false => "not listed there, and no rule takes it in".to_owned(),
        },
        (Some("seen_before"), Some(true)) => "yes, see above".to_owned(),
        (Some("seen_before"), _) => "no, see above".to_owned(),
        (Some("undecidable") | None, _) => {
            "this cannot be decided: the segment is missing or not sound".to_owned()
        }
        (Some(other), _) => word(other),
    }
}

/// `rule 2 eu-beta`; a rule without an id of its own has only its place.
fn rule_name(rule: &Value) -> String {
    let place = rule["place"].as_u64().unwrap_or(0).saturating_add(1);
    match rule["rule_id"].as_str() {
        Some(id) if *id != format!("rule-{place}") => format!("rule {place} {}", word(id)),
        _ => format!("rule {place}"),
    }
}

fn half_open(share: &Value) -> String {
    format!("[{}, {})", share["from"], share["to"])
}

fn is_within(share: &Value, bucket: &Value) -> bool {
    let number = |value: &Value| value.as_u64();
    match (number(&share["from"]), number(&share["to"]), number(bucket)) {
        (Some(from), Some(to), Some(bucket)) => (from..to).contains(&bucket),
        _ => false,
    }
}

fn percent(share: &Value, total: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let weight = number(&share["to"]).saturating_sub(number(&share["from"]));
    let of = number(total).max(1);
    format!("{}%", (weight as f64 * 1000.0 / of as f64).round() / 10.0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn name(value: &Value) -> String {
    word(value.as_str().unwrap_or("?"))
}

/// Text from the cluster on one line.
fn word(text: &str) -> String {
    shown(&text.replace('\n', "\\n"))
}

/// A value as JSON, cut. Numbers are read as f64, so a whole one shows without `.0`.
fn json(value: &Value, chars_max: usize) -> String {
    let text = match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) if number.abs() < 1e16 => number.to_string(),
            _ => number.to_string(),
        },
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| json(item, chars_max)).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    };
    cut(&shown(&text), chars_max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(answer: &Value) -> Vec<String> {
        tree(&Terminal::PLAIN, answer).lines().to_vec()
    }

    fn of_steps(steps: Value) -> Vec<String> {
        lines(&json!({"variant": "on", "trace": {"steps": steps, "truncated": false}}))
    }

    fn of_clause(clause: Value) -> Vec<String> {
        let rule = json!({"step": "rule", "rule_id": "r", "place": 0, "clauses": [clause], "holds": false});
        of_steps(json!([rule])).split_off(1)
    }

    fn rollout(bucket: Value, shares: usize) -> Value {
        let shares: Vec<Value> = (0..shares)
            .map(|n| json!({"variant": format!("v{n}"), "from": n * 10, "to": (n + 1) * 10}))
            .collect();
        json!({"algorithm": "murmur3-v1", "bucket_by": "team", "input": "saltred", "total": 200, "bucket": bucket,
            "shares": shares})
    }

    #[test]
    fn of_many_shares_only_the_one_served_is_shown() {
        let of = |bucket, shares| {
            of_steps(json!([{"step": "default", "rollout": rollout(bucket, shares)}]))
        };
        assert_eq!(
            of(json!(25), 20),
            [
                "✓ default serves on",
                "  · bucket 25 of 200 = murmur3-v1(\"saltred\"), by team",
                "    ✓ v2      5%  [20, 30)",
                "    · … and 19 more",
            ]
        );
        assert_eq!(of(json!(25), 8).len(), 10);
        // Borders belong to the share that begins there.
        assert!(
            of(json!(30), 8)[5].contains("✓ v3"),
            "{:?}",
            of(json!(30), 8)
        );
        assert!(of(json!(29), 8)[4].contains("✓ v2"));
    }

    #[test]
    fn without_a_bucket_the_last_share_is_served() {
        let mut rollout = rollout(Value::Null, 2);
        rollout["input"] = Value::Null;
        assert_eq!(
            of_steps(json!([{"step": "default", "rollout": rollout}])),
            [
                "✓ default serves on",
                "  · no bucket: team of the subject is neither text nor a whole number; so the last variant is served",
                "    · v0     5%  [0, 10)",
                "    ✓ v1     5%  [10, 20)",
            ]
        );
    }

    #[test]
    fn segments_say_why() {
        let segments: Vec<Value> = [
            (json!(false), "excluded"),
            (json!(false), "nothing"),
            (json!(true), "seen_before"),
            (json!(false), "seen_before"),
            (Value::Null, "undecidable"),
        ]
        .into_iter()
        .map(|(within, by)| json!({"segment": by, "within": within, "by": by}))
        .collect();
        let clause = json!({"op": "in_segment", "values": ["a", "b"], "negate": true});
        let step =
            json!({"clause": clause, "outcome": "undecided", "holds": false, "segments": segments});
        assert_eq!(
            of_clause(step),
            [
                "  ✗ not in segment a, b  (one of them cannot be decided, and it is in no other)",
                "    ✗ segment excluded  (excluded by its key)",
                "    ✗ segment nothing  (not listed there)",
                "    ✓ segment seen_before  (yes, see above)",
                "    ✗ segment seen_before  (no, see above)",
                "    · segment undecidable  (this cannot be decided: the segment is missing or not sound)",
            ]
        );
    }

    #[test]
    fn comparisons_say_what_the_subject_has() {
        let line = |clause: Value, found: Value, outcome: &str, holds: bool| {
            of_clause(json!({"clause": clause, "found": found, "outcome": outcome, "holds": holds}))
                .join("|")
        };
        let exists = |negate: bool| json!({"attribute": "a", "op": "exists", "negate": negate});
        for (found, clause, outcome, holds, expected) in [
            (
                json!(1.0),
                exists(false),
                "match",
                true,
                "✓ a exists  (it is 1)",
            ),
            (
                Value::Null,
                exists(false),
                "no_match",
                false,
                "✗ a exists  (the subject has none)",
            ),
            (
                Value::Null,
                exists(true),
                "no_match",
                true,
                "✓ a does not exist  (the subject has none)",
            ),
            (
                json!([1.5, "x", true]),
                json!({"attribute": "a", "op": "gt", "values": [2.0, -1e300], "negate": true}),
                "no_match",
                true,
                "✓ not a gt 2, -1e+300  (it is [1.5, \"x\", true])",
            ),
            (
                json!("soon"),
                json!({"attribute": "a", "op": "before", "values": ["2026-01-01T00:00:00Z"]}),
                "wrong_type",
                false,
                "✗ a before \"2026-01-01T00:00:00Z\"  (it is the text \"soon\", wrong type: not a time)",
            ),
            (
                json!(true),
                json!({"attribute": "a", "op": "in", "values": [1.0]}),
                "wrong_type",
                false,
                "✗ a in 1  (it is true, wrong type: no value is of that type)",
            ),
        ] {
            assert_eq!(line(clause, found, outcome, holds), format!("  {expected}"));
        }
    }

    #[test]
    fn only_what_should_have_been_text_is_offered_as_text() {
        let not_text = |op: &str, value: Value, found: Value| {
            let clause = json!({"attribute": "a", "op": op, "values": [value]});
            let clause =
                json!({"clause": clause, "found": found, "outcome": "wrong_type", "holds": false});
            let rule = json!({"step": "rule", "place": 0, "clauses": [clause], "holds": false});
            let answer = json!({"trace": {"steps": [rule]}});
            !tree(&Terminal::PLAIN, &answer).not_text().is_empty()
        };
        for op in ["semver_gte", "in_cidr", "matches", "contains", "in"] {
            assert!(not_text(op, json!("1"), json!(1.0)), "{op}");
            assert!(!not_text(op, json!("1"), json!("x")), "{op}");
        }
        assert!(!not_text("lt", json!(1.0), json!("x")));
        assert!(!not_text("in", json!(1.0), json!(true)));
    }

    #[test]
    fn long_lists_and_values_are_cut() {
        let values: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(any_of(&values, 0), "0, 1, 2, 3, 4, 5, 6, 7, 8");
        assert_eq!(any_of(&values, 80), "0, 1, 2, 3, 4, 5, 6, 7, … and 81 more");
        let text = json(&json!("x".repeat(1_000)), VALUE_CHARS_MAX);
        assert_eq!(text.chars().count(), VALUE_CHARS_MAX);
    }

    #[test]
    fn what_is_not_shown_or_not_known_is_said() {
        let lines = lines(&json!({"trace": {"truncated": true, "steps": [
            {"step": "prerequisite", "flag": "f", "accepts": ["a", "b"], "found": "a", "holds": true, "steps": []},
            {"step": "prerequisite", "flag": "g", "accepts": ["a"], "found": null, "holds": false, "steps": []},
            {"step": "oracle"}]}}));
        assert_eq!(
            lines,
            [
                "✓ prerequisite f at a, b  (it is at a, see above)",
                "✗ prerequisite g at a  (it is missing, archived, disabled or cannot be decided): serves the off variant",
                "· {\"step\":\"oracle\"}",
                "· … and more steps than are shown; they are part of the decision",
            ]
        );
    }
}
