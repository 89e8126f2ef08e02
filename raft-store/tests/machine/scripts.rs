//! Scripts with a recorded transcript in `testdata/machine/`: why, commands, what came out.
//!
//! Record anew with `UPDATE_GOLDENFILES=1 cargo test -p pennon-raft-store --test machine scripts`,
//! then read the difference: commit only what you can explain.
//!
//! Objects are written `env/E`, `flag/F`, `policy/E/F`, `segment/E/S`. `put OBJECT JSON`, `delete
//! OBJECT` and `switch policy/E/F on|off` take `if=absent|present|VERSION` and `id=KEY`; several
//! in one change set follow each other in `change`. Between `begin` and `commit` change sets are
//! one batch. `blank`, `bytes`, `since E V`, `show`, `state`, `users` and `reload` do what they say.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use goldenscript::{Argument, Command as Line, Context};
use pennon_evaluator::{EnvironmentKey, StateKey, StateKind, Version};
use pennon_raft_store::command::{Expected, ObjectId, Outcome, Refusal};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Entry, Since};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest};

use crate::support::{Cluster, named, reload, request};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[test]
fn scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/machine");
    let mut run = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let mut script = Script {
            cluster: Cluster::new(),
            batch: None,
        };
        goldenscript::run(&mut script, entry.unwrap().path()).unwrap();
        run += 1;
    }
    assert!(run >= 4, "{run} scripts ran");
}

/// A line taken apart.
struct Words {
    name: String,
    words: Vec<String>,
    options: BTreeMap<String, String>,
}

struct Script {
    cluster: Cluster,
    batch: Option<Vec<ChangeRequest>>,
}

impl TryFrom<&Line> for Words {
    type Error = Box<dyn Error>;

    fn try_from(line: &Line) -> Result<Self> {
        let mut words = Self {
            name: line.name.clone(),
            words: Vec::new(),
            options: BTreeMap::new(),
        };
        for argument in &line.args {
            match argument {
                Argument::Positional(value) => words.words.push(value.clone()),
                Argument::KeyValue(key, value) => {
                    words.options.insert(key.clone(), value.clone());
                }
                other => return Err(format!("what is {other}?").into()),
            }
        }
        Ok(words)
    }
}

impl goldenscript::Runner for Script {
    type Command = Words;

    fn run(&mut self, line: &Words, _: &Context) -> Result<String> {
        let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
        let option = |key: &str| line.options.get(key).map(String::as_str);
        match (line.name.as_str(), words.as_slice()) {
            ("put" | "delete" | "switch", _) => {
                let mut words = words.clone();
                words.insert(0, &line.name);
                let mut writes = writes(&words)?;
                if let (Some(expected), Some(write)) = (option("if"), writes.first_mut()) {
                    write.expected = parse_expected(expected)?;
                }
                self.ask(writes, option("id"))
            }
            ("change", words) => self.ask(writes(words)?, option("id")),
            ("begin", []) => {
                self.batch = Some(Vec::new());
                Ok(String::new())
            }
            ("commit", []) => {
                let requests = self.batch.take().ok_or("nothing was begun")?;
                let outcomes = self.cluster.batch(&requests);
                let mut out = outcomes.iter().map(outcome).collect::<String>();
                if outcomes.len() < requests.len() {
                    writeln!(
                        out,
                        "{} left for the next batch",
                        requests.len() - outcomes.len()
                    )?;
                }
                Ok(out)
            }
            ("blank", []) => {
                self.cluster.log.push(bytes::Bytes::new());
                let index = self.cluster.log.len() as u64;
                self.cluster
                    .machine
                    .apply(LogId { term: 2, index }, Entry::Blank);
                Ok(format!("version {}\n", self.cluster.machine.version()))
            }
            ("bytes", [text]) => Ok(format!(
                "{:?}\n",
                self.cluster.apply_bytes(text.as_bytes().to_vec().into())
            )),
            ("since", [environment, version]) => self.since(environment, version),
            ("show", [object]) => Ok(match self.cluster.machine.object(&parse_object(object)?) {
                None => "absent\n".into(),
                Some(object) => format!("version {} {}\n", object.version, object.value),
            }),
            ("state", [environment, kind, key]) => self.state(environment, kind, key),
            ("users", [environment, kind, key]) => {
                let (environment, used) = (
                    EnvironmentKey::try_from(*environment)?,
                    state_key(kind, key)?,
                );
                let users = self.cluster.machine.users_of(&environment, &used);
                let users: Vec<String> = users.map(ToString::to_string).collect();
                Ok(format!(
                    "{}\n",
                    if users.is_empty() {
                        "nobody".into()
                    } else {
                        users.join(", ")
                    }
                ))
            }
            ("reload", []) => {
                self.cluster.machine = reload(&self.cluster.machine);
                Ok("the same digest\n".into())
            }
            _ => Err(format!("what is {} {words:?}?", line.name).into()),
        }
    }
}

impl Script {
    fn ask(&mut self, writes: Vec<AskedWrite>, id: Option<&str>) -> Result<String> {
        // What is asked is its own fingerprint.
        let fingerprint = format!("{writes:?}")
            .bytes()
            .fold(7u128, |sum, byte| sum.wrapping_mul(31) + u128::from(byte));
        let request = match id {
            Some(id) => named(id, fingerprint, writes),
            None => request(writes),
        };
        match &mut self.batch {
            Some(batch) => {
                batch.push(request);
                Ok(String::new())
            }
            None => Ok(self.cluster.batch(&[request]).iter().map(outcome).collect()),
        }
    }

    fn since(&self, environment: &str, version: &str) -> Result<String> {
        let environment = EnvironmentKey::try_from(environment)?;
        let have = Version::new(version.parse()?).ok_or("no version")?;
        Ok(match self.cluster.machine.since(&environment, have) {
            Since::Nothing => "nothing\n".into(),
            Since::Full => "full\n".into(),
            Since::Ahead => "ahead\n".into(),
            Since::Changes(delta) => {
                let mut out = format!("delta {} -> {}\n", delta.from, delta.to);
                for state in &delta.upserts {
                    writeln!(
                        out,
                        "  {} as of {}",
                        state.state_key(),
                        state.decode()?.changed_at()
                    )?;
                }
                for key in &delta.removals {
                    writeln!(out, "  {key} removed")?;
                }
                out
            }
        })
    }

    fn state(&self, environment: &str, kind: &str, key: &str) -> Result<String> {
        let environment = EnvironmentKey::try_from(environment)?;
        let here = self
            .cluster
            .machine
            .compiled(&environment)
            .ok_or("no such environment")?;
        Ok(match here.state(&state_key(kind, key)?) {
            None => "absent\n".into(),
            Some(state) => format!("{}\n", state.encoded.decode()?.to_json()),
        })
    }
}

fn writes(words: &[&str]) -> Result<Vec<AskedWrite>> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut next = || words.next().copied().ok_or("a word is missing");
        let object = parse_object(next()?)?;
        let ask = match *word {
            "put" => Ask::Put(next()?.into()),
            "delete" => Ask::Delete,
            "switch" => Ask::Enable(next()? == "on"),
            other => return Err(format!("what is {other}?").into()),
        };
        found.push(AskedWrite {
            object,
            ask,
            expected: Expected::Any,
        });
    }
    Ok(found)
}

fn parse_object(text: &str) -> Result<ObjectId> {
    let parts: Vec<&str> = text.split('/').collect();
    Ok(match parts.as_slice() {
        ["env", key] => ObjectId::environment_object(*key),
        ["flag", key] => ObjectId::flag(*key),
        ["policy", environment, key] => ObjectId::policy((*environment).try_into()?, *key),
        ["segment", environment, key] => ObjectId::segment((*environment).try_into()?, *key),
        _ => return Err(format!("{text} names no object").into()),
    })
}

fn state_key(kind: &str, key: &str) -> Result<StateKey> {
    let kinds = [
        StateKind::Flag,
        StateKind::Segment,
        StateKind::Layer,
        StateKind::Experiment,
    ];
    let kind = kinds.into_iter().find(|known| known.as_str() == kind);
    Ok(StateKey::new(kind.ok_or("no such kind")?, key)?)
}

fn parse_expected(text: &str) -> Result<Expected> {
    Ok(match text {
        "absent" => Expected::Absent,
        "present" => Expected::Present,
        version => Expected::At(Version::new(version.parse()?).ok_or("no version")?),
    })
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Written { version, results } => {
            let each = results.iter().map(|result| match result.previous {
                Some(previous) if previous == result.version => {
                    format!("{} already at {previous}", result.object)
                }
                Some(previous) => format!("{} {previous} -> {}", result.object, result.version),
                None => format!("{} new at {}", result.object, result.version),
            });
            format!(
                "written at {version}: {}\n",
                each.collect::<Vec<_>>().join(", ")
            )
        }
        Outcome::Refused { version, refusal } => {
            format!("refused at {version}: {}\n", why(refusal))
        }
    }
}

fn why(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Conflict {
            object,
            expected,
            found,
        } => {
            let found = found.map_or("absent".into(), |version| format!("at {version}"));
            format!("{object} expected {expected:?}, found {found}")
        }
        Refusal::NotFound { object } => format!("there is no {object}"),
        Refusal::Invalid { write, faults } => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            format!("write {write}: {}", faults.join("; "))
        }
        Refusal::InUse { object, users } => format!("{object} is used by {}", users.join("; ")),
        Refusal::IdempotencyMismatch { key } => format!("{key} was another request"),
        Refusal::Quota { what, max } => format!("at most {max} {what}"),
        Refusal::Moved => "the ground state is another one".into(),
        Refusal::NotEnabled { needs, level } => format!("needs level {needs}, not {level}"),
    }
}
