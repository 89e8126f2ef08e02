//! W1: many clients read and conditionally write a few hot flags, each write with a value and a
//! request id of its own.
//!
//! A register is the FlagConfig of a string flag with one variant; its value is the register's.
//! A request that was not answered is sent again under the same request id, to the next node, a few
//! times; it stays one operation, and of unknown outcome if no answer ever comes (I9).
//!
//! Clients go to another node now and then: one that was deposed and does not know it meets versions that it
//! has never seen. Every other client gives the node less time than it waits itself, so that the node says
//! what came of a write whose time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::checkers::durable::Final;
use crate::failure::{Failure, Result};
use crate::history::{
    Action, Attempt, Event, FinalRead, HistoryLine, Operation, Outcome, Recorder, Request, Seen,
};
use crate::http1::{Answer, Call, Connection, Dial, NoAnswer};

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long the nodes have where they are to say that the time is over.
const TIMEOUT: &str = "?timeout=800ms";
/// A client goes to another node after so many operations, on average.
const STAYS: u32 = 10;
/// After nobody could be reached, before the next try.
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// API addresses of the nodes, in their order; each client begins at another one.
    pub addresses: Vec<String>,
    /// The same for each client, where it has ways of its own; else empty.
    pub own: Vec<Vec<String>>,
    /// The flags that are written and never deleted.
    pub lasting: Vec<Arc<str>>,
    /// The flags that are deleted and created as well.
    pub passing: Vec<Arc<str>>,
    /// How many clients.
    pub clients: u32,
    /// How often every other client sends a request without an answer again. The rest give it up
    /// at once and leave it in doubt, so that histories hold both.
    pub retries_max: u32,
    /// Each client waits this long between two operations, so that a debug build on two cores has
    /// time for everything else.
    pub pause: Duration,
    /// Seeds what each client does.
    pub seed: u64,
    /// How connections are opened.
    pub dial: Dial,
}

/// The FlagConfig that holds a value.
pub fn flag_config(value: &str) -> Value {
    json!({"type": "string", "variants": {"value": value}, "off_variant": "value"})
}

/// The value that a FlagConfig holds.
pub fn value_of(config: &Value) -> Option<&str> {
    config["variants"]["value"].as_str()
}

/// The path of a register.
pub fn path_of(register: &str) -> String {
    format!("/v1/flags/{register}")
}

/// Clients at work.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Running {
    /// Lets every client finish what it is at.
    ///
    /// # Errors
    /// When one of them panicked.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(Failure::new)?;
        }
        Ok(())
    }
}

/// Starts the clients.
pub fn start(plan: &Plan, recorder: &Recorder) -> Running {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for client in 0..plan.clients {
        let worker = Worker {
            plan: plan.clone(),
            client,
            random: StdRng::seed_from_u64(
                plan.seed
                    .wrapping_mul(1_000)
                    .wrapping_add(u64::from(client)),
            ),
            known: BTreeMap::new(),
            node: client as usize,
            connection: None,
            recorder: recorder.clone(),
            count: 0,
            attempts: Vec::new(),
        };
        tasks.spawn(worker.run(stop.clone()));
    }
    Running { stop, tasks }
}

struct Worker {
    plan: Plan,
    client: u32,
    random: StdRng,
    /// The version of each register that this client saw last.
    known: BTreeMap<Arc<str>, Option<u64>>,
    node: usize,
    connection: Option<Connection>,
    recorder: Recorder,
    count: u64,
    /// Those of the operation under way.
    attempts: Vec<Attempt>,
}

impl Worker {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let lasting = self.plan.lasting.len();
            let at = self
                .random
                .random_range(0..lasting + self.plan.passing.len());
            let (register, passing) = match self.plan.lasting.get(at) {
                Some(register) => (register.clone(), false),
                None => (self.plan.passing[at - lasting].clone(), true),
            };
            let action = self.choose(&register, passing);
            self.perform(register, action).await;
            tokio::time::sleep(self.plan.pause).await;
        }
    }

    fn choose(&mut self, register: &Arc<str>, passing: bool) -> Action {
        let Some(expected) = self.known.get(register).copied() else {
            return Action::Read;
        };
        if self.random.random_range(0..5) == 0 {
            return Action::Read;
        }
        let deletes = passing && expected.is_some() && self.random.random_range(0..3) == 0;
        self.count += 1;
        let value = (!deletes).then(|| format!("{register}.{}.{}", self.client, self.count).into());
        Action::Write { value, expected }
    }

    async fn perform(&mut self, register: Arc<str>, action: Action) {
        self.count += 1;
        if self.random.random_range(0..STAYS) == 0 {
            self.connection = None;
            self.node += 1;
        }
        self.attempts.clear();
        // Some say nothing by which a request is known again: what a node does twice shows with them.
        let known = self.client % 4 != 3;
        let id = known.then(|| format!("s{}-c{}-{}", self.plan.seed, self.client, self.count));
        let timeout = if self.client % 2 == 1 { TIMEOUT } else { "" };
        let call = call(&register, timeout, &action, id.as_deref());
        let invoked = self.recorder.now();
        let outcome = self.send(&call, &action).await;
        match &outcome {
            Outcome::Read { seen, .. } | Outcome::Conflict { seen, .. } => {
                self.known
                    .insert(register.clone(), seen.as_ref().map(|seen| seen.version));
            }
            Outcome::Written { version } => {
                let exists = matches!(action, Action::Write { value: Some(_), .. });
                self.known
                    .insert(register.clone(), exists.then_some(*version));
            }
            Outcome::NotDone => {}
            Outcome::Unknown => {
                self.known.remove(&register);
            }
        }
        let completed = self.recorder.now();
        let operation = Operation {
            client: self.client,
            register,
            invoked,
            completed,
            action,
            outcome,
        };
        self.recorder.add_request(Request {
            operation,
            request: id.map(Into::into),
            attempts: std::mem::take(&mut self.attempts),
        });
    }

    /// Sends until there is an answer that says what happened.
    async fn send(&mut self, call: &Call, action: &Action) -> Outcome {
        let mut doubt = false;
        let retries_max = match self.client % 2 {
            0 => self.plan.retries_max,
            _ => 0,
        };
        for _ in 0..=retries_max {
            let sent = self.recorder.now();
            let answer = self.attempt(call).await;
            let told = match &answer {
                Ok(answer) => Some(outcome(action, answer)),
                Err(NoAnswer::Lost(_)) => Some(Outcome::Unknown),
                Err(NoAnswer::NotSent(_)) => None,
            };
            self.attempts.extend(told.map(|outcome| Attempt {
                node: u32::try_from(self.node % self.addresses().len()).ok(),
                sent,
                outcome,
            }));
            match answer {
                Ok(answer) => match outcome(action, &answer) {
                    // Refused on the way says nothing about an attempt before it.
                    Outcome::NotDone => {}
                    Outcome::Unknown => doubt = true,
                    decided => return decided,
                },
                Err(NoAnswer::NotSent(_)) => {}
                Err(NoAnswer::Lost(_)) => doubt = true,
            }
            self.connection = None;
            self.node += 1;
            tokio::time::sleep(PAUSE).await;
        }
        match doubt && *action != Action::Read {
            true => Outcome::Unknown,
            false => Outcome::NotDone,
        }
    }

    fn addresses(&self) -> &[String] {
        let own = self.plan.own.get(self.client as usize);
        own.unwrap_or(&self.plan.addresses)
    }

    async fn attempt(&mut self, call: &Call) -> Result<Answer, NoAnswer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let addresses = self.addresses();
                let address = &addresses[self.node % addresses.len()];
                Connection::dial(&self.plan.dial, address)
                    .await
                    .map_err(|why| NoAnswer::NotSent(why.to_string()))?
            }
        };
        let answer = connection.send(call, ANSWER_MAX).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn call(register: &str, timeout: &str, action: &Action, id: Option<&str>) -> Call {
    let path = path_of(register);
    let (call, expected) = match action {
        Action::Read => return Call::get(path),
        Action::Write {
            value: Some(value),
            expected,
        } => (Call::put(path + timeout, &flag_config(value)), expected),
        Action::Write {
            value: None,
            expected,
        } => (Call::delete(path + timeout), expected),
    };
    let call = match id {
        Some(id) => call.request_id(id),
        None => call,
    };
    match expected {
        Some(version) => call.if_at(*version),
        None => call.if_absent(),
    }
}

/// What an answer says. An answer that cannot be understood is of unknown outcome, which shows in
/// the verdict as too little traffic.
fn outcome(action: &Action, answer: &Answer) -> Outcome {
    let (json, decided) = (answer.json(), answer.decided());
    let writes = *action != Action::Read;
    let understood = match (answer.status, decided) {
        (StatusCode::OK, Some(decided)) if !writes => seen(&json).map(|seen| Outcome::Read {
            decided,
            seen: Some(seen),
        }),
        (StatusCode::NOT_FOUND, Some(decided)) if !writes => Some(Outcome::Read {
            decided,
            seen: None,
        }),
        (StatusCode::OK | StatusCode::CREATED, _) => json["version"]
            .as_u64()
            .map(|version| Outcome::Written { version }),
        (StatusCode::PRECONDITION_FAILED, Some(decided)) => {
            match json["current_version"].as_u64() {
                Some(0) => Some(Outcome::Conflict {
                    decided,
                    seen: None,
                }),
                _ => seen(&json["current"]).map(|seen| Outcome::Conflict {
                    decided,
                    seen: Some(seen),
                }),
            }
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => Some(Outcome::NotDone),
        _ => None,
    };
    understood.unwrap_or(if writes {
        Outcome::Unknown
    } else {
        Outcome::NotDone
    })
}

fn seen(object: &Value) -> Option<Seen> {
    let value = value_of(&object["value"])?;
    Some(Seen {
        version: object["version"].as_u64()?,
        value: value.into(),
    })
}

/// Reads every register and its history, after everything is healed.
///
/// # Errors
/// When one of them cannot be read.
pub async fn read_all(plan: &Plan, recorder: &Recorder) -> Result<BTreeMap<Arc<str>, Final>> {
    let mut end = BTreeMap::new();
    let mut connection = Connection::dial(&plan.dial, &plan.addresses[0]).await?;
    for register in plan.lasting.iter().chain(&plan.passing) {
        let invoked = recorder.now();
        let read = Call::get(path_of(register));
        let answer = connection
            .send(&read, ANSWER_MAX)
            .await
            .map_err(Failure::new)?;
        let outcome = outcome(&Action::Read, &answer);
        let Outcome::Read { seen, .. } = &outcome else {
            return Err(Failure::during(
                format!("the last read of {register}"),
                answer.shown(),
            ));
        };
        let seen = seen.clone();
        let (register, completed) = (register.clone(), recorder.now());
        let client = plan.clients;
        let action = Action::Read;
        recorder.add(Operation {
            client,
            register: register.clone(),
            invoked,
            completed,
            action,
            outcome,
        });
        let lines = history_of(&mut connection, &register).await?;
        let versions = lines.iter().map(|line| line.version).collect();
        recorder.add_event(Event::Final(FinalRead {
            register: register.clone(),
            seen: seen.clone(),
            whole: match lines.last() {
                Some(first) => is_whole(&mut connection, &register, first.version).await?,
                None => true,
            },
            history: lines,
        }));
        end.insert(register, Final { seen, versions });
    }
    Ok(end)
}

/// The history of a flag, newest first; empty when it never existed.
async fn history_of(connection: &mut Connection, register: &str) -> Result<Vec<HistoryLine>> {
    let (mut lines, mut before) = (Vec::new(), String::new());
    loop {
        let path = format!("{}/history?limit=100{before}", path_of(register));
        let answer = connection
            .send(&Call::get(path), ANSWER_MAX)
            .await
            .map_err(Failure::new)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(lines);
        }
        let json = answer.json();
        let Some(items) = json["items"].as_array() else {
            return Err(Failure::during(
                format!("the history of {register}"),
                answer.shown(),
            ));
        };
        lines.extend(items.iter().filter_map(|item| {
            Some(HistoryLine {
                version: item["version"].as_u64()?,
                previous: item["previous_version"].as_u64(),
                value: value_of(&item["value"]).map(Into::into),
                request: item["request_id"].as_str().map(Into::into),
            })
        }));
        match json["next"].as_str() {
            Some(next) => before = format!("&before={next}"),
            None => return Ok(lines),
        }
    }
}

/// Whether nothing was dropped from the history of a flag, which begins at `first`: only then does it
/// say that the flag did not exist before.
async fn is_whole(connection: &mut Connection, register: &str, first: u64) -> Result<bool> {
    let before = first.saturating_sub(1);
    let path = format!("{}/history?at={before}", path_of(register));
    let answer = connection.send(&Call::get(path), ANSWER_MAX).await;
    let answer = answer.map_err(Failure::new)?;
    match (answer.status, answer.slug().as_str()) {
        (StatusCode::NOT_FOUND, "not-found") => Ok(true),
        (_, "not-retained") => Ok(false),
        _ => Err(Failure::during(
            format!("{register} as of version {before}"),
            answer.shown(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, decided: &str, body: Value) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("pennon-version", decided.parse().unwrap());
        let body = body.to_string().into();
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body,
        }
    }

    #[test]
    fn answers_become_outcomes_and_doubt_stays_doubt() {
        let write = Action::Write {
            value: Some("a".into()),
            expected: Some(3),
        };
        let object = json!({"key": "r", "version": 3, "value": flag_config("x")});
        let found = Seen {
            version: 3,
            value: "x".into(),
        };
        let told = |action: &Action, status, body| outcome(action, &answer(status, "7", body));
        assert_eq!(
            told(&Action::Read, 200, object.clone()),
            Outcome::Read {
                decided: 7,
                seen: Some(found.clone())
            }
        );
        assert_eq!(
            told(&Action::Read, 404, json!({})),
            Outcome::Read {
                decided: 7,
                seen: None
            }
        );
        assert_eq!(
            told(&write, 200, json!({"version": 9})),
            Outcome::Written { version: 9 }
        );
        let conflict = json!({"current_version": 3, "current": object});
        assert_eq!(
            told(&write, 412, conflict),
            Outcome::Conflict {
                decided: 7,
                seen: Some(found)
            }
        );
        let absent = json!({"current_version": 0, "current": null});
        assert_eq!(
            told(&write, 412, absent),
            Outcome::Conflict {
                decided: 7,
                seen: None
            }
        );
        assert_eq!(told(&write, 503, json!({})), Outcome::NotDone);
        assert_eq!(told(&write, 504, json!({})), Outcome::Unknown);
        assert_eq!(told(&write, 500, json!({})), Outcome::Unknown);
        assert_eq!(told(&write, 412, json!({})), Outcome::Unknown);
        assert_eq!(told(&Action::Read, 504, json!({})), Outcome::NotDone);
    }
}
