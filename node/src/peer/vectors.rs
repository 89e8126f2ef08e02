//! Frozen bytes of what nodes say to each other: a node of the release before this one has to read
//! them. A vector never changes; another layout is another format number or another call.
//!
//! `PENNON_FREEZE=1` writes vectors that are not there yet, for a new message.

use std::fmt::Debug;
use std::path::Path;

use pennon_evaluator::Digest;
use pennon_raft_store::command::{
    Expected, ObjectId, Origin, Outcome, Refusal, RequestId, WriteResult,
};
use pennon_raft_store::plan::{Ask, AskedWrite};

use super::forward::WriteReply;
use super::*;
use crate::hub::receipts::{Count, Known, Present};
use crate::space::Shortage;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a message are those in the file, and the file gives the message back.
fn frozen<T: Serialize + DeserializeOwned + Debug>(name: &str, message: &T) {
    let now = codec::encode(FORMAT, message).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/peer");
    let path = path.join(format!("{name}-1.hex"));
    if !path.exists() && std::env::var_os("PENNON_FREEZE").is_some() {
        let lines = now.chunks(40).map(|line| hex(line) + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let text: String = text.split_whitespace().collect();
    assert_eq!(hex(&now), text, "{name} is frozen");
    let pairs = text.as_bytes().chunks(2);
    let bytes: Vec<u8> = pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let read: T = codec::decode(FORMAT, &bytes).unwrap();
    assert_eq!(format!("{read:?}"), format!("{message:?}"), "{name}");
}

fn v(number: u64) -> Version {
    Version::new(number).unwrap()
}

fn cluster() -> ClusterId {
    ClusterId::new(0xc1)
}

fn environment() -> EnvironmentKey {
    "e".parse().unwrap()
}

fn member() -> Member {
    Member {
        name: "n1".into(),
        api: "a:1".into(),
        peer: "p:2".into(),
    }
}

#[test]
fn calls_before_there_is_a_cluster_are_frozen() {
    frozen("hello", &());
    let hello = Hello {
        node: 1,
        member: member(),
        cluster: Some(cluster()),
        formed: true,
        expect: 3,
        learner: false,
        feature_level: 1,
        cluster_level: Some(1),
    };
    frozen("hello-answer", &hello);
    let members = BTreeMap::from([(1, member())]);
    let cluster = cluster();
    frozen("join", &Invitation { cluster, members });
    frozen("join-answer", &Ok::<(), String>(()));
    frozen("join-refused", &Err::<(), _>("why".to_owned()));
}

#[test]
fn calls_about_members_are_frozen() {
    let announcement = Announcement {
        cluster: cluster(),
        node: 1,
        member: member(),
    };
    frozen("announce", &announcement);
    frozen("announce-answer", &true);
    for (name, change) in [
        ("add-learner", MemberChange::AddLearner(member())),
        ("promote", MemberChange::Promote),
        ("demote", MemberChange::Demote),
        ("remove", MemberChange::Remove),
        ("lead", MemberChange::Lead),
    ] {
        let call = MemberCall {
            cluster: cluster(),
            node: 1,
            change,
            within_ms: 500,
            forwarded: true,
        };
        frozen(&format!("member-{name}"), &call);
    }
    type Changed = Result<(), MembershipError>;
    frozen("member-answer", &Changed::Ok(()));
    for (name, why) in [
        ("refused", MembershipError::Refused("why".into())),
        ("no-leader", MembershipError::NoLeader),
        ("unknown", MembershipError::Unknown("why".into())),
    ] {
        frozen(&format!("member-answer-{name}"), &Changed::Err(why));
    }
    let reign = Reign { leader: 1, term: 3 };
    frozen("judgement", &(cluster(), reign));
    let judgement = Judgement {
        gone: true,
        last: Some((3, 7)),
    };
    frozen("judgement-answer", &judgement);
}

#[test]
fn questions_are_frozen() {
    frozen("cluster-alone", &cluster()); // read-index, status, space
    frozen("read-index-answer", &Some(7_u64));
    let status = PeerStatus {
        node: 1,
        version: v(7),
        digest: Digest::EMPTY.get() | 5,
        staleness_ms: Some(9),
        streams: 2,
        release: "0.1.0".into(),
        role: "leader".into(),
        complaint: Some("why".into()),
        feature_level: 1,
    };
    frozen("status-answer", &status);
    let space = SpaceReport {
        low: true,
        free_bytes: 3,
        min_free_bytes: 4,
    };
    frozen("space-answer", &space);
    let applied = AppliedCall {
        cluster: cluster(),
        version: v(7),
        within_ms: 500,
    };
    frozen("applied", &applied);
    let receipts = ReceiptsCall {
        cluster: cluster(),
        environment: environment(),
        version: v(7),
        within_ms: 500,
    };
    frozen("receipts", &receipts);
    let known = Known {
        id: "shop-1".into(),
        version: v(6),
        connected: true,
        seen_ms: 8,
    };
    let count = Count {
        evaluators: vec![known],
        unnamed: 2,
        doubt_ms: Some(3),
        bound_ms: 10_000,
    };
    let said = Said {
        applied: true,
        count,
    };
    frozen("receipts-answer", &said);
    let roll = RollCall {
        cluster: cluster(),
        known: Some(3),
    };
    frozen("roll", &roll);
    let present = Present {
        evaluators: vec!["shop-1".into()],
        bound_ms: 10_000,
    };
    let roll = Roll {
        generation: 4,
        environments: vec![(environment(), present)],
    };
    frozen("roll-answer", &Some(roll));
}

#[test]
fn writes_are_frozen() {
    let asks = [Ask::Put("{}".into()), Ask::Delete, Ask::Enable(true)];
    let writes = asks.into_iter().map(|ask| AskedWrite {
        object: ObjectId::policy(environment(), "f"),
        ask,
        expected: Expected::At(v(3)),
    });
    let request = ChangeRequest {
        writes: writes.collect(),
        onto: Some(Digest::new(5)),
        origin: Origin {
            actor: "ana".into(),
            request: Some(RequestId {
                key: "r1".into(),
                fingerprint: 5,
            }),
            reason: Some("why".into()),
        },
    };
    let call = WriteCall {
        cluster: cluster(),
        within_ms: 500,
        request: Arc::new(request),
    };
    frozen("write", &call);
    let writes = WritesCall {
        cluster: cluster(),
        writes: vec![(500, call.request.clone()), (0, call.request)],
    };
    frozen("writes", &writes);
    let replies = [WriteReply::Busy, WriteReply::NotLeader];
    frozen("writes-answer", &replies.to_vec());
    let written = Outcome::Written {
        version: v(7),
        results: vec![WriteResult {
            object: ObjectId::flag("f"),
            version: v(7),
            previous: Some(v(3)),
        }],
    };
    let refused = |refusal| {
        let version = v(7);
        WriteReply::Outcome(Outcome::Refused { version, refusal })
    };
    let shortage = Shortage {
        nodes: vec!["n1".into()],
        free_bytes: 3,
        min_free_bytes: 4,
        passes: true,
    };
    // The other refusals are those that are stored, and frozen there.
    for (name, reply) in [
        ("written", WriteReply::Outcome(written)),
        ("moved", refused(Refusal::Moved)),
        (
            "not-enabled",
            refused(Refusal::NotEnabled { needs: 2, level: 1 }),
        ),
        ("not-leader", WriteReply::NotLeader),
        ("busy", WriteReply::Busy),
        ("unknown", WriteReply::Unknown),
        ("full", WriteReply::Full(shortage)),
    ] {
        frozen(&format!("write-answer-{name}"), &reply);
    }
}
