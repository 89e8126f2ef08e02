//! Two releases in one cluster: what only one of them can read is nowhere until all can, and then it
//! is the same everywhere. The older release is simulated: it knows no applications, no layers, and
//! no second format of states.

use bytes::Bytes;
use pennon_evaluator::StateKind;
use pennon_raft_store::codec::{self, Unreadable};
use pennon_raft_store::command::{
    Batch, ClusterId, Command, CompiledChange, ObjectKind, Outcome, Refusal, Verdict,
};
use pennon_raft_store::level::{FIRST_LEVEL, Features, Part};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT, Entry, Machine, SnapshotRecord};
use pennon_raft_store::plan::{AskedWrite, ChangeRequest, Draft, Planned};

use crate::support::{FLAG, POLICY, application, env, flag, named, policy, put, reload, request};

const BROUGHT: &[(Part, u32)] = &[
    (Part::Object(ObjectKind::Application), 2),
    (Part::Name(StateKind::Layer), 2),
    (Part::State(2), 3),
];
const OLDER: Features = Features::simulated(1, BROUGHT);
const NEWER: Features = Features::simulated(2, BROUGHT);

/// A rule with a layer, which states then name.
const LAYERED: &str = r#"{"enabled":true,"default":{"variant":"off"},"rules":[{"id":"r","when":[],
    "serve":{"rollout":{"weights":[{"variant":"on","weight":1},{"variant":"off","weight":1}],
    "experiment":{"key":"x","layer":{"key":"l","range":[0,5000]}}}}}]}"#;

/// One log, applied by a node of each release.
struct Mixed {
    older: Machine,
    newer: Machine,
    index: u64,
}

impl Mixed {
    fn new() -> Self {
        let machine = Machine::new(ClusterId::new(7));
        let mut mixed = Self {
            older: machine.clone().with_features(OLDER),
            newer: machine.with_features(NEWER),
            index: 0,
        };
        let writes = vec![
            put(env("e"), "{}"),
            put(flag("f"), FLAG),
            put(policy("f"), POLICY),
        ];
        mixed.written(&request(writes));
        mixed
    }

    /// Both apply an entry: they answer alike and hold the same.
    fn apply(&mut self, command: &Command) -> Answer {
        self.index += 1;
        let id = LogId {
            term: 1,
            index: self.index,
        };
        let bytes = codec::encode(COMMAND_FORMAT, command).unwrap();
        let [older, newer] = [&mut self.older, &mut self.newer]
            .map(|machine| machine.apply(id, Entry::Command(&bytes)).answer);
        assert_eq!(older, newer, "I11");
        assert_eq!(self.older.digest(), self.newer.digest(), "I4");
        newer
    }

    fn batch(&self, request: &ChangeRequest) -> Result<Batch, Refusal> {
        let mut draft = Draft::on(&self.newer);
        match draft.plan(request) {
            Planned::Batched(item, _) => Ok(Batch {
                base: draft.base(),
                time_ms: 1000,
                items: vec![item],
            }),
            Planned::Answered(Outcome::Refused { refusal, version }) => {
                assert_eq!(version, self.newer.version(), "I2");
                Err(refusal)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Writes through the newer node, which leads.
    fn written(&mut self, request: &ChangeRequest) {
        let batch = self.batch(request).unwrap();
        let answer = self.apply(&Command::Batch(batch));
        let Answer::Outcomes(outcomes) = &answer else {
            panic!("{answer:?}")
        };
        assert!(
            matches!(outcomes[..], [Outcome::Written { .. }]),
            "{outcomes:?}"
        );
    }

    fn refused(&self, writes: Vec<AskedWrite>) -> Refusal {
        self.batch(&request(writes)).unwrap_err()
    }
}

fn shop() -> AskedWrite {
    put(application("shop"), r#"{"tags":["checkout"]}"#)
}

const NEEDS_TWO: Refusal = Refusal::NotEnabled { needs: 2, level: 1 };

#[test]
fn a_newer_leader_refuses_what_an_older_member_cannot_read() {
    let mut mixed = Mixed::new();
    assert_eq!(mixed.newer.level(), FIRST_LEVEL);
    assert_eq!(mixed.refused(vec![shop()]), NEEDS_TWO);
    // Not all of it is new; it is one change set, so none of it happens.
    let both = vec![put(flag("g"), FLAG), shop()];
    assert_eq!(mixed.refused(both), NEEDS_TWO); // I3
    // An object of a kind that everybody knows, with something new in what follows from it.
    assert_eq!(mixed.refused(vec![put(policy("f"), LAYERED)]), NEEDS_TWO);
    mixed.written(&request(vec![put(flag("g"), FLAG)]));

    assert_eq!(mixed.apply(&Command::Raise(2)), Answer::Level(2));
    assert_eq!(OLDER.check(mixed.older.level()).unwrap_err().found, 2);
    // The older node stops there, and comes back as the newer release.
    mixed.older = reload(&mixed.older).with_features(NEWER);
    mixed.written(&request(vec![shop(), put(policy("f"), LAYERED)]));
    assert!(mixed.older.object(&application("shop")).is_some());
}

/// A refusal that passes is not the answer for good: the request succeeds under its own name later.
#[test]
fn a_refused_request_is_not_remembered() {
    let mut mixed = Mixed::new();
    let asked = named("r1", 5, vec![shop()]);
    assert_eq!(mixed.batch(&asked).unwrap_err(), NEEDS_TWO);
    let layered = named("r2", 6, vec![put(policy("f"), LAYERED)]);
    assert_eq!(mixed.batch(&layered).unwrap_err(), NEEDS_TWO);
    mixed.apply(&Command::Raise(2));
    mixed.older = mixed.older.with_features(NEWER);
    mixed.written(&asked);
    mixed.written(&layered); // I9
}

/// A leader that does not keep the rule, or an entry from elsewhere: nothing happens anywhere.
#[test]
fn an_entry_beyond_the_level_changes_nothing_on_any_node() {
    let mut mixed = Mixed::new();
    let ahead = {
        let mut ahead = mixed.newer.clone();
        let id = LogId {
            term: 1,
            index: mixed.index + 1,
        };
        let raise = codec::encode(COMMAND_FORMAT, &Command::Raise(3)).unwrap();
        ahead.apply(id, Entry::Command(&raise));
        ahead
    };
    let mut next_format = Draft::on(&mixed.newer);
    let Planned::Batched(mut item, _) = next_format.plan(&request(vec![put(policy("f"), POLICY)]))
    else {
        panic!()
    };
    if let Verdict::Commit { compiled, .. } = &mut item.verdict {
        compiled[0].state = Some(Bytes::from_static(&[2, 1, 1]));
    }
    let planned = |writes| {
        let mut draft = Draft::on(&ahead);
        match draft.plan(&request(writes)) {
            Planned::Batched(item, _) => item,
            other => panic!("{other:?}"),
        }
    };
    let (new_kind, new_name) = (
        planned(vec![shop()]),
        planned(vec![put(policy("f"), LAYERED)]),
    );
    for new in [item, new_kind, new_name] {
        let before = mixed.newer.digest();
        let answer = mixed.apply(&Command::Batch(Batch {
            base: mixed.newer.version(),
            time_ms: 1000,
            items: vec![new],
        }));
        assert_eq!(answer, Answer::Unreadable(Unreadable::Body));
        assert_eq!(mixed.newer.digest(), before, "I3");
    }
    mixed.written(&request(vec![put(flag("g"), FLAG)]));
}

#[test]
fn the_level_never_falls_and_is_part_of_the_state() {
    let mut machine = Machine::new(ClusterId::new(7)).with_features(Features::simulated(9, &[]));
    let mut raised = |to: u32| {
        let id = LogId {
            term: 1,
            index: machine.applied().map_or(1, |id| id.index + 1),
        };
        let bytes = codec::encode(COMMAND_FORMAT, &Command::Raise(to)).unwrap();
        let answer = machine.apply(id, Entry::Command(&bytes)).answer;
        assert_eq!(reload(&machine).level(), machine.level());
        (answer, machine.digest(), machine.records().count())
    };
    let (first, empty, records) = raised(1);
    // As before there were levels: nothing is stored, and the digest is that of the objects alone.
    assert_eq!((first, records), (Answer::Level(1), 0));
    assert_eq!(empty, Machine::new(ClusterId::new(7)).digest());
    let (third, at_three, _) = raised(3);
    assert_eq!(third, Answer::Level(3));
    assert_ne!(at_three, empty, "I4");
    for lower in [0, 1, 2, 3] {
        assert_eq!(raised(lower), (Answer::Level(3), at_three, 1));
    }
    let mut direct = Machine::new(ClusterId::new(7)).with_features(Features::simulated(9, &[]));
    direct.load(SnapshotRecord::Level(3));
    assert_eq!(direct.digest(), at_three, "the way there does not count");
}

/// What follows from a write is looked into, and its names as well.
#[test]
fn a_removed_state_needs_no_format() {
    let mut mixed = Mixed::new();
    let mut batch = mixed
        .batch(&request(vec![crate::support::delete(policy("f"))]))
        .unwrap();
    let Verdict::Commit { compiled, .. } = &mut batch.items[0].verdict else {
        panic!()
    };
    assert!(matches!(compiled[..], [CompiledChange { state: None, .. }]));
    assert!(matches!(
        mixed.apply(&Command::Batch(batch)),
        Answer::Outcomes(_)
    ));
}
