//! I11 at length: valid commands, valid ones with anything in them changed, well-formed ones that no leader
//! makes, and noise, one after the other into two machines, one of which is brought back from a snapshot now
//! and then. Same answers, same versions, same changes, same digests; and what holds it all still loads.
//!
//! Some thousands with the tests; `PENNON_HOSTILE` sets how many, `PENNON_HOSTILE_SEED` where to begin.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use pennon_evaluator::{Snapshot, StateKey, StateKind, Version};
use pennon_raft_store::codec::{self, HEADER_LEN};
use pennon_raft_store::command::{
    Batch, ClusterId, Command, CompiledChange, Expected, Item, ObjectId, Origin, Refusal,
    RequestId, Verdict, Write,
};
use pennon_raft_store::log::LogId;
use pennon_raft_store::machine::{Answer, COMMAND_FORMAT, Entry, Machine, Since};
use pennon_raft_store::plan::{AskedWrite, Draft, Planned};

use crate::support::*;

/// After so many commands both machines begin anew, so that none grows beyond what is usual.
const LIFE: u64 = 1000;
/// Between two looks at everything.
const LOOK: u64 = 50;

/// SplitMix64: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.below(len_max + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }
}

const TEXTS: [&str; 12] = [
    "",
    "{}",
    "null",
    FLAG,
    POLICY,
    "not json",
    "[[[[[[[[[[",
    r#"{"enabled":true,"default":{"variant":"ghost"}}"#,
    r#"{"enabled":true,"prerequisites":[{"flag":"f1","variants":["on"]}],"default":{"variant":"on"}}"#,
    r#"{"tags":["t"],"flags":-1,"variants_max":0}"#,
    "\u{0}\u{202e}\u{10ffff}",
    r#"{"type":"number","variants":{"on":1e308,"off":-0},"off_variant":"off"}"#,
];

fn key(random: &mut Random) -> String {
    match random.below(8) {
        0 => "bad key\n".into(),
        1 => "x".repeat(300),
        2 => String::new(),
        n => format!("f{n}"),
    }
}

fn object(random: &mut Random) -> ObjectId {
    let key = key(random);
    match random.below(6) {
        0 => env(if random.one_in(3) { &key } else { "e" }),
        1 => flag(&key),
        2 => policy(&key),
        3 => segment(&key),
        4 => setting(if random.one_in(2) { "limits" } else { &key }),
        _ => application(&key),
    }
}

fn text(random: &mut Random) -> String {
    match random.below(10) {
        0 => String::from_utf8_lossy(&random.bytes(40)).into_owned(),
        1 => "[".repeat(5000),
        _ => (*random.pick(&TEXTS)).to_owned(),
    }
}

/// Asks that a leader plans, so that there is a state for the others to hurt.
fn asked(random: &mut Random) -> AskedWrite {
    let name = format!("f{}", random.below(8));
    match random.below(10) {
        0 => put(env("e"), "{}"),
        1 | 2 => put(flag(&name), &tagged(&["t"])),
        3 => put(policy(&name), POLICY),
        4 => put(
            policy(&name),
            r#"{"enabled":true,"rules":[{"when":[{"op":"in_segment","values":["s"]}],"serve":{"variant":"on"}}],
                "default":{"rollout":{"weights":[{"variant":"on","weight":1},{"variant":"off","weight":2}]}}}"#,
        ),
        5 => put(segment("s"), r#"{"include":["alice"]}"#),
        6 => switch(&name, random.one_in(2)),
        7 => delete(policy(&name)),
        8 => put(application("a"), r#"{"tags":["t"]}"#),
        _ => put(setting("limits"), r#"{"flags":1000}"#),
    }
}

fn origin(random: &mut Random) -> Origin {
    let request = random.one_in(3).then(|| RequestId {
        key: key(random).into(),
        fingerprint: u128::from(random.next() % 3),
    });
    Origin {
        actor: text(random).into(),
        request,
        reason: random.one_in(3).then(|| text(random).into()),
    }
}

fn compiled(random: &mut Random, machine: &Machine) -> CompiledChange {
    let mut state_key = || {
        let kinds = [StateKind::Flag, StateKind::Segment];
        let kind = *random.pick(&kinds);
        let name = format!("f{}", random.below(8));
        StateKey::new(kind, &name).unwrap()
    };
    let (key, used) = (state_key(), state_key());
    let there = machine.compiled(&e()).and_then(|here| {
        let all: Vec<_> = here.states().collect();
        (!all.is_empty()).then(|| {
            let at = random.below(all.len());
            all[at].1.encoded.bytes().clone()
        })
    });
    let state = match random.below(5) {
        0 => None,
        1 => Some(Bytes::from(random.bytes(60))),
        2 => there.map(|bytes| Bytes::from(mutated(random, &bytes))),
        _ => there,
    };
    CompiledChange {
        environment: if random.one_in(4) {
            "other".parse().unwrap()
        } else {
            e()
        },
        key,
        state,
        uses: (0..random.below(3)).map(|_| used.clone()).collect(),
    }
}

/// Well formed, and what no leader makes.
fn mad(random: &mut Random, machine: &Machine) -> Command {
    let expected = |random: &mut Random| match random.below(4) {
        0 => Expected::Absent,
        1 => Expected::Present,
        2 => Expected::At(Version::new(random.next() % 50).unwrap_or(Version::MAX)),
        _ => Expected::Any,
    };
    let items = (0..random.below(4)).map(|_| {
        let writes = (0..random.below(5)).map(|_| Write {
            object: object(random),
            value: (!random.one_in(4)).then(|| text(random).into()),
            expected: expected(random),
        });
        let writes: Vec<Write> = writes.collect();
        let verdict = match random.below(5) {
            0 => Verdict::Refuse(Refusal::Quota {
                what: text(random),
                max: random.next(),
            }),
            _ => Verdict::Commit {
                compiled: (0..random.below(4))
                    .map(|_| compiled(random, machine))
                    .collect(),
                unchanged: vec![],
                writes,
            },
        };
        Item {
            origin: origin(random),
            verdict,
        }
    });
    let items = items.collect();
    Command::Batch(Batch {
        base: machine.version(),
        time_ms: random.next() >> random.below(64),
        items,
    })
}

fn planned(random: &mut Random, machine: &Machine) -> Command {
    let mut draft = Draft::on(machine);
    let mut items = Vec::new();
    for _ in 0..=random.below(3) {
        let mut request = request(vec![asked(random)]);
        if random.one_in(2) {
            request.origin = origin(random);
        }
        if let Planned::Batched(item, _) = draft.plan(&request) {
            items.push(item);
        }
    }
    Command::Batch(Batch {
        base: draft.base(),
        time_ms: random.next() % 10_000,
        items,
    })
}

/// A few bytes changed, put in, taken out, doubled, or cut off.
fn mutated(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 => bytes.insert(at, random.next() as u8),
            1 => bytes.truncate(at),
            2 => {
                let to = (at + random.below(16)).min(bytes.len());
                bytes.drain(at..to);
            }
            3 => {
                let to = (at + random.below(32)).min(bytes.len());
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                // A length, a version, a number.
                let number = [0, 1, 255, 1 << 31, 1 << 53, u64::MAX >> 1, u64::MAX];
                let number = random.pick(&number).to_le_bytes();
                let to = (at + 8).min(bytes.len());
                bytes[at..to].copy_from_slice(&number[..to - at]);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    bytes
}

/// Makes length and crc right, so that the body is looked at.
fn sealed(bytes: &mut [u8]) {
    if let Some((header, body)) = bytes.split_at_mut_checked(HEADER_LEN) {
        header[0] = COMMAND_FORMAT;
        header[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[5..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
}

fn hostile(random: &mut Random, machine: &Machine) -> Vec<u8> {
    let encoded = |command: &Command| codec::encode(COMMAND_FORMAT, command).unwrap().to_vec();
    match random.below(10) {
        0 | 1 => encoded(&planned(random, machine)),
        2 | 3 => encoded(&mad(random, machine)),
        4 => random.bytes(200),
        5 => {
            let valid = encoded(&planned(random, machine));
            mutated(random, &valid)
        }
        kind => {
            let whole = match kind {
                6 => encoded(&mad(random, machine)),
                _ => encoded(&planned(random, machine)),
            };
            let mut bytes = mutated(random, &whole);
            sealed(&mut bytes);
            // Otherwise most are answered "try again" for their base alone.
            match codec::decode::<Command>(COMMAND_FORMAT, &bytes) {
                Ok(Command::Batch(mut batch)) if !random.one_in(8) => {
                    batch.base = machine.version();
                    encoded(&Command::Batch(batch))
                }
                _ => bytes,
            }
        }
    }
}

/// Everything that a node makes of its machine still works.
fn look(machine: &Machine, since: Version) {
    for environment in machine.environments() {
        if let Some(config) = machine.config_snapshot(environment) {
            // A hostile state may be refused, and is refused alike everywhere.
            let _ = Snapshot::load(&config);
        }
        if let Since::Changes(delta) = machine.since(environment, since) {
            let _ = delta.to_json();
        }
    }
    assert_eq!(reload(machine).digest(), machine.digest(), "I11");
}

#[derive(Debug, Default)]
struct Seen {
    applied: u64,
    refused: u64,
    try_again: u64,
    unreadable: u64,
    restores: u64,
}

fn life(seed: u64, commands: u64, seen: &mut Seen) {
    let mut random = Random(seed);
    let mut one = Machine::new(ClusterId::new(7));
    let mut two = one.clone();
    for index in 1..=commands {
        let id = LogId { term: 1, index };
        let bytes = hostile(&mut random, &one);
        let entry = match random.one_in(40) {
            true => Entry::Blank,
            false => Entry::Command(&bytes),
        };
        let before = one.version();
        let a = one.apply(id, entry);
        let b = two.apply(id, entry);
        assert_eq!((&a.answer, a.version), (&b.answer, b.version), "I11");
        assert_eq!(a.changes, b.changes, "I11");
        assert_eq!(one.digest(), two.digest(), "I11");
        assert_eq!(one.version(), a.version);
        assert!(one.version() > before, "I2");
        match a.answer {
            Answer::Outcomes(_) if a.changes.is_empty() => seen.refused += 1,
            Answer::Outcomes(_) => seen.applied += 1,
            Answer::TryAgain => seen.try_again += 1,
            Answer::Unreadable(_) => seen.unreadable += 1,
            Answer::Blank | Answer::Level(_) => {}
        }
        if random.one_in(100) {
            two = reload(&two);
            seen.restores += 1;
        }
        if index % LOOK == 0 {
            look(&one, before);
        }
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are what a long run is for")]
fn no_hostile_command_is_answered_differently_anywhere() {
    let number = |name: &str, default: u64| {
        let given = std::env::var(name).ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let commands = number("PENNON_HOSTILE", 6_000);
    let first = number("PENNON_HOSTILE_SEED", 1);
    let mut seen = Seen::default();
    for seed in first..first + commands.div_ceil(LIFE) {
        let lived = catch_unwind(AssertUnwindSafe(|| life(seed, LIFE, &mut seen)));
        assert!(
            lived.is_ok(),
            "again with: PENNON_HOSTILE={LIFE} PENNON_HOSTILE_SEED={seed}"
        );
    }
    println!("hostile commands from seed {first}: {seen:?}");
    // Neither all turned away at the door, nor all let in.
    let share = |count: u64| count > commands / 40;
    assert!(
        share(seen.applied) && share(seen.refused) && share(seen.unreadable),
        "{seen:?}"
    );
}
