//! The floor: what the same decisions cost when they are written by hand for this store.
//!
//! It loads a swapped state, compares a coarse clock with a deadline, hashes the flag's key, looks
//! it up and compares it, and then runs code that knows the rules: attributes are fields, lists are
//! patterns, a salt is a hash that was begun. It does the bucketing and the freshness that Pennon
//! promises, and nothing else that a general engine has to do. An engine within twice of it has
//! little left to win.
//!
//! Left out: everything that makes it usable.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use arc_swap::ArcSwap;
use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::xxh3_64;

use crate::Result;
use crate::lane::{Contestant, first_letter};
use crate::store::{Kind, NONE, SPLIT, Store, SubjectSpec, WRONG};

/// Every key of a flag, and so every salt, has this length: whole blocks of the hash.
const SALT_LEN: usize = 16;

/// Decisions by hand.
pub struct Floor {
    current: ArcSwap<Held>,
}

struct Held {
    /// On the coarse clock, in seconds.
    fresh_until: i64,
    places: HashMap<u64, usize, Hashed>,
    flags: Vec<(Box<str>, Plain)>,
    segments: Vec<HashMap<u64, Box<str>, Hashed>>,
}

enum Plain {
    Always(bool),
    /// The hash of the salt.
    Half(u32),
    Rules(u32),
    Segment(usize),
    Needs([usize; 2]),
}

/// A subject whose attributes are fields.
pub struct Fields {
    key: String,
    country: String,
    plan: String,
    platform: String,
    build: f64,
    seats: f64,
}

impl Floor {
    /// Writes a store down.
    ///
    /// # Errors
    /// When a salt is not of the length that the begun hash needs.
    pub fn new(store: &Store) -> Result<Floor> {
        let mut held = Held {
            fresh_until: seconds() + 24 * 60 * 60,
            places: HashMap::default(),
            flags: Vec::new(),
            segments: Vec::new(),
        };
        for (n, flag) in store.flags.iter().enumerate() {
            if flag.key.len() != SALT_LEN {
                return Err(format!("the key {} is not of {SALT_LEN} bytes", flag.key).into());
            }
            let salted = blocks(0, flag.key.as_bytes());
            let plain = match flag.kind {
                Kind::On => Plain::Always(true),
                Kind::Off => Plain::Always(false),
                Kind::Rollout => Plain::Half(salted),
                Kind::Rules => Plain::Rules(salted),
                Kind::Segment(segment) => Plain::Segment(segment),
                Kind::Prerequisites(two) => Plain::Needs(two),
            };
            held.places.insert(xxh3_64(flag.key.as_bytes()), n);
            held.flags.push((flag.key.as_str().into(), plain));
        }
        for segment in &store.segments {
            let members = segment.members.iter();
            let members = members.map(|key| (xxh3_64(key.as_bytes()), key.as_str().into()));
            held.segments.push(members.collect());
        }
        let (salt, value) = ("shop.split-00400", "user-004711");
        let here = bucket(blocks(0, salt.as_bytes()), value);
        if here != pennon_evaluator::bucket(salt, value, 100_000) {
            return Err("the floor hashes otherwise than Pennon".into());
        }
        Ok(Floor {
            current: ArcSwap::from_pointee(held),
        })
    }
}

impl Held {
    fn find(&self, flag: &str) -> Option<&Plain> {
        let place = *self.places.get(&xxh3_64(flag.as_bytes()))?;
        let (key, plain) = &self.flags[place];
        (**key == *flag && seconds() <= self.fresh_until).then_some(plain)
    }

    fn is_on(&self, plain: &Plain, subject: &Fields) -> bool {
        match plain {
            Plain::Always(on) => *on,
            Plain::Half(salted) => bucket(*salted, &subject.key) < 50_000,
            Plain::Rules(_) => false,
            Plain::Segment(n) => {
                let member = self.segments[*n].get(&xxh3_64(subject.key.as_bytes()));
                member.is_some_and(|key| **key == *subject.key)
            }
            Plain::Needs(two) => two.iter().all(|n| self.is_on(&self.flags[*n].1, subject)),
        }
    }
}

/// The rules of `store::RULES`, as somebody would write them who has only these.
fn by_rules(salted: u32, subject: &Fields) -> &'static str {
    let here = matches!(
        &*subject.country,
        "DE" | "FR" | "IT" | "ES" | "NL" | "BE" | "AT" | "PL" | "SE" | "DK"
    );
    let elsewhere = || {
        matches!(
            &*subject.country,
            "US" | "CA" | "MX" | "BR" | "AR" | "CL" | "JP" | "KR" | "AU" | "NZ"
        )
    };
    let usual = || {
        let platform = &*subject.platform;
        matches!(
            platform,
            "ios"
                | "android"
                | "web"
                | "desktop"
                | "kiosk"
                | "car"
                | "phone"
                | "tablet"
                | "cli"
                | "bot"
        )
    };
    let rare = || {
        let platform = &*subject.platform;
        matches!(
            platform,
            "tv" | "watch"
                | "vr"
                | "fridge"
                | "printer"
                | "radio"
                | "scale"
                | "lock"
                | "lamp"
                | "oven"
        )
    };
    let wrong = (here && subject.build > 10_000.0)
        || (subject.plan == "pro" && rare())
        || (subject.seats > 0.0 && elsewhere())
        || (usual() && subject.plan == "trial");
    if wrong {
        return WRONG;
    }
    if !(subject.build > 100.0 && here) {
        return NONE;
    }
    match bucket(salted, &subject.key) {
        n if n < SPLIT[0].1 => SPLIT[0].0,
        n if n < SPLIT[0].1 + SPLIT[1].1 => SPLIT[1].0,
        _ => SPLIT[2].0,
    }
}

fn seconds() -> i64 {
    clock_gettime(ClockId::MonotonicCoarse).tv_sec
}

/// murmur3_x86_32 over whole blocks, not finished.
fn blocks(mut hash: u32, bytes: &[u8]) -> u32 {
    for block in bytes.as_chunks().0 {
        hash = (hash ^ scrambled(u32::from_le_bytes(*block))).rotate_left(13);
        hash = hash.wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    hash
}

fn scrambled(block: u32) -> u32 {
    block
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593)
}

/// The bucket of 100,000 that a value is in, after a salt of [`SALT_LEN`] bytes.
fn bucket(salted: u32, value: &str) -> u32 {
    let mut hash = blocks(salted, value.as_bytes());
    let rest = value.as_bytes().as_chunks::<4>().1;
    let tail = rest
        .iter()
        .rev()
        .fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
    hash ^= scrambled(tail);
    hash ^= (SALT_LEN + value.len()) as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^= hash >> 16;
    ((u64::from(hash) * 100_000) >> 32) as u32
}

type Hashed = BuildHasherDefault<AsIs>;

/// Keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Contestant for Floor {
    type Subject = Fields;

    fn name(&self) -> &'static str {
        "floor"
    }

    fn can(&self, _: Kind) -> bool {
        true
    }

    fn subject(&self, spec: &SubjectSpec) -> Result<Fields> {
        Ok(Fields {
            key: spec.key.clone(),
            country: spec.country.to_owned(),
            plan: spec.plan.to_owned(),
            platform: spec.platform.to_owned(),
            build: f64::from(spec.build),
            seats: f64::from(spec.seats),
        })
    }

    fn is_on(&self, flag: &str, subject: &Fields) -> bool {
        let held = self.current.load();
        held.find(flag)
            .is_some_and(|plain| held.is_on(plain, subject))
    }

    fn variant(&self, flag: &str, subject: &Fields) -> u8 {
        let held = self.current.load();
        match held.find(flag) {
            Some(Plain::Rules(salted)) => first_letter(by_rules(*salted, subject)),
            _ => 0,
        }
    }
}
