//! D6: after a receipt, or after the time it names, nobody acts on an older state as if it were fresh (I5).
//!
//! A receipt says of a version who has it, who does not, and after how long no evaluator can call an
//! older state FRESH: at once when everybody who could has it. So an evaluation that began so long
//! after the receipt came and is called FRESH is made on that version or a later one, whoever made it:
//! evaluators that were cut off, came back, restarted, or were never heard of.
//!
//! Left out: whether the names are the right ones (`node/tests/simulation/receipts.rs`).

use super::{Complaints, Place, Verdict};

/// A receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The version it is about.
    pub version: u64,
    /// When it was here.
    pub at: u64,
    /// After how long nobody acts on an older state as if it were fresh, as it says.
    pub settled_in: u64,
}

/// An evaluation that was called FRESH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// Which process evaluated.
    pub process: u32,
    /// Before it began.
    pub began: u64,
    /// The version of the state it was made on.
    pub version: u64,
}

/// How receipts can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Called FRESH on an older state when that could not be any more.
    FreshAfterReceipt,
}

/// Judges FRESH evaluations against the receipts of their environment. The history shows too little
/// without so many receipts of which the time was over while somebody evaluated.
pub fn check(receipts: &[Received], evaluations: &[Fresh], receipts_min: usize) -> Verdict<Rule> {
    let mut settled: Vec<(u64, Received)> = receipts
        .iter()
        .map(|receipt| (receipt.at.saturating_add(receipt.settled_in), *receipt))
        .collect();
    settled.sort_by_key(|(from, _)| *from);
    // The newest version that is settled from each of them on, and by which receipt.
    let newest = settled.iter().scan(None, |newest, (_, receipt)| {
        let before: Option<Received> = *newest;
        *newest = Some(match before {
            Some(before) if before.version >= receipt.version => before,
            _ => *receipt,
        });
        *newest
    });
    let newest: Vec<Received> = newest.collect();
    let mut complaints = Complaints::default();
    for one in evaluations {
        let over = settled.partition_point(|(from, _)| *from <= one.began);
        let Some(receipt) = over.checked_sub(1).map(|last| newest[last]) else {
            continue;
        };
        if one.version < receipt.version {
            let (process, began, version) = (one.process, ms(one.began), one.version);
            let (wanted, at, settled_in) =
                (receipt.version, ms(receipt.at), ms(receipt.settled_in));
            complaints.add_at(
                Place::at(one.process, one.began),
                Rule::FreshAfterReceipt, // I5
                format!(
                    "process {process}, at {began} ms: FRESH at version {version}, but a receipt of {at} ms says \
                     that {settled_in} ms later nobody acts on less than {wanted}"
                ),
            );
        }
    }
    let judged = outlived(receipts, evaluations);
    let at_once = receipts.iter().filter(|one| one.settled_in == 0).count();
    complaints.verdict(|| match judged >= receipts_min.max(1) {
        true => Verdict::Valid(format!(
            "{} FRESH evaluations beside {judged} receipts, {at_once} of which named no time",
            evaluations.len()
        )),
        false => Verdict::Unknown(format!(
            "of {judged} receipts the time was over while somebody evaluated; {} are needed",
            receipts_min.max(1)
        )),
    })
}

/// Counts the receipts of which the time was over while somebody evaluated.
pub fn outlived(receipts: &[Received], evaluations: &[Fresh]) -> usize {
    let last = evaluations.iter().map(|one| one.began).max();
    let over = |receipt: &&Received| {
        last.is_some_and(|last| receipt.at.saturating_add(receipt.settled_in) <= last)
    };
    receipts.iter().filter(over).count()
}

fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(version: u64, at: u64, settled_in: u64) -> Received {
        Received {
            version,
            at,
            settled_in,
        }
    }

    fn fresh(began: u64, version: u64) -> Fresh {
        Fresh {
            process: 1,
            began,
            version,
        }
    }

    /// A late receipt of an earlier version, one that names a time, one that names none.
    fn judge(evaluations: &[Fresh]) -> Verdict<Rule> {
        let receipts = [
            receipt(7, 1_000, 500),
            receipt(5, 1_200, 0),
            receipt(9, 3_000, 0),
        ];
        check(&receipts, evaluations, 1)
    }

    #[test]
    fn until_a_receipt_is_settled_anybody_may_be_behind() {
        let behind = [
            fresh(1_199, 4),
            fresh(1_200, 5),
            fresh(1_499, 6),
            fresh(1_500, 7),
            fresh(2_999, 8),
            fresh(3_000, 9),
        ];
        assert!(judge(&behind).is_valid());
    }

    #[test]
    fn after_that_nobody_may() {
        for late in [
            fresh(1_200, 4),
            fresh(1_500, 6),
            fresh(2_999, 5),
            fresh(9_000, 8),
        ] {
            let verdict = judge(&[fresh(1_000, 1), late]);
            assert!(
                matches!(&verdict, Verdict::Invalid(c) if c.name(Rule::FreshAfterReceipt)),
                "{late:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn receipts_that_nobody_outlived_show_nothing() {
        assert!(judge(&[fresh(1_199, 4)]).is_unknown());
        assert!(check(&[], &[fresh(9_000, 8)], 0).is_unknown());
        let two = [receipt(7, 1_000, 500), receipt(9, 3_000, 0)];
        assert!(check(&two, &[fresh(2_000, 7)], 2).is_unknown());
    }
}
