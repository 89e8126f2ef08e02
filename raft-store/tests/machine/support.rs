//! A leader and its log in the small, and short words for requests.

use bytes::Bytes;
use pennon_evaluator::{EnvironmentKey, Version};
use pennon_raft_store::codec;
use pennon_raft_store::command::{
    Batch, ClusterId, Command, Expected, ObjectId, Origin, Outcome, Refusal, RequestId,
};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT, Entry, Machine, SnapshotRecord};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};

pub(crate) const FLAG: &str =
    r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
pub(crate) const POLICY: &str = r#"{"enabled":true,"default":{"variant":"on"}}"#;

/// A leader and its log in the small.
pub(crate) struct Cluster {
    pub(crate) machine: Machine,
    pub(crate) log: Vec<Bytes>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::new(ClusterId::new(7)),
            log: Vec::new(),
        }
    }

    /// A cluster with the environment `e` and the flag `f`.
    pub(crate) fn with_flag() -> Self {
        let mut cluster = Self::new();
        cluster.written(vec![
            put(env("e"), "{}"),
            put(flag("f"), FLAG),
            put(policy("f"), POLICY),
        ]);
        cluster
    }

    /// Plans requests as one batch, applies it, and checks that it went as predicted.
    pub(crate) fn batch(&mut self, requests: &[ChangeRequest]) -> Vec<Outcome> {
        let mut draft = Draft::on(&self.machine);
        let (mut items, mut predicted, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            match draft.plan(request) {
                Planned::Batched(item, outcome) => {
                    items.push(item);
                    predicted.push(outcome.clone());
                    answers.push(outcome);
                }
                Planned::Answered(outcome) => answers.push(outcome),
                Planned::Later => {}
            }
        }
        let base = draft.base();
        if !items.is_empty() {
            let answer = self.apply(Command::Batch(Batch {
                base,
                time_ms: 1000,
                items,
            }));
            assert_eq!(
                answer,
                Answer::Outcomes(predicted),
                "what the leader predicts is what is applied"
            );
        }
        answers
    }

    pub(crate) fn apply(&mut self, command: Command) -> Answer {
        let bytes = codec::encode(COMMAND_FORMAT, &command).unwrap();
        self.apply_bytes(bytes)
    }

    pub(crate) fn apply_bytes(&mut self, bytes: Bytes) -> Answer {
        self.log.push(bytes.clone());
        let id = LogId {
            term: 1,
            index: self.log.len() as u64,
        };
        self.machine.apply(id, Entry::Command(&bytes)).answer
    }

    pub(crate) fn one(&mut self, writes: Vec<AskedWrite>) -> Outcome {
        self.batch(&[request(writes)]).remove(0)
    }

    pub(crate) fn written(&mut self, writes: Vec<AskedWrite>) -> Version {
        match self.one(writes) {
            Outcome::Written { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, writes: Vec<AskedWrite>) -> Refusal {
        let before = self.machine.digest();
        match self.one(writes) {
            Outcome::Refused { refusal, version } => {
                assert!(
                    version <= self.machine.version(),
                    "a refusal says what it was decided at"
                ); // I2
                assert_eq!(before, self.machine.digest(), "a refusal changes nothing"); // I3
                refusal
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn e() -> EnvironmentKey {
    "e".parse().unwrap()
}

pub(crate) fn env(key: &str) -> ObjectId {
    ObjectId::environment_object(key)
}

pub(crate) fn flag(key: &str) -> ObjectId {
    ObjectId::flag(key)
}

pub(crate) fn policy(key: &str) -> ObjectId {
    ObjectId::policy(e(), key)
}

pub(crate) fn segment(key: &str) -> ObjectId {
    ObjectId::segment(e(), key)
}

pub(crate) fn setting(name: &str) -> ObjectId {
    ObjectId::setting(name)
}

pub(crate) fn application(key: &str) -> ObjectId {
    ObjectId::application(key)
}

/// FLAG with tags.
pub(crate) fn tagged(tags: &[&str]) -> String {
    let tags = format!("{{\"tags\":{tags:?},");
    FLAG.replacen('{', &tags, 1)
}

pub(crate) fn put(object: ObjectId, json: &str) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Put(json.into()),
        expected: Expected::Any,
    }
}

pub(crate) fn delete(object: ObjectId) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Delete,
        expected: Expected::Any,
    }
}

pub(crate) fn switch(key: &str, on: bool) -> AskedWrite {
    AskedWrite {
        object: policy(key),
        ask: Ask::Enable(on),
        expected: Expected::Any,
    }
}

pub(crate) fn if_at(mut write: AskedWrite, expected: Expected) -> AskedWrite {
    write.expected = expected;
    write
}

pub(crate) fn request(writes: Vec<AskedWrite>) -> ChangeRequest {
    ChangeRequest {
        onto: None,
        writes,
        origin: Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        },
    }
}

pub(crate) fn named(key: &str, fingerprint: u128, writes: Vec<AskedWrite>) -> ChangeRequest {
    let mut request = request(writes);
    request.origin.request = Some(RequestId {
        key: key.into(),
        fingerprint,
    });
    request
}

/// The machine as a snapshot would bring it back.
pub(crate) fn reload(machine: &Machine) -> Machine {
    let head = machine.head();
    let mut loaded = Machine::from_head(&head);
    for record in machine.records() {
        let bytes = codec::encode(1, &record).unwrap();
        loaded.load(codec::decode::<SnapshotRecord>(1, &bytes).unwrap());
    }
    loaded.loaded(&head).unwrap()
}
