//! Reading request bodies, so that everything wrong with them can be located.
//!
//! What must hold: a name given twice in one object is refused, and a syntax error names its line
//! and column. What JSON is here, the evaluator says.

use pennon_evaluator::StrictJson;
use serde_json::Value;

use super::problem::Problem;

/// Parses a body.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Problem> {
    match serde_json::from_slice::<StrictJson>(body) {
        Ok(StrictJson(value)) => Ok(value),
        Err(why) => Err(Problem::malformed(
            &why.to_string(),
            why.line(),
            why.column(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_numbers_are_kept() {
        let text = r#"{"b":[1,-2,2.5],"a":null}"#;
        assert_eq!(
            parse(text.as_bytes())
                .map(|value| value.to_string())
                .ok()
                .as_deref(),
            Some(text)
        );
    }

    #[test]
    fn faults_have_a_place() {
        let at = |text: &str| {
            let fields = parse(text.as_bytes()).unwrap_err().fields().clone();
            (
                fields["line"].as_u64().unwrap(),
                fields["column"].as_u64().unwrap(),
            )
        };
        assert_eq!(at("{\n  \"a\": tru }"), (2, 11));
        assert_eq!(at(""), (1, 0));
        assert_eq!(at("{\"a\":1,\"a\":2}").0, 1);
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        assert!(parse(b"\"\xff\"").is_err());
    }
}
