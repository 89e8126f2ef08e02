//! W2: change sets over a FlagConfig, its policy and a segment that the policy uses, or over the first alone;
//! every set gives values of its own, so whoever sees them sees which set each is from.
//!
//! Some sets wait until everybody has them, and what the node says of that is written down (D6).
//!
//! Readers take whole snapshots from any node, now and then: whoever does may act on what it got until the
//! staleness bound has gone by, so that only without them a receipt can say that all is settled. After the run the objects are read as of versions that
//! were served, which is what those snapshots must have been compiled from (I3, I4).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use pennon_evaluator::Digest;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Site;
use crate::failure::{Failure, Result};
use crate::history::{
    ChangeSet, Event, GroundAt, GroundObject, ObjectSeen, ReadSet, ReceiptSeen, Seen, ServedAt,
    ServedState, SetOutcome, Write,
};
use crate::http1::{Answer, Call, Connection, NoAnswer};

/// How many flags there are, each with a policy and a segment.
pub const PAIRS: usize = 6;
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Before the next try.
const PAUSE: Duration = Duration::from_millis(30);
/// How long a set waits for everybody to have it.
const RECEIPT_WAIT: Duration = Duration::from_millis(800);
/// Readers read for this time of every such period, all at the same time.
const READING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));
/// How often a set without an answer is sent again.
const RETRIES_MAX: u32 = 3;
/// Versions whose ground state is read after the run.
const GROUNDS_MAX: usize = 12;

/// The key of a pair's flag and segment.
pub fn key(pair: usize) -> String {
    format!("pair-{pair}")
}

/// What is shared by writers and readers.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    /// Versions that somebody served.
    served: Arc<Mutex<Vec<u64>>>,
}

/// Starts writers and readers under these client numbers.
pub fn start(site: &Site, writers: &[u32], readers: &[u32], pairs: &Pairs) -> JoinSet<Result<()>> {
    let mut clients = JoinSet::new();
    for client in writers {
        let worker = Worker::new(site, *client, pairs);
        clients.spawn(worker.write_on());
    }
    for client in readers {
        let worker = Worker::new(site, *client, pairs);
        clients.spawn(worker.read_on());
    }
    clients
}

/// The three objects of a pair, with the values that a token stands for.
fn objects(environment: &str, pair: usize, token: &str) -> [(&'static str, String, Value); 3] {
    // What follows from the token alone, so that a reader knows the values by it.
    let share = token.bytes().fold(7u32, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    let (share, key) = (share % 100, key(pair));
    let flag =
        json!({"type": "string", "variants": {"value": token, "off": "off"}, "off_variant": "off"});
    let policy = json!({"enabled": share % 10 > 0,
        "rules": [{"id": token, "when": [{"op": "in_segment", "values": [key]}], "serve": {"variant": "value"}}],
        "default": {"rollout": {"weights": [{"variant": "value", "weight": share},
            {"variant": "off", "weight": 100 - share}]}}});
    let segment = json!({"included": [token], "rules": [{"when": [],
        "rollout": {"share": share * 1_000, "of": 100_000}}]});
    [
        ("flag", format!("flag/{key}"), flag),
        ("policy", format!("policy/{environment}/{key}"), policy),
        ("segment", format!("segment/{environment}/{key}"), segment),
    ]
}

struct Worker {
    site: Site,
    client: u32,
    random: StdRng,
    pairs: Pairs,
    node: usize,
    count: u64,
    connection: Option<Connection>,
    /// The version of each pair as this client knows it.
    known: BTreeMap<usize, u64>,
}

impl Worker {
    fn new(site: &Site, client: u32, pairs: &Pairs) -> Worker {
        Worker {
            site: site.clone(),
            client,
            random: site.random(client),
            pairs: pairs.clone(),
            node: client as usize,
            count: 0,
            connection: None,
            known: BTreeMap::new(),
        }
    }

    async fn write_on(mut self) -> Result<()> {
        while !self.site.is_over() {
            let pair = self.random.random_range(0..PAIRS);
            self.write(pair).await;
            let pause = Duration::from_millis(self.random.random_range(20..=150));
            self.site.rest(pause).await;
        }
        Ok(())
    }

    async fn write(&mut self, pair: usize) {
        self.count += 1;
        let token = format!("s{}.c{}.{}", self.site.seed, self.client, self.count);
        let mut writes = objects(&self.site.environment, pair, &token).to_vec();
        // Sometimes the flag alone, where it has a policy: what is compiled of both changes, too.
        let alone = self.known.contains_key(&pair) && self.random.random_range(0..4) == 0;
        if alone {
            writes.truncate(1);
        }
        // Half of those who know what is there insist on it.
        let expected = match self.random.random_bool(0.5) {
            true => self.known.get(&pair).copied(),
            false => None,
        };
        let items = writes.iter().map(|(kind, _, value)| {
            let mut item = json!({"op": "put", "kind": kind, "key": key(pair), "value": value});
            if *kind != "flag" {
                item["environment"] = json!(&*self.site.environment);
            }
            if let Some(version) = expected {
                item["expected_version"] = json!(version);
            }
            item
        });
        let path = match self.random.random_range(0..3) {
            0 => format!(
                "/v1/changes?ack=delivered&timeout={}ms",
                RECEIPT_WAIT.as_millis()
            ),
            _ => "/v1/changes".to_owned(),
        };
        let call = Call::post(path, &Value::Array(items.collect())).request_id(&token);
        let invoked = self.site.recorder.now();
        let outcome = self.send(&call).await;
        match outcome {
            SetOutcome::Committed { version } if !alone => self.known.insert(pair, version),
            _ => self.known.remove(&pair),
        };
        let writes = writes.into_iter().map(|(_, object, value)| Write {
            object: object.into(),
            value: Some(value.to_string().into()),
        });
        self.site.recorder.add_event(Event::ChangeSet(ChangeSet {
            client: self.client,
            request: Some(token.into()),
            invoked,
            completed: self.site.recorder.now(),
            writes: writes.collect(),
            outcome,
        }));
    }

    /// Sends until there is an answer that says what happened.
    async fn send(&mut self, call: &Call) -> SetOutcome {
        let mut doubt = false;
        for _ in 0..=RETRIES_MAX {
            match self.attempt(call).await {
                Ok((_, answer)) => match outcome(&answer) {
                    Some(SetOutcome::Unknown) => doubt = true,
                    Some(decided) => {
                        if let SetOutcome::Committed { version } = decided {
                            self.note_receipt(version, &answer.json()["delivery"]);
                        }
                        return decided;
                    }
                    None => {}
                },
                Err(NoAnswer::NotSent(_)) => {}
                Err(NoAnswer::Lost(_)) => doubt = true,
            }
            self.connection = None;
            self.node += 1;
            tokio::time::sleep(PAUSE).await;
        }
        match doubt {
            true => SetOutcome::Unknown,
            false => SetOutcome::Refused,
        }
    }

    /// Writes down what a node said of who has a version, if it did.
    fn note_receipt(&self, version: u64, said: &Value) {
        let settled_in_ms = said["settled_in_ms"].as_u64();
        let Some((complete, settled_in_ms)) = said["complete"].as_bool().zip(settled_in_ms) else {
            return;
        };
        let laggards = said["laggards"].as_array().into_iter().flatten();
        let laggards = laggards.filter_map(|one| one["id"].as_str().map(Arc::from));
        self.site.recorder.add_event(Event::Receipt(ReceiptSeen {
            at: self.site.recorder.now(),
            client: self.client,
            environment: self.site.environment.clone(),
            version,
            complete,
            laggards: laggards.collect(),
            settled_in_ms,
        }));
    }

    /// One sending; also says which node it went to.
    async fn attempt(&mut self, call: &Call) -> Result<(u32, Answer), NoAnswer> {
        let (node, address) = self.site.way(self.client, self.node);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::dial(&self.site.dial, &address)
                .await
                .map_err(|why| NoAnswer::NotSent(why.to_string()))?,
        };
        let answer = connection.send(call, ANSWER_MAX).await?;
        self.connection = Some(connection);
        Ok((node, answer))
    }

    async fn read_on(mut self) -> Result<()> {
        while !self.site.is_over() {
            let (reading, period) = READING;
            let passed = u128::from(self.site.recorder.now()) % period.as_nanos();
            if passed >= reading.as_nanos() {
                self.site.rest(Duration::from_millis(100)).await;
                continue;
            }
            let path = format!("/v1/environments/{}/snapshot", self.site.environment);
            let invoked = self.site.recorder.now();
            let answered = self.attempt(&Call::get(path)).await;
            match answered {
                Ok((node, answer)) if answer.status == StatusCode::OK => {
                    self.note_snapshot(node, invoked, &answer.json())?;
                }
                _ => {
                    self.connection = None;
                    self.node += 1;
                }
            }
            if self.random.random_range(0..10) == 0 {
                self.connection = None;
                self.node += 1;
            }
            let pause = Duration::from_millis(self.random.random_range(50..=300));
            self.site.rest(pause).await;
        }
        Ok(())
    }

    fn note_snapshot(&self, node: u32, invoked: u64, snapshot: &Value) -> Result<()> {
        let served = served(&self.site, node, snapshot)
            .ok_or_else(|| Failure::during("a snapshot that cannot be read", snapshot))?;
        let version = served.version;
        self.pairs.note(version);
        let completed = served.at;
        self.site.recorder.add_event(Event::Served(served));
        let objects = (0..PAIRS).flat_map(|pair| seen(&self.site.environment, pair, snapshot));
        self.site.recorder.add_event(Event::ReadSet(ReadSet {
            client: self.client,
            invoked,
            completed,
            source: "snapshot".into(),
            linearizable: false,
            version,
            objects: objects.collect(),
        }));
        Ok(())
    }
}

impl Pairs {
    fn note(&self, version: u64) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if served.last() != Some(&version) {
            served.push(version);
        }
    }

    fn versions(&self) -> Vec<u64> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let mut versions = served.clone();
        versions.sort_unstable();
        versions.dedup();
        versions
    }
}

/// What the answer to a change set says; `None` if it was not taken and may be sent again.
fn outcome(answer: &Answer) -> Option<SetOutcome> {
    match answer.status {
        StatusCode::OK | StatusCode::CREATED => match answer.json()["version"].as_u64() {
            Some(version) => Some(SetOutcome::Committed { version }),
            None => Some(SetOutcome::Unknown),
        },
        StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Some(SetOutcome::Refused),
        StatusCode::SERVICE_UNAVAILABLE => None,
        _ => Some(SetOutcome::Unknown),
    }
}

fn served(site: &Site, node: u32, snapshot: &Value) -> Option<ServedAt> {
    let states = snapshot["states"].as_array()?.iter().map(|state| {
        let (kind, key) = (state["kind"].as_str()?, state["key"].as_str()?);
        Some(ServedState {
            key: format!("{kind}/{key}").into(),
            changed_at: state["changed_at"].as_u64()?,
            hash: serde_json::from_value::<Digest>(state["hash"].clone()).ok(),
        })
    });
    Some(ServedAt {
        at: site.recorder.now(),
        node,
        environment: site.environment.clone(),
        version: snapshot["version"].as_u64()?,
        digest: serde_json::from_value(snapshot["digest"].clone()).ok()?,
        states: states.collect::<Option<Vec<_>>>()?,
    })
}

/// What a snapshot shows of the objects of a pair, known by the tokens in the compiled states.
fn seen(environment: &str, pair: usize, snapshot: &Value) -> Vec<ObjectSeen> {
    let key = key(pair);
    let states = snapshot["states"].as_array().cloned().unwrap_or_default();
    let find = |kind: &str| {
        let mut found = states.iter();
        found.find(|state| state["kind"] == *kind && state["key"] == *key)
    };
    let (flag, segment) = (find("flag"), find("segment"));
    let parts = [
        flag.map(|flag| (&flag["config_at"], &flag["variants"]["value"])),
        flag.map(|flag| (&flag["policy_at"], &flag["rules"][0]["id"])),
        segment.map(|segment| (&segment["policy_at"], &segment["included"][0])),
    ];
    let all = parts.into_iter().enumerate().map(|(n, part)| {
        let found = part.and_then(|(version, token)| {
            let token = token.as_str()?;
            let (_, _, value) = objects(environment, pair, token)[n].clone();
            Some(Seen {
                version: version.as_u64()?,
                value: value.to_string().into(),
            })
        });
        let (_, object, _) = objects(environment, pair, "")[n].clone();
        ObjectSeen {
            object: object.into(),
            seen: found,
        }
    });
    all.collect()
}

/// Reads every object as of versions that were served, and what every node serves now.
///
/// # Errors
/// When something cannot be read.
pub async fn read_end(site: &Site, nodes: &[(u32, String)], pairs: &Pairs) -> Result<()> {
    for (node, address) in nodes {
        let path = format!("/v1/environments/{}/snapshot", site.environment);
        let answer = Call::get(path)
            .over(&site.dial, address, ANSWER_MAX)
            .await?;
        let served = served(site, *node, &answer.json())
            .ok_or_else(|| Failure::during("the last snapshot", answer.shown()))?;
        pairs.note(served.version);
        site.recorder.add_event(Event::Served(served));
    }
    let versions = pairs.versions();
    let last = versions.last().copied();
    let mut random = site.random(u32::MAX);
    let chosen: Vec<u64> = versions.sample(&mut random, GROUNDS_MAX).copied().collect();
    let address = nodes
        .first()
        .map(|(_, address)| address.as_str())
        .unwrap_or_default();
    for version in chosen.into_iter().chain(last) {
        ground(site, address, version, &mut random).await?;
    }
    Ok(())
}

/// Reads all objects of the pairs as of a version; nothing when the history does not go back so far.
async fn ground(site: &Site, address: &str, version: u64, random: &mut impl Rng) -> Result<()> {
    let mut objects = Vec::new();
    for pair in 0..PAIRS {
        let (key, environment) = (key(pair), &site.environment);
        for (kind, path) in [
            ("flag", format!("/v1/flags/{key}")),
            (
                "policy",
                format!("/v1/environments/{environment}/policies/{key}"),
            ),
            (
                "segment",
                format!("/v1/environments/{environment}/segments/{key}"),
            ),
        ] {
            let call = Call::get(format!("{path}/history?at={version}"));
            let answer = call.over(&site.dial, address, ANSWER_MAX).await?;
            let json = answer.json();
            match (answer.status, json["version"].as_u64()) {
                (StatusCode::OK, Some(at)) => objects.push(GroundObject {
                    kind: kind.into(),
                    key: key.as_str().into(),
                    version: at,
                    value: json["value"].to_string().into(),
                }),
                (StatusCode::NOT_FOUND, _) => {}
                _ if answer.slug() == "not-retained" => return Ok(()),
                _ => return Err(Failure::during(path, answer.shown())),
            }
        }
    }
    site.recorder.add_event(Event::Ground(GroundAt {
        environment: site.environment.clone(),
        version,
        objects: objects.clone(),
    }));
    let now = site.recorder.now();
    let seen = objects.into_iter().map(|one| {
        let scope = match &*one.kind {
            "flag" => String::new(),
            _ => format!("{}/", site.environment),
        };
        ObjectSeen {
            object: format!("{}/{scope}{}", one.kind, one.key).into(),
            seen: Some(Seen {
                version: one.version,
                value: one.value,
            }),
        }
    });
    site.recorder.add_event(Event::ReadSet(ReadSet {
        client: random.random_range(1_000..2_000),
        invoked: now,
        completed: now,
        source: "history".into(),
        linearizable: false,
        version,
        objects: seen.collect(),
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_which_set_its_states_are_from() {
        let snapshot = json!({"version": 9, "states": [
            {"kind": "flag", "key": "pair-0", "config_at": 7, "policy_at": 8, "variants": {"value": "t7"},
                "rules": [{"id": "t8"}]},
            {"kind": "segment", "key": "pair-0", "policy_at": 8, "included": ["t8"]}]});
        let found = seen("e", 0, &snapshot);
        let versions: Vec<u64> = found
            .iter()
            .map(|one| one.seen.as_ref().unwrap().version)
            .collect();
        assert_eq!(versions, [7, 8, 8]);
        let written = objects("e", 0, "t8");
        assert_eq!(
            *found[1].seen.as_ref().unwrap().value,
            *written[1].2.to_string()
        );
        assert_eq!(&*found[2].object, "segment/e/pair-0");
        assert!(seen("e", 1, &snapshot).iter().all(|one| one.seen.is_none()));
    }
}
