//! The flags, segments and subjects that every contestant gets, and what the answers must be.
//!
//! What must hold: everything here is a function of constants, so two runs measure the same thing.
//! Nothing here is in the language of one of the contestants.
//!
//! Two flags of the store are there for the check: one that is off, and one that has it as a
//! prerequisite. A contestant that ignores either is caught.

/// Subjects that the timed passes rotate over.
pub const SUBJECTS: usize = 256;
/// Subjects that distributions are checked with; the first of them are those that are timed.
pub const POPULATION: usize = 4_096;
/// Flags in the store that decisions are timed on.
pub const FLAGS: usize = 1_000;
/// Keys in its segments.
pub const SEGMENTS: [usize; 10] = [
    10_000, 100, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000,
];
/// Of every segment with room for them, these first subjects are members.
const MEMBERS: usize = SUBJECTS / 2;

/// Countries that subjects come from.
pub const COUNTRIES: [&str; 10] = ["DE", "FR", "IT", "ES", "NL", "BE", "AT", "PL", "SE", "DK"];
/// Countries that none comes from.
pub const ELSEWHERE: [&str; 10] = ["US", "CA", "MX", "BR", "AR", "CL", "JP", "KR", "AU", "NZ"];
/// Platforms, the first four of which subjects use.
pub const PLATFORMS: [&str; 10] = [
    "ios", "android", "web", "desktop", "kiosk", "car", "phone", "tablet", "cli", "bot",
];
/// Platforms that none uses.
pub const RARE: [&str; 10] = [
    "tv", "watch", "vr", "fridge", "printer", "radio", "scale", "lock", "lamp", "oven",
];
/// The variants of a flag with rules that the three-way split leads to, with their weights.
pub const SPLIT: [(&str, u32); 3] = [("blue", 33_334), ("green", 33_333), ("red", 33_333)];
/// The variant that the other rules serve; no subject gets it, only witnesses.
pub const WRONG: &str = "wrong";
/// The variant served when no rule holds; only a witness gets it.
pub const NONE: &str = "none";

/// What a flag is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On for everybody, no rules.
    On,
    /// Off for everybody.
    Off,
    /// On for half of the subjects, by their key.
    Rollout,
    /// The five rules of [`RULES`].
    Rules,
    /// On for the members of a segment, by its place.
    Segment(usize),
    /// On for everybody if these two flags, by their places, are on.
    Prerequisites([usize; 2]),
}

/// A flag.
#[derive(Clone, Debug)]
pub struct FlagSpec {
    /// Its key.
    pub key: String,
    /// What it is like.
    pub kind: Kind,
}

/// A segment that lists its members.
#[derive(Clone, Debug)]
pub struct SegmentSpec {
    /// Its key.
    pub key: String,
    /// The subject keys of its members.
    pub members: Vec<String>,
}

/// Whom a flag is decided for: a key and six attributes.
#[derive(Clone, Debug)]
pub struct SubjectSpec {
    /// The subject key.
    pub key: String,
    /// Attribute `country`.
    pub country: &'static str,
    /// Attribute `plan`.
    pub plan: &'static str,
    /// Attribute `platform`.
    pub platform: &'static str,
    /// Attribute `build`.
    pub build: u32,
    /// Attribute `seats`.
    pub seats: u32,
    /// Attribute `beta`.
    pub beta: bool,
}

/// One clause of a rule.
#[derive(Clone, Copy, Debug)]
pub enum Clause {
    /// The attribute is this text.
    Is(&'static str, &'static str),
    /// The attribute is one of these texts.
    In(&'static str, &'static [&'static str; 10]),
    /// The attribute is a number greater than this.
    Above(&'static str, u32),
}

/// The rules of a flag with rules. The first four fail at their second clause, so all ten clauses
/// are looked at; the last one leads to the split.
pub const RULES: [[Clause; 2]; 5] = [
    [
        Clause::In("country", &COUNTRIES),
        Clause::Above("build", 10_000),
    ],
    [Clause::Is("plan", "pro"), Clause::In("platform", &RARE)],
    [Clause::Above("seats", 0), Clause::In("country", &ELSEWHERE)],
    [
        Clause::In("platform", &PLATFORMS),
        Clause::Is("plan", "trial"),
    ],
    [
        Clause::Above("build", 100),
        Clause::In("country", &COUNTRIES),
    ],
];

/// Everything that contestants are configured with.
#[derive(Clone, Debug)]
pub struct Store {
    /// The flags.
    pub flags: Vec<FlagSpec>,
    /// The segments.
    pub segments: Vec<SegmentSpec>,
}

impl Store {
    /// Makes a store: 40 % on, 25 % rollouts, 15 % rules, 10 % segments, 10 % prerequisites.
    pub fn new(flags: usize, segments: &[usize]) -> Store {
        let share = |percent: usize| flags * percent / 100;
        let (on, rollouts, rules) = (share(40), share(65), share(80));
        let kind = |n: usize| match n {
            0 => Kind::Off,
            n if n < on => Kind::On,
            n if n < rollouts => Kind::Rollout,
            n if n < rules => Kind::Rules,
            n if n < share(90) => Kind::Segment(n % segments.len()),
            n if n + 1 == flags => Kind::Prerequisites([1, 0]),
            n => Kind::Prerequisites([1 + n % (on - 1), 1 + n / 2 % (on - 1)]),
        };
        let flags = (0..flags).map(|n| {
            let kind = kind(n);
            let key = format!("shop.{}-{n:05}", word(kind));
            FlagSpec { key, kind }
        });
        let segments = segments.iter().enumerate().map(|(n, size)| SegmentSpec {
            key: format!("segment-{n}"),
            members: members(*size),
        });
        Store {
            flags: flags.collect(),
            segments: segments.collect(),
        }
    }

    /// Returns the first flag of a kind.
    pub fn first(&self, wanted: impl Fn(Kind) -> bool) -> Option<usize> {
        self.flags.iter().position(|flag| wanted(flag.kind))
    }
}

/// Five letters, so that all keys have one length.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::On | Kind::Off => "plain",
        Kind::Rollout => "split",
        Kind::Rules => "rules",
        Kind::Segment(_) => "group",
        Kind::Prerequisites(_) => "needs",
    }
}

/// The members of a segment: subjects, as far as there is room, among strangers.
fn members(size: usize) -> Vec<String> {
    let subjects = MEMBERS.min(size);
    let mut members: Vec<String> = (0..subjects).map(subject_key).collect();
    members.extend((subjects..size).map(|n| format!("member-{n:06}")));
    Numbers::new(size as u64).shuffle(&mut members);
    members
}

fn subject_key(n: usize) -> String {
    format!("user-{:06}", (n * 7_919 + 4_711) % 1_000_000)
}

/// Returns a subject that timed passes and checks of distributions use.
pub fn subject(n: usize) -> SubjectSpec {
    let mut numbers = Numbers::new(n as u64);
    SubjectSpec {
        key: subject_key(n),
        country: COUNTRIES[numbers.below(10)],
        plan: "pro",
        platform: PLATFORMS[numbers.below(4)],
        build: 1_000 + numbers.below(8_000) as u32,
        seats: 1 + numbers.below(500) as u32,
        beta: numbers.below(2) == 1,
    }
}

/// Returns one subject for each rule that leads nowhere else, and one for which none holds: they
/// show that the clauses work at all.
pub fn witnesses() -> [(SubjectSpec, bool); 5] {
    let plain = subject(0);
    let first = SubjectSpec {
        build: 20_000,
        ..plain.clone()
    };
    let second = SubjectSpec {
        platform: RARE[9],
        ..plain.clone()
    };
    let third = SubjectSpec {
        country: ELSEWHERE[9],
        ..plain.clone()
    };
    let fourth = SubjectSpec {
        plan: "trial",
        ..plain.clone()
    };
    let none = SubjectSpec {
        country: "ZZ",
        ..plain
    };
    [
        (first, true),
        (second, true),
        (third, true),
        (fourth, true),
        (none, false),
    ]
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A boolean flag that is on for everybody.
    On,
    /// A rollout to half of the subjects.
    Rollout,
    /// Five rules of two clauses; the fifth holds and splits three ways.
    Rules,
    /// A rule on a segment of 10,000 members; half of the subjects are in it.
    Segment,
    /// The same with 100 members.
    SmallSegment,
    /// Two prerequisites.
    Prerequisites,
    /// All flags of the store in a fixed order.
    Mix,
}

impl Workload {
    /// All of them, in the order shown.
    pub const ALL: [Workload; 7] = [
        Workload::On,
        Workload::Rollout,
        Workload::Rules,
        Workload::Segment,
        Workload::SmallSegment,
        Workload::Prerequisites,
        Workload::Mix,
    ];

    /// Returns its name: `W1` to `W5`, `W4-100`, `mix`.
    pub fn name(self) -> &'static str {
        match self {
            Workload::On => "W1",
            Workload::Rollout => "W2",
            Workload::Rules => "W3",
            Workload::Segment => "W4",
            Workload::SmallSegment => "W4-100",
            Workload::Prerequisites => "W5",
            Workload::Mix => "mix",
        }
    }

    /// Returns what it is, in a few words.
    pub fn title(self) -> &'static str {
        match self {
            Workload::On => "on, no rules",
            Workload::Rollout => "50/50 rollout",
            Workload::Rules => "fifth rule, 3-way split",
            Workload::Segment => "segment of 10,000 keys",
            Workload::SmallSegment => "segment of 100 keys",
            Workload::Prerequisites => "two prerequisites",
            Workload::Mix => "all 1,000 flags",
        }
    }
}

/// What is asked of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Whether it is on.
    Boolean,
    /// Which variant, of a flag whose values are text.
    Variant,
}

/// One decision of a timed pass.
#[derive(Clone, Debug)]
pub struct Step {
    /// The key of the flag.
    pub flag: Box<str>,
    /// The place of the subject.
    pub subject: usize,
    /// What is asked.
    pub ask: Ask,
}

/// The decisions of one lap of a workload.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which workload.
    pub workload: Workload,
    /// One lap.
    pub steps: Vec<Step>,
    /// Whether each lap takes the next subject for every step. Not where hits are half of a lap.
    pub moves: bool,
}

impl Plan {
    /// Makes the plan of a workload.
    pub fn new(store: &Store, workload: Workload) -> Plan {
        let first = |wanted: fn(Kind) -> bool| store.first(wanted).unwrap_or_default();
        let (flags, subjects) = match workload {
            Workload::On => (vec![first(|kind| kind == Kind::On)], in_turn()),
            Workload::Rollout => (vec![first(|kind| kind == Kind::Rollout)], in_turn()),
            Workload::Rules => (vec![first(|kind| kind == Kind::Rules)], in_turn()),
            Workload::Segment => (vec![first(|kind| kind == Kind::Segment(0))], half_members()),
            Workload::SmallSegment => {
                (vec![first(|kind| kind == Kind::Segment(1))], half_members())
            }
            Workload::Prerequisites => {
                let two = |kind| matches!(kind, Kind::Prerequisites(_));
                (vec![first(two)], in_turn())
            }
            Workload::Mix => all_flags(store),
        };
        let len = flags.len().max(subjects.len());
        let steps = flags.iter().cycle().zip(subjects.iter().cycle()).take(len);
        let steps = steps.map(|(flag, subject)| Step {
            flag: store.flags[*flag].key.as_str().into(),
            subject: *subject,
            ask: ask(store.flags[*flag].kind),
        });
        Plan {
            workload,
            steps: steps.collect(),
            moves: workload == Workload::Mix,
        }
    }
}

/// What is asked of a flag of a kind.
pub fn ask(kind: Kind) -> Ask {
    match kind {
        Kind::Rules => Ask::Variant,
        _ => Ask::Boolean,
    }
}

fn in_turn() -> Vec<usize> {
    (0..SUBJECTS).collect()
}

/// As many members of both timed segments as strangers, in no order.
fn half_members() -> Vec<usize> {
    let members = (0..SUBJECTS / 2).map(|n| n % SEGMENTS[1].min(MEMBERS));
    let mut subjects: Vec<usize> = members.chain(MEMBERS..SUBJECTS).collect();
    Numbers::new(3).shuffle(&mut subjects);
    subjects
}

fn all_flags(store: &Store) -> (Vec<usize>, Vec<usize>) {
    let mut numbers = Numbers::new(1);
    let mut flags: Vec<usize> = (0..store.flags.len()).collect();
    numbers.shuffle(&mut flags);
    let subjects = flags.iter().map(|_| numbers.below(SUBJECTS)).collect();
    (flags, subjects)
}

/// Numbers without a pattern, the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
