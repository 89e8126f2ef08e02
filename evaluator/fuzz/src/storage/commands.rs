//! Log entries, snapshot records and lines of history.
//!
//! The first byte of an entry says whether length and crc are made right first (1), and whether the
//! batch is decided at the version that the machine has (2): a changed one otherwise never is.
//!
//! What must hold: whatever the bytes, two machines that hold the same, one of them loaded from a
//! snapshot, answer the same and hold the same afterwards, a snapshot of which can be loaded (I11);
//! what they serve then is answered as hostile states are. What decodes has one form (I4).

use std::sync::LazyLock;

use bytes::Bytes;
use pennon_evaluator::{EnvironmentKey, StateKey, StateKind, Version};
use pennon_raft_store::codec::{self, HEADER_LEN};
use pennon_raft_store::command::{
    Batch, Change, ClusterId, Command, CompiledChange, Expected, Item, ObjectId, Origin, Outcome,
    Refusal, RequestId, Verdict, Write,
};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{
    Answer, COMMAND_FORMAT, Entry, Machine, MachineHead, Since, SnapshotRecord,
};
use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};

use crate::targets::{DECODING, Seen, USING_PATTERNS, snapshots};

/// Of lines of history, as the machine writes them.
const CHANGE_FORMAT: u8 = 1;

pub(crate) fn entry(input: &[u8], seen: &mut Seen) {
    let Some((mend, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mend & 1 == 1 {
        sealed(&mut bytes);
    }
    let read = || codec::decode::<Command>(COMMAND_FORMAT, &bytes);
    let decoded = DECODING.bounds_reading(bytes.len(), read);
    if let Ok(Command::Batch(mut batch)) = decoded {
        let again = codec::encode(COMMAND_FORMAT, &Command::Batch(batch.clone()));
        assert_eq!(
            again.as_deref(),
            Ok(&bytes[..]),
            "I4: two forms of one entry"
        );
        if mend & 2 == 2 {
            batch.base = machine().version();
            bytes = codec::encode(COMMAND_FORMAT, &Command::Batch(batch))
                .unwrap()
                .to_vec();
        }
        USING_PATTERNS.bounds(bytes.len(), || apply(&bytes, seen));
    } else {
        apply(&bytes, seen);
    }
}

fn apply(bytes: &[u8], seen: &mut Seen) {
    let (mut one, mut two) = (machine().clone(), loaded(machine()));
    let id = LogId {
        term: 1,
        index: one.applied().map_or(1, |id| id.index + 1),
    };
    let a = one.apply(id, Entry::Command(bytes));
    let b = two.apply(id, Entry::Command(bytes));
    assert_eq!((&a.answer, a.version), (&b.answer, b.version), "I11");
    assert_eq!(a.changes, b.changes, "I11");
    assert_eq!(one.digest(), two.digest(), "I11");
    assert_eq!(loaded(&one).digest(), one.digest(), "I11");
    seen.note(match a.answer {
        Answer::Blank => "blank",
        Answer::Outcomes(_) => "outcomes",
        Answer::TryAgain => "try again",
        Answer::Unreadable(_) => "unreadable",
        Answer::Level(_) => "level",
    });
    for environment in one.environments() {
        if let Some(config) = one.config_snapshot(environment) {
            snapshots::loaded(&config, seen);
        }
        if let Since::Changes(delta) = one.since(environment, machine().version()) {
            let _ = delta.to_json();
        }
    }
}

pub(crate) fn record(bytes: &[u8], seen: &mut Seen) {
    let read = || snapshots::positional::<SnapshotRecord>(bytes);
    let Ok(record) = DECODING.bounds_reading(bytes.len(), read) else {
        return seen.note("unreadable");
    };
    let again = snapshots::to_positional(&record);
    assert_eq!(again, bytes, "I4: two forms of one record");
    USING_PATTERNS.bounds(bytes.len(), || {
        let mut machine = Machine::from_head(&machine().head());
        self::machine().records().for_each(|r| machine.load(r));
        machine.load(record);
        let head = machine.head();
        let other = MachineHead {
            digest: head.digest.wrapping_add(1),
            ..head.clone()
        };
        assert!(machine.clone().loaded(&other).is_err());
        let machine = machine.loaded(&head).unwrap();
        for environment in machine.environments() {
            if let Some(config) = machine.config_snapshot(environment) {
                snapshots::loaded(&config, seen);
            }
        }
    });
}

pub(crate) fn change(input: &[u8], seen: &mut Seen) {
    let Some((mend, bytes)) = input.split_first() else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mend & 1 == 1 {
        sealed(&mut bytes);
    }
    let read = || codec::decode::<Change>(CHANGE_FORMAT, &bytes);
    match DECODING.bounds_reading(bytes.len(), read) {
        Ok(change) => {
            seen.note("change");
            let again = codec::encode(CHANGE_FORMAT, &change);
            assert_eq!(
                again.as_deref(),
                Ok(&bytes[..]),
                "I4: two forms of one line"
            );
            assert!(change.object.history_key().len() > 4);
        }
        Err(why) => {
            assert!(!why.to_string().is_empty());
            seen.note("unreadable");
        }
    }
}

/// Makes length and crc of a wrapped body right.
pub(crate) fn sealed(bytes: &mut [u8]) {
    if let Some((header, body)) = bytes.split_at_mut_checked(HEADER_LEN) {
        header[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[5..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
}

/// The machine as a snapshot would bring it back.
fn loaded(machine: &Machine) -> Machine {
    let head = machine.head();
    let mut loaded = Machine::from_head(&head);
    machine.records().for_each(|record| loaded.load(record));
    loaded.loaded(&head).unwrap()
}

fn e() -> EnvironmentKey {
    "e".parse().unwrap()
}

fn put(object: ObjectId, json: &str) -> AskedWrite {
    AskedWrite {
        object,
        ask: Ask::Put(json.into()),
        expected: Expected::Any,
    }
}

fn origin(key: Option<&str>) -> Origin {
    Origin {
        actor: "t".into(),
        request: key.map(|key| RequestId {
            key: key.into(),
            fingerprint: 7,
        }),
        reason: key.map(|_| "why".into()),
    }
}

const FLAG: &str = r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off"}"#;
const POLICY: &str = r#"{"enabled":true,"rules":[{"when":[{"op":"in_segment","values":["s"]}],
    "serve":{"variant":"on"}}],"default":{"variant":"off"}}"#;

/// Plans change sets as one batch, and applies it.
fn written(machine: &mut Machine, sets: Vec<(Vec<AskedWrite>, Option<&str>)>) -> Command {
    let mut draft = Draft::on(machine);
    let mut items = Vec::new();
    for (writes, key) in sets {
        let request = ChangeRequest {
            onto: None,
            writes,
            origin: origin(key),
        };
        if let Planned::Batched(item, _) = draft.plan(&request) {
            items.push(item);
        }
    }
    let base = draft.base();
    let command = Command::Batch(Batch {
        base,
        time_ms: 1_000,
        items,
    });
    let bytes = codec::encode(COMMAND_FORMAT, &command).unwrap();
    let id = LogId {
        term: 1,
        index: machine.applied().map_or(1, |id| id.index + 1),
    };
    let answer = machine.apply(id, Entry::Command(&bytes)).answer;
    assert!(matches!(answer, Answer::Outcomes(_)), "{answer:?}");
    command
}

/// A machine with one of everything, and the entries that made it.
fn made() -> &'static (Machine, Vec<Command>) {
    static MADE: LazyLock<(Machine, Vec<Command>)> = LazyLock::new(|| {
        let mut machine = Machine::new(ClusterId::new(7));
        let segment = ObjectId::segment(e(), "s");
        let first = vec![
            put(ObjectId::environment_object("e"), "{}"),
            put(ObjectId::flag("f"), FLAG),
            put(segment.clone(), r#"{"included":["a"]}"#),
            put(ObjectId::policy(e(), "f"), POLICY),
        ];
        let bad = vec![put(ObjectId::policy(e(), "f"), "{}")];
        let delete = AskedWrite {
            ask: Ask::Delete,
            ..put(segment.clone(), "")
        };
        let stale = AskedWrite {
            expected: Expected::At(Version::ZERO),
            ..put(segment.clone(), "{}")
        };
        let refused = vec![
            (bad, Some("k1")),
            (vec![delete], Some("k2")),
            (vec![stale], None),
            (vec![put(segment, "{}")], Some("k3")),
        ];
        let commands = vec![
            written(&mut machine, vec![(first, Some("k0"))]),
            written(&mut machine, refused),
        ];
        (machine, commands)
    });
    &MADE
}

fn machine() -> &'static Machine {
    &made().0
}

/// What no leader makes: see `raft-store/tests/machine/hostile.rs`.
fn mad() -> Command {
    let write = |object, value: Option<&str>| Write {
        object,
        value: value.map(Into::into),
        expected: Expected::Absent,
    };
    let state = machine().config_snapshot(&e()).unwrap().states()[0]
        .bytes()
        .clone();
    let compiled = CompiledChange {
        environment: e(),
        key: StateKey::new(StateKind::Segment, "other").unwrap(),
        state: Some(state),
        uses: vec![StateKey::new(StateKind::Flag, "ghost").unwrap()],
    };
    let verdict = Verdict::Commit {
        writes: vec![
            write(ObjectId::policy(e(), "x"), Some("not json")),
            write(ObjectId::environment_object("e"), None),
            write(ObjectId::environment_object("bad key\n"), Some("1")),
        ],
        compiled: vec![compiled],
        unchanged: Vec::new(),
    };
    let quota = Verdict::Refuse(Refusal::Quota {
        what: "flags".to_owned(),
        max: 1,
    });
    let items = [verdict, quota].map(|verdict| Item {
        origin: origin(Some("k0")),
        verdict,
    });
    Command::Batch(Batch {
        base: machine().version(),
        time_ms: u64::MAX,
        items: items.to_vec(),
    })
}

pub(crate) fn commands() -> Vec<Bytes> {
    let commands = made().1.iter().cloned().chain([mad()]);
    commands
        .map(|command| codec::encode(COMMAND_FORMAT, &command).unwrap())
        .collect()
}

pub(crate) fn entries() -> Vec<Vec<u8>> {
    let commands = commands();
    let steered = |steer: u8| {
        let commands = commands.iter();
        commands.map(move |command| [&[steer][..], command].concat())
    };
    [0, 1, 3].into_iter().flat_map(steered).collect()
}

pub(crate) fn all_records() -> Vec<Vec<u8>> {
    let history = SnapshotRecord::History(b"key".to_vec(), 7, Bytes::from_static(b"body"));
    let records = machine().records().chain([history]);
    records
        .map(|record| snapshots::to_positional(&record))
        .collect()
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    all_records()
}

pub(crate) fn changes() -> Vec<Vec<u8>> {
    let mut machine = Machine::new(ClusterId::new(7));
    let mut lines = Vec::new();
    for (n, command) in commands().iter().enumerate() {
        let id = LogId {
            term: 1,
            index: n as u64 + 1,
        };
        lines.extend(machine.apply(id, Entry::Command(command)).changes);
    }
    assert!(lines.len() > 3, "{}", lines.len());
    let encoded = lines
        .iter()
        .map(|line| codec::encode(CHANGE_FORMAT, line).unwrap());
    encoded.map(|line| [&[1], &line[..]].concat()).collect()
}

/// The header of snapshots, as far as it is public.
pub(crate) fn head() -> Vec<u8> {
    let outcome: Option<Outcome> = None;
    snapshots::to_positional(&(machine().head(), outcome))
}
