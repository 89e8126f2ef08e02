//! How large things may be. A cluster can set its own; these are the documented defaults.
//!
//! What must hold: every limit that is exceeded is answered with a fault that names it. Evaluation
//! itself relies only on the two constants: with them its time and stack are bounded whatever a
//! snapshot holds.

/// The deepest chain of states that evaluation follows: prerequisites and nested segments
/// together, counted in steps from one state to the next.
pub const DEPTH_MAX: usize = 20;

/// The most states that one state may use, directly or not.
pub const CLOSURE_MAX: usize = 4_096;

/// Limits on what people write and ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flags of a cluster. Counted by the leader's Writer.
    pub flags_max: usize,
    /// Environments of a cluster. Counted by the leader's Writer.
    pub environments_max: usize,
    /// Variants of a flag.
    pub variants_max: usize,
    /// Bytes of the value of one variant, as compact JSON.
    pub variant_value_len_max: usize,
    /// Rules of a policy.
    pub rules_max: usize,
    /// Clauses of a rule.
    pub clauses_max: usize,
    /// Values of a clause.
    pub values_max: usize,
    /// Regular expressions of a policy, each value counted.
    pub patterns_max: usize,
    /// Bytes of a regular expression.
    pub pattern_len_max: usize,
    /// Steps that building all regular expressions of a policy may take, some 10 ns each.
    pub pattern_steps_max: usize,
    /// Weights of a rollout.
    pub weights_max: usize,
    /// Subjects named by a policy: all targets of a flag; included or excluded of a segment.
    pub subjects_max: usize,
    /// Attributes of a subject that is evaluated by a node.
    pub attributes_max: usize,
    /// Bytes of such a subject: its key, and the names and values of its attributes.
    pub context_len_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            flags_max: 100_000,
            environments_max: 100,
            variants_max: 256,
            variant_value_len_max: 64 << 10,
            rules_max: 1_000,
            clauses_max: 100,
            values_max: 100_000,
            patterns_max: 100,
            pattern_len_max: 4 << 10,
            pattern_steps_max: 4_000_000,
            weights_max: 1_000,
            subjects_max: 100_000,
            attributes_max: 256,
            context_len_max: 64 << 10,
        }
    }
}
