//! What a stream is told next, decided from the version its client has. Pure.
//!
//! What must hold: ordered, gapless, whole versions (I3, I8), never below what the client has (I6),
//! and never longer silent than the heartbeat that was promised.

use std::time::Duration;

use pennon_evaluator::Version;
use pennon_evaluator::wire::Intent;

use super::shown::{Shown, Standing, heartbeat_of};

/// Where one stream stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Cursor {
    /// The version the client has; `None` before its first snapshot.
    version: Option<Version>,
    /// The staleness bound that it was told.
    bound: Option<Duration>,
    next_heartbeat: Duration,
    /// The part of the first interval that is left out.
    skipped: f64,
    /// Receipts were asked for up to this version.
    asked: Version,
}

/// What a stream does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Say hello, or say it again with another staleness bound: this will follow.
    Hello(Intent),
    /// Send everything.
    Snapshot,
    /// Send what changed since this version.
    Delta(Version),
    /// Say that nothing changed up to the version shown.
    Heartbeat,
    /// Ask for a receipt of this version.
    Acknowledge(Version),
    /// The environment is gone, or the client is ahead of anything this node can prove.
    Reset(&'static str),
    /// Wait for a change, at most until this moment of the cursor's clock.
    Wait(Duration),
}

impl Cursor {
    /// Starts a stream for a client that has `since`. The first heartbeat comes earlier by `skipped`
    /// of the interval, 0 to 1: streams that were opened together must not all beat together.
    pub fn new(since: Option<Version>, skipped: f64) -> Self {
        Self {
            version: since,
            bound: None,
            next_heartbeat: Duration::ZERO,
            skipped: skipped.clamp(0.0, 1.0),
            asked: Version::ZERO,
        }
    }

    /// The version the client has, if everything sent arrives.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Decides what comes next and assumes that it is sent; `now` is a reading of any monotonic clock.
    pub fn next(&mut self, shown: &Shown, now: Duration) -> Step {
        let standing = shown.standing(self.version);
        if standing == Standing::Gone {
            return Step::Reset("the environment or the application does not exist");
        }
        if standing == Standing::Ahead {
            return Step::Reset("this node is behind the version you have"); // I6
        }
        let heartbeat = heartbeat_of(shown.bound());
        if self.bound != Some(shown.bound()) {
            // Under the old one the client would call answers FRESH that no longer are. (I5)
            let part = 1.0 - self.skipped;
            let (due, first) = (now + heartbeat.mul_f64(part), self.bound.is_none());
            self.bound = Some(shown.bound());
            self.next_heartbeat = if first {
                due
            } else {
                self.next_heartbeat.min(due)
            };
            return Step::Hello(match standing {
                Standing::Nothing => Intent::None,
                Standing::Changes => Intent::Changes,
                _ => Intent::Full,
            });
        }
        let step = match (standing, self.version) {
            (Standing::Changes, Some(have)) => Step::Delta(have),
            (Standing::Nothing, Some(have)) if self.asks(shown.wanted, have) => {
                return Step::Acknowledge(shown.wanted);
            }
            (Standing::Nothing, _) if now >= self.next_heartbeat => Step::Heartbeat,
            (Standing::Nothing, _) => return Step::Wait(self.next_heartbeat),
            _ => Step::Snapshot,
        };
        // Whatever is sent carries the ages and brings the client to the version shown.
        self.version = Some(shown.view.version());
        self.next_heartbeat = now + heartbeat;
        step
    }

    /// Whether a receipt is wanted that was not asked for. Only of a version that was sent.
    fn asks(&mut self, wanted: Version, have: Version) -> bool {
        let asks = wanted > self.asked && have >= wanted;
        if asks {
            self.asked = wanted;
        }
        asks
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::hub::shown::Scope;
    use pennon_evaluator::EnvironmentKey;
    use pennon_raft_store::command::{ClusterId, Expected, ObjectId, Origin};
    use pennon_raft_store::log::LogId;
    use pennon_raft_store::machine::{COMMAND_FORMAT, Entry, Machine};
    use pennon_raft_store::plan::{Ask, AskedWrite, ChangeRequest, Draft, Planned};
    use pennon_raft_store::{codec, command};
    use std::sync::Arc;

    /// The interval for the bound that the environment has here.
    const BEAT: Duration = Duration::from_secs(1);

    pub(in crate::hub) fn e() -> EnvironmentKey {
        "e".parse().unwrap()
    }

    pub(in crate::hub) fn write(machine: &mut Machine, object: ObjectId, json: &str) {
        let writes = vec![AskedWrite {
            object,
            ask: Ask::Put(json.into()),
            expected: Expected::Any,
        }];
        let origin = Origin {
            actor: "t".into(),
            request: None,
            reason: None,
        };
        let mut draft = Draft::on(machine);
        let Planned::Batched(item, _) = draft.plan(&ChangeRequest {
            writes,
            onto: None,
            origin,
        }) else {
            panic!()
        };
        let batch = command::Batch {
            base: machine.version(),
            time_ms: 0,
            items: vec![item],
        };
        let bytes = codec::encode(COMMAND_FORMAT, &command::Command::Batch(batch)).unwrap();
        let index = machine.version().get() + 1;
        machine.apply(LogId { term: 1, index }, Entry::Command(&bytes));
    }

    /// A machine with two environments and one segment in `e`, at version 3.
    pub(in crate::hub) fn machine() -> Machine {
        let mut machine = Machine::new(ClusterId::new(1));
        let environment = ObjectId::environment_object("e");
        write(&mut machine, environment, r#"{"staleness_bound_ms":4000}"#);
        write(&mut machine, ObjectId::environment_object("other"), "{}");
        write(&mut machine, ObjectId::segment(e(), "s"), "{}");
        machine
    }

    pub(in crate::hub) fn whole() -> Scope {
        Scope {
            environment: e(),
            application: None,
        }
    }

    pub(in crate::hub) fn shown(machine: &Machine) -> Shown {
        Shown::new(whole(), Arc::new(machine.clone()), None)
    }

    fn cursor(since: Option<u64>) -> Cursor {
        Cursor::new(since.map(|v| Version::new(v).unwrap()), 0.0)
    }

    #[test]
    fn a_new_stream_gets_hello_a_snapshot_and_then_what_happens() {
        let mut machine = machine();
        let mut cursor = cursor(None);
        let now = Duration::ZERO;
        assert_eq!(
            cursor.next(&shown(&machine), now),
            Step::Hello(Intent::Full)
        );
        assert_eq!(cursor.next(&shown(&machine), now), Step::Snapshot);
        assert_eq!(cursor.next(&shown(&machine), now), Step::Wait(BEAT));
        write(
            &mut machine,
            ObjectId::segment(e(), "s"),
            r#"{"included":["a"]}"#,
        );
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        // A slow reader: both changes in one delta, from exactly what it has. (I8)
        assert_eq!(
            cursor.next(&shown(&machine), now),
            Step::Delta(Version::new(3).unwrap())
        );
        assert_eq!(cursor.next(&shown(&machine), now), Step::Wait(BEAT));
    }

    #[test]
    fn a_change_elsewhere_is_told_by_the_next_heartbeat() {
        let mut machine = machine();
        let mut cursor = cursor(Some(3));
        assert_eq!(
            cursor.next(&shown(&machine), Duration::ZERO),
            Step::Hello(Intent::None)
        );
        write(
            &mut machine,
            ObjectId::segment("other".parse().unwrap(), "s"),
            "{}",
        );
        assert_eq!(
            cursor.next(&shown(&machine), Duration::ZERO),
            Step::Wait(BEAT)
        );
        assert_eq!(cursor.next(&shown(&machine), BEAT), Step::Heartbeat);
        assert_eq!(cursor.next(&shown(&machine), BEAT), Step::Wait(2 * BEAT));
        // The heartbeat carried version 4: the next delta starts there.
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        assert_eq!(
            cursor.next(&shown(&machine), BEAT),
            Step::Delta(Version::new(4).unwrap())
        );
    }

    #[test]
    fn a_resumer_gets_what_it_missed_or_a_snapshot_and_never_something_older() {
        let mut machine = machine();
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        let mut behind = cursor(Some(3));
        assert_eq!(
            behind.next(&shown(&machine), Duration::ZERO),
            Step::Hello(Intent::Changes)
        );
        assert_eq!(
            behind.next(&shown(&machine), Duration::ZERO),
            Step::Delta(Version::new(3).unwrap())
        );
        let mut ancient = cursor(Some(0));
        assert_eq!(
            ancient.next(&shown(&machine), Duration::ZERO),
            Step::Hello(Intent::Full)
        );
        assert_eq!(
            ancient.next(&shown(&machine), Duration::ZERO),
            Step::Snapshot
        );
        let mut ahead = cursor(Some(9));
        assert!(matches!(
            ahead.next(&shown(&machine), Duration::ZERO),
            Step::Reset(_)
        )); // I6
    }

    #[test]
    fn a_deleted_environment_ends_the_stream() {
        let mut machine = Machine::new(ClusterId::new(1));
        write(&mut machine, ObjectId::environment_object("e"), "{}");
        let mut cursor = cursor(None);
        assert_eq!(
            cursor.next(&shown(&machine), Duration::ZERO),
            Step::Hello(Intent::Full)
        );
        assert_eq!(
            cursor.next(&shown(&machine), Duration::ZERO),
            Step::Snapshot
        );
        let gone = Machine::new(ClusterId::new(1));
        assert!(matches!(
            cursor.next(&shown(&gone), Duration::ZERO),
            Step::Reset(_)
        ));
    }

    #[test]
    fn a_receipt_is_asked_for_once_and_only_of_what_was_sent() {
        let mut machine = machine();
        let mut cursor = cursor(Some(3));
        let now = Duration::ZERO;
        let wanting = |machine: &Machine, version| {
            let mut shown = shown(machine);
            shown.wanted = Version::new(version).unwrap();
            shown
        };
        assert_eq!(
            cursor.next(&shown(&machine), now),
            Step::Hello(Intent::None)
        );
        assert_eq!(cursor.next(&wanting(&machine, 4), now), Step::Wait(BEAT));
        write(&mut machine, ObjectId::segment(e(), "t"), "{}");
        let (three, four) = (Version::new(3).unwrap(), Version::new(4).unwrap());
        assert_eq!(cursor.next(&wanting(&machine, 4), now), Step::Delta(three));
        assert_eq!(
            cursor.next(&wanting(&machine, 4), now),
            Step::Acknowledge(four)
        );
        assert_eq!(cursor.next(&wanting(&machine, 4), now), Step::Wait(BEAT));
    }
}
