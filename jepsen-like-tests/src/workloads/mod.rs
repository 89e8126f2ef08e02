//! What clients do to a cluster while things happen to it, written down as a history.

pub mod registers;
