//! The vote: what this node promised, and to whom. A node that forgets it can vote twice in one term
//! and so elect two leaders.
//!
//! It lives in `hard/a` and `hard/b`, two slots of 128 bytes (layout in `log/slots.rs`). A save writes
//! and syncs one slot, then the other, and is acknowledged after both. So at every moment at least one
//! slot is whole, and after an acknowledgement both hold the vote: no single rotten slot can bring an
//! older vote back. At open the newer whole slot counts and is copied over the other one.
//!
//! Refused: both slots bad; one bad slot while the log holds entries of a term above the vote.
//! Left out: any rule about which vote may follow which; that is consensus, not storage.

/// What a node voted for, and whether a quorum accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vote {
    /// The term that the vote is for.
    pub term: u64,
    /// The node that got the vote, if any.
    pub voted_for: Option<u64>,
    /// Whether the node voted for is known to be the leader of that term.
    pub committed: bool,
}
