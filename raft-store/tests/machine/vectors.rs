//! Frozen bytes: what is in logs and snapshots for ever. A vector never changes; another layout is
//! another format number, and this one is read for ever.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use pennon_evaluator::{Fault, StateKey, StateKind, Version};
use pennon_raft_store::codec;
use pennon_raft_store::command::{
    Batch, Change, Command, CompiledChange, Expected, Item, ObjectId, Origin, Outcome, Refusal,
    RequestId, Verdict, Write, WriteResult,
};
use pennon_raft_store::machine::{COMMAND_FORMAT, Object, SnapshotRecord};
use pennon_raft_store::window::Remembered;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::{application, e, env, flag, policy, segment, setting};

fn v(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn origin() -> Origin {
    Origin {
        actor: "ana".into(),
        request: Some(RequestId {
            key: "r1".into(),
            fingerprint: 5,
        }),
        reason: Some("why".into()),
    }
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Conflict {
            object: policy("f"),
            expected: Expected::At(v(3)),
            found: None,
        },
        Refusal::NotFound { object: env("e") },
        Refusal::Invalid {
            write: 2,
            faults: vec![Fault::new("/a", "b")],
        },
        Refusal::InUse {
            object: segment("s"),
            users: vec!["x".into()],
        },
        Refusal::IdempotencyMismatch { key: "r1".into() },
        Refusal::Quota {
            what: "flags".into(),
            max: 9,
        },
    ]
}

fn command() -> Command {
    let expected = [Expected::Any, Expected::Absent, Expected::Present];
    let writes = expected.into_iter().map(|expected| Write {
        object: flag("f"),
        value: Some("{}".into()),
        expected,
    });
    let compiled = CompiledChange {
        environment: e(),
        key: StateKey::new(StateKind::Segment, "s").unwrap(),
        state: Some(Bytes::from_static(&[1, 2, 3])),
        uses: vec![StateKey::new(StateKind::Flag, "f").unwrap()],
    };
    let unchanged = WriteResult {
        object: policy("f"),
        version: v(4),
        previous: Some(v(3)),
    };
    let commit = Verdict::Commit {
        writes: writes.collect(),
        compiled: vec![compiled],
        unchanged: vec![unchanged],
    };
    let verdicts = std::iter::once(commit).chain(refusals().into_iter().map(Verdict::Refuse));
    let items = verdicts.map(|verdict| Item {
        origin: origin(),
        verdict,
    });
    Command::Batch(Batch {
        base: v(7),
        time_ms: 1_700_000_000_000,
        items: items.collect(),
    })
}

fn records() -> Vec<SnapshotRecord> {
    let object = Object {
        version: v(2),
        updated_ms: 3,
        updated_by: "ana".into(),
        value: "{}".into(),
    };
    let remembered = Remembered {
        sequence: 1,
        request: RequestId {
            key: "r1".into(),
            fingerprint: 5,
        },
        time_ms: 3,
        outcome: Outcome::Written {
            version: v(2),
            results: Vec::new(),
        },
    };
    vec![
        SnapshotRecord::Object(segment("s"), object),
        SnapshotRecord::State(
            e(),
            StateKey::new(StateKind::Flag, "f").unwrap(),
            Bytes::from_static(&[9]),
            Vec::new(),
        ),
        SnapshotRecord::ChangedAt(e(), v(2)),
        SnapshotRecord::Request(remembered),
        SnapshotRecord::History(vec![1, 2], 2, Bytes::from_static(&[8])),
    ]
}

/// What a state can name, by position: flag, segment, layer, experiment.
fn names() -> (CompiledChange, SnapshotRecord) {
    let kinds = [
        StateKind::Flag,
        StateKind::Segment,
        StateKind::Layer,
        StateKind::Experiment,
    ];
    let uses: Vec<StateKey> = kinds
        .into_iter()
        .map(|kind| StateKey::new(kind, "n").unwrap())
        .collect();
    let key = StateKey::new(StateKind::Flag, "f").unwrap();
    let bytes = Bytes::from_static(&[1, 2, 3]);
    let change = CompiledChange {
        environment: e(),
        key: key.clone(),
        state: Some(bytes.clone()),
        uses: uses.clone(),
    };
    (change, SnapshotRecord::State(e(), key, bytes, uses))
}

/// Objects of a kind that came later.
fn later(object: ObjectId) -> (Write, SnapshotRecord, Vec<u8>) {
    let write = Write {
        object: object.clone(),
        value: Some("{}".into()),
        expected: Expected::Any,
    };
    let stored = Object {
        version: v(2),
        updated_ms: 3,
        updated_by: "ana".into(),
        value: "{}".into(),
    };
    let history_key = object.history_key();
    (write, SnapshotRecord::Object(object, stored), history_key)
}

fn change() -> Change {
    Change {
        object: flag("f"),
        version: v(2),
        previous: Some(v(1)),
        time_ms: 3,
        origin: origin(),
        value: None,
    }
}

/// The bytes are those in the file (`PENNON_FREEZE=1` makes one that is not there), and the file gives the value back.
fn frozen<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, value: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/vectors")
        .join(name);
    let encoded = codec::encode(COMMAND_FORMAT, value).unwrap();
    let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
    if !path.exists() && std::env::var_os("PENNON_FREEZE").is_some() {
        std::fs::write(&path, format!("{hex}\n")).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    let bytes: Vec<u8> = text
        .split_whitespace()
        .flat_map(|line| line.as_bytes().chunks(2))
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    assert_eq!(encoded, bytes, "{name} is frozen; the bytes are now {hex}");
    assert_eq!(&codec::decode::<T>(COMMAND_FORMAT, &bytes).unwrap(), value);
}

#[test]
fn stored_bytes_are_frozen() {
    frozen("command-1.hex", &command());
    frozen("snapshot-records-1.hex", &records());
    frozen("change-1.hex", &change());
    frozen("names-1.hex", &names());
    frozen("settings-1.hex", &later(setting("limits")));
    frozen("applications-1.hex", &later(application("shop")));
    frozen(
        "levels-1.hex",
        &(Command::Raise(2), SnapshotRecord::Level(2)),
    );
}
