//! Values that people give: JSON from a file, stdin or the command line, and attributes.
//!
//! What must hold: nothing is sent that could not be read whole, and what could not be read is
//! named with its place.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Number, Value};

use super::failure::Failure;

/// The longest value that is read, in bytes: more than a node takes.
const INPUT_LEN_MAX: u64 = 256 << 20;

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct InputArgs {
    /// File that holds the value as JSON; - for stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The value as JSON
    #[arg(long, value_name = "JSON")]
    value: Option<String>,
}

impl InputArgs {
    /// Reads the value.
    pub(crate) fn read(&self) -> Result<Value, Failure> {
        match (&self.file, &self.value) {
            (Some(file), _) => read_file(file),
            (None, Some(text)) => parse("--value", text),
            (None, None) => Err(Failure::usage("give the value with --file or --value")),
        }
    }
}

/// Reads a JSON file; `-` is stdin.
pub(crate) fn read_file(file: &Path) -> Result<Value, Failure> {
    let (name, text) = if file == Path::new("-") {
        ("stdin".to_owned(), read_text(std::io::stdin().lock()))
    } else {
        (
            file.display().to_string(),
            std::fs::File::open(file).and_then(read_text),
        )
    };
    let text = text.map_err(|why| Failure::usage(format!("{name} cannot be read: {why}")))?;
    parse(&name, &text)
}

fn read_text(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(INPUT_LEN_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(name: &str, text: &str) -> Result<Value, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::usage(format!(
            "{name} is empty; a value is written as JSON"
        )));
    }
    serde_json::from_str(text).map_err(|why| Failure::usage(format!("{name} is not JSON: {why}")))
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AttributeArgs {
    /// Attribute of the subject; true, false and numbers are taken as such, all else as text
    #[arg(short = 'a', long = "attr", value_name = "NAME=VALUE")]
    plain: Vec<String>,

    /// Attribute that is text, whatever it looks like
    #[arg(long = "attr-str", value_name = "NAME=TEXT")]
    text: Vec<String>,

    /// Attribute as JSON, for lists
    #[arg(long = "attr-json", value_name = "NAME=JSON")]
    json: Vec<String>,
}

impl AttributeArgs {
    /// Reads the attributes.
    pub(crate) fn read(&self) -> Result<Value, Failure> {
        let mut attributes = Map::new();
        for (option, given, read) in [
            (
                "--attr",
                &self.plain,
                guessed as fn(&str) -> Result<Value, String>,
            ),
            ("--attr-str", &self.text, |text| Ok(text.into())),
            ("--attr-json", &self.json, |text| {
                serde_json::from_str(text).map_err(|why| why.to_string())
            }),
        ] {
            for pair in given {
                let (name, text) = split(option, pair)?;
                let value = read(text)
                    .map_err(|why| Failure::usage(format!("{option} {pair:?}: {why}")))?;
                if attributes.insert(name.to_owned(), value).is_some() {
                    return Err(Failure::usage(format!(
                        "the attribute {name:?} is given twice"
                    )));
                }
            }
        }
        Ok(Value::Object(attributes))
    }
}

/// Splits `NAME=VALUE`.
pub(crate) fn split<'a>(option: &str, pair: &'a str) -> Result<(&'a str, &'a str), Failure> {
    match pair.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim(), value)),
        _ => Err(Failure::usage(format!(
            "{option} {pair:?} is not of the form NAME=VALUE"
        ))),
    }
}

/// Reads a boolean or a number where the text is exactly one.
fn guessed(text: &str) -> Result<Value, String> {
    Ok(match text {
        "true" => true.into(),
        "false" => false.into(),
        text => text
            .parse::<Number>()
            .map_or_else(|_| text.into(), Value::Number),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn attributes(plain: &[&str], text: &[&str], json: &[&str]) -> Result<Value, Failure> {
        let owned = |given: &[&str]| given.iter().map(|pair| (*pair).to_owned()).collect();
        AttributeArgs {
            plain: owned(plain),
            text: owned(text),
            json: owned(json),
        }
        .read()
    }

    #[test]
    fn attributes_have_the_type_they_look_like() {
        let read = attributes(
            &[
                "a=true", "b=1.5", "c=-2", "d=DE", "e=007", "f=", "g=x=y", "h=null", "i= 1",
            ],
            &["j=true", "k=1"],
            &["l=[\"x\",1]"],
        );
        let expected = json!({"a": true, "b": 1.5, "c": -2, "d": "DE", "e": "007", "f": "", "g": "x=y",
            "h": "null", "i": " 1", "j": "true", "k": "1", "l": ["x", 1]});
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn attributes_that_are_none_are_refused() {
        for (plain, json) in [
            (&["novalue"][..], &[][..]),
            (&["=x"], &[]),
            (&["a=1", "a=2"], &[]),
            (&[], &["a=[1"]),
        ] {
            let failure = attributes(plain, &[], json).unwrap_err();
            assert_eq!(failure.code(), 2, "{plain:?} {json:?}");
        }
    }

    #[test]
    fn json_that_is_none_is_named_with_its_place() {
        let text = parse("f.json", "{\"a\":}").unwrap_err().text();
        assert!(
            text.contains("f.json") && text.contains("line 1 column 6"),
            "{text}"
        );
        assert!(parse("stdin", " \n").unwrap_err().text().contains("empty"));
    }
}
