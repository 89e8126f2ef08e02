//! Growing moves subjects in one direction only (I7): a share of a rollout, of a segment, of a
//! layer. Random weights, the whole way from what people write to the answer.
//!
//! What holds of a rollout, exactly: borders move with the shares. When a share grows at the expense
//! of its neighbour, one border moves, and whoever it passes moves into the growing variant. When it
//! grows at the expense of a share further on, the shares between move along: nobody leaves the
//! growing variant, and everybody who moves, moves towards the front. When it grows by a second share
//! beside the shrinking one, again only one border is new, so a variant can grow at the expense of
//! any other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails like a test"
)]

mod common;

use common::{World, serving, switch};
use pennon_evaluator::{Evaluation, Snapshot, Subject};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::{Value, json};

const SUBJECTS: u32 = 64;
const VARIANTS: [&str; 4] = ["a", "b", "c", "d"];

/// Runs a property on its cases, the same ones every time unless `PROPTEST_RNG_SEED` says otherwise.
fn check<S: Strategy>(cases: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut config = Config {
        cases: 120,
        failure_persistence: None,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    if let Err(failure) = TestRunner::new(config).run(&cases, test) {
        panic!("{failure}");
    }
}

/// Shares of a rollout, in order.
type Shares = Vec<(&'static str, u32)>;

/// Shares with a sum of at least 1, small and large, some of them nothing.
fn shares() -> impl Strategy<Value = Shares> {
    let weight =
        prop_oneof![1 => Just(0_u32), 3 => 1..10_u32, 3 => 1..100_000_u32, 1 => 1..200_000_000_u32];
    let share = (proptest::sample::select(&VARIANTS[..]), weight);
    prop::collection::vec(share, 2..7).prop_map(|mut shares| {
        shares[0].1 = shares[0].1.max(1);
        shares
    })
}

/// Subjects, by the number they begin at.
#[derive(Clone, Copy, Debug)]
struct Subjects(u32);

impl Subjects {
    fn each(self) -> impl Iterator<Item = Subject> {
        (0..SUBJECTS).map(move |n| Subject::new(format!("user-{}-{n}", self.0)))
    }
}

fn subjects() -> impl Strategy<Value = Subjects> {
    any::<u32>().prop_map(Subjects)
}

fn rollout(shares: &Shares, salt: &str) -> Value {
    let weights = shares.iter();
    let weights = weights.map(|(variant, weight)| json!({"variant": variant, "weight": weight}));
    json!({"salt": salt, "weights": weights.collect::<Vec<Value>>()})
}

fn split(shares: &Shares, salt: &str) -> Snapshot {
    let variants = json!({"a": 1, "b": 2, "c": 3, "d": 4});
    let config = json!({"type": "number", "variants": variants, "off_variant": "a"});
    let policy = json!({"enabled": true, "default": {"rollout": rollout(shares, salt)}});
    World::default().with_flag("f", 1, config, policy).load()
}

/// What a subject got before and after: buckets and variants.
struct Move<'a> {
    bucket: u32,
    from: &'a str,
    to: &'a str,
}

/// Evaluates everybody on both. Buckets stay, since the sum of the weights does.
fn moves<'a>(
    before: &'a Snapshot,
    after: &'a Snapshot,
    subjects: Subjects,
) -> Result<Vec<Move<'a>>, TestCaseError> {
    let mut moves = Vec::new();
    for subject in subjects.each() {
        let found = [before, after].map(|snapshot| snapshot.evaluate("f", &subject));
        prop_assert_eq!(
            found[0].bucket,
            found[1].bucket,
            "I7: the bucket of {:?}",
            subject
        );
        moves.push(Move {
            bucket: found[0].bucket.unwrap(),
            from: found[0].variant.unwrap(),
            to: found[1].variant.unwrap(),
        });
    }
    Ok(moves)
}

/// Shares, the numbers of a growing and a shrinking one, how much, a salt and subjects.
fn growth() -> impl Strategy<Value = (Shares, usize, usize, u32, String, Subjects)> {
    let places = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0.0..=1.0,
    );
    (shares(), places, "[a-z]{1,8}", subjects()).prop_map(|(shares, places, salt, subjects)| {
        let (growing, shrinking) = (places.0.index(shares.len()), places.1.index(shares.len()));
        let amount = (f64::from(shares[shrinking].1) * places.2) as u32;
        (shares, growing, shrinking, amount, salt, subjects)
    })
}

#[test]
fn a_share_that_grows_at_the_expense_of_its_neighbour_only_takes_in() {
    check(growth(), |(shares, growing, place, _, salt, subjects)| {
        let neighbour = match growing {
            0 => 1,
            n if n + 1 == shares.len() || place % 2 == 0 => n - 1,
            n => n + 1,
        };
        let amount = shares[neighbour].1 - shares[neighbour].1 / 3;
        let mut grown = shares.clone();
        grown[growing].1 += amount;
        grown[neighbour].1 -= amount;
        let start = |shares: &Shares| shares[..growing].iter().map(|share| share.1).sum::<u32>();
        let end = |shares: &Shares| start(shares) + shares[growing].1;
        let within = |shares: &Shares, bucket| (start(shares)..end(shares)).contains(&bucket);
        let (before, after) = (split(&shares, &salt), split(&grown, &salt));
        for one in moves(&before, &after, subjects)? {
            if within(&grown, one.bucket) && !within(&shares, one.bucket) {
                prop_assert_eq!(one.to, shares[growing].0, "I7: {} is taken in", one.bucket);
            } else {
                prop_assert_eq!(one.to, one.from, "I7: {} stays", one.bucket);
            }
        }
        Ok(())
    });
}

#[test]
fn a_share_that_grows_at_the_expense_of_any_later_one_loses_nobody() {
    check(growth(), |(shares, one, other, amount, salt, subjects)| {
        let (growing, shrinking) = (one.min(other), one.max(other));
        let amount = amount.min(shares[shrinking].1);
        // Variants by place, so that one says which share a subject is in.
        let mut shares: Shares = shares[..shares.len().min(4)].to_vec();
        let (growing, shrinking) = (
            growing.min(shares.len() - 1),
            shrinking.min(shares.len() - 1),
        );
        for (share, variant) in shares.iter_mut().zip(VARIANTS) {
            share.0 = variant;
        }
        let amount = amount.min(shares[shrinking].1);
        let mut grown = shares.clone();
        grown[growing].1 += amount;
        grown[shrinking].1 -= amount;
        let (before, after) = (split(&shares, &salt), split(&grown, &salt));
        for one in moves(&before, &after, subjects)? {
            prop_assert!(
                one.to <= one.from,
                "I7: {} moves from {} to {}",
                one.bucket,
                one.from,
                one.to
            );
            if one.from == shares[growing].0 {
                prop_assert_eq!(one.to, one.from, "I7: {} stays", one.bucket);
            }
        }
        Ok(())
    });
}

/// A second share of the growing variant, before or after what is left of the shrinking one.
#[test]
fn a_variant_that_grows_by_another_share_only_takes_in() {
    check(
        growth(),
        |(shares, growing, shrinking, amount, salt, subjects)| {
            let variant = shares[growing].0;
            for place in [shrinking, shrinking + 1] {
                let mut grown = shares.clone();
                grown[shrinking].1 -= amount;
                grown.insert(place, (variant, amount));
                let (before, after) = (split(&shares, &salt), split(&grown, &salt));
                for one in moves(&before, &after, subjects)? {
                    prop_assert!(
                        one.to == one.from || one.to == variant,
                        "I7: {} moves from {} to {}, not to {}",
                        one.bucket,
                        one.from,
                        one.to,
                        variant
                    );
                }
            }
            Ok(())
        },
    );
}

fn segment(share: u32, of: u32) -> Snapshot {
    let rules =
        json!([{"when": [{"op": "in_segment", "values": ["s"]}], "serve": {"variant": "on"}}]);
    let policy = json!({"enabled": true, "rules": rules, "default": {"variant": "off"}});
    let share = json!({"rules": [{"when": [], "rollout": {"share": share, "of": of}}]});
    World::default()
        .with_flag("f", 1, switch(), policy)
        .with_segment("s", 1, share)
        .load()
}

#[test]
fn a_segment_that_grows_loses_nobody() {
    let of = prop_oneof![1..100_u32, 1..100_000_u32, Just((1 << 31) - 1)];
    let sizes = of.prop_flat_map(|of| (0..=of, 0..=of, Just(of)));
    check((sizes, subjects()), |((one, other, of), subjects)| {
        let sizes = [0, one.min(other), one.max(other), of];
        let snapshots = sizes.map(|share| segment(share, of));
        for subject in subjects.each() {
            let within = snapshots
                .each_ref()
                .map(|snapshot| snapshot.evaluate("f", &subject).variant == Some("on"));
            prop_assert!(
                within.is_sorted(),
                "I7: {:?} in {:?} of {}: {:?}",
                subject,
                sizes,
                of,
                within
            );
            prop_assert!(!within[0] && within[3], "nobody in none, everybody in all");
        }
        Ok(())
    });
}

/// An experiment of a layer, and a holdout of the share.
fn experiment(range: [u32; 2], held_out: u32, shares: &Shares) -> Snapshot {
    let mut rollout = rollout(shares, "s");
    rollout["experiment"] =
        json!({"key": "e", "layer": {"key": "l", "range": range}, "holdout": "held-out"});
    let rules = json!([{"when": [], "serve": {"rollout": rollout}}]);
    let mut policy = serving("a");
    policy["rules"] = rules;
    let variants = json!({"a": 1, "b": 2, "c": 3, "d": 4});
    let config = json!({"type": "number", "variants": variants, "off_variant": "a"});
    let share = json!({"rules": [{"when": [], "rollout": {"share": held_out, "of": 1_000}}]});
    World::default()
        .with_flag("f", 1, config, policy)
        .with_segment("held-out", 1, share)
        .load()
}

/// Says what of an answer must stay while a subject takes part; nothing when it does not.
fn part(found: &Evaluation<'_>) -> Option<(String, Option<u32>)> {
    let json = found.to_json("f");
    json.get("experiment")?;
    Some((found.variant.unwrap().to_owned(), found.bucket))
}

#[test]
fn an_experiment_that_grows_only_takes_in_and_moves_nobody_within() {
    let borders = prop::collection::btree_set(0..=10_000_u32, 4);
    let cases = (borders, 0..=1_000_u32, shares(), subjects());
    check(cases, |(borders, held_out, shares, subjects)| {
        let borders: Vec<u32> = borders.into_iter().collect();
        let steps = [
            experiment([borders[1], borders[2]], held_out, &shares),
            experiment([borders[1], borders[3]], held_out, &shares),
            experiment([borders[0], borders[3]], held_out, &shares),
            experiment([0, 10_000], held_out, &shares),
            experiment([0, 10_000], held_out / 2, &shares),
            experiment([0, 10_000], 0, &shares),
        ];
        for subject in subjects.each() {
            let parts = steps
                .each_ref()
                .map(|step| part(&step.evaluate("f", &subject)));
            for pair in parts.windows(2) {
                let stays = pair[0].is_none() || pair[0] == pair[1];
                prop_assert!(stays, "I7: {:?} at {:?}: {:?}", subject, borders, parts);
            }
            prop_assert!(
                parts[5].is_some(),
                "everybody takes part in the end: {:?}",
                parts
            );
        }
        Ok(())
    });
}

/// Experiments that share a layer without overlapping: each subject takes part in one at most, and
/// in exactly one when they fill the layer.
#[test]
fn experiments_of_a_layer_exclude_each_other() {
    let cases = (
        prop::collection::btree_set(1..10_000_u32, 1..5),
        shares(),
        subjects(),
    );
    check(cases, |(borders, shares, subjects)| {
        let mut borders: Vec<u32> = borders.into_iter().collect();
        borders.insert(0, 0);
        borders.push(10_000);
        let ranges = borders.windows(2).map(|pair| [pair[0], pair[1]]);
        let snapshots: Vec<Snapshot> = ranges.map(|range| experiment(range, 0, &shares)).collect();
        for subject in subjects.each() {
            let parts = snapshots
                .iter()
                .filter_map(|one| part(&one.evaluate("f", &subject)));
            prop_assert_eq!(parts.count(), 1, "{:?} of {:?}", subject, borders);
        }
        Ok(())
    });
}
