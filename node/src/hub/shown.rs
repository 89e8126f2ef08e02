//! What a scope of streams shows: one view of one environment, or of what one application needs of
//! it, and the proof of freshness that covers it.
//!
//! What must hold: a client is told what takes it from exactly what it has (I8). For a whole
//! environment the view knows that. What an application had at an earlier version is not in the
//! view: it is remembered for the versions at which it was looked at and nothing changed in between.
//! Who comes with another version gets everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::{ConfigSnapshot, Delta, Digest, EnvironmentKey, StateKey, Version};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::{Since, View};

use crate::core::Core;

/// Earlier contents of an application that are remembered.
const PAST_MAX: usize = 256;

/// Heartbeats come at least this often.
const HEARTBEAT_MAX: Duration = Duration::from_secs(2);

/// How often a stream hears something, for a staleness bound: at most a third of it apart.
pub(super) fn heartbeat_of(staleness_bound: Duration) -> Duration {
    (staleness_bound / 4).min(HEARTBEAT_MAX)
}

/// What streams have in common that are sent the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// The environment.
    pub environment: EnvironmentKey,
    /// The application, if it is not about the whole environment.
    pub application: Option<Arc<str>>,
}

/// What is shown to the streams of a scope.
#[derive(Clone, Debug)]
pub struct Shown {
    pub(crate) scope: Arc<Scope>,
    pub(crate) view: View,
    /// A moment before which everything committed is in the view; `None` before the first proof.
    pub(crate) fresh_at: Option<Duration>,
    /// Receipts are wanted up to this version.
    pub(crate) wanted: Version,
    settings: Settings,
    /// What the application needs, if the scope is about one that exists.
    members: Option<Arc<Members>>,
}

/// What the environment says of itself, read from the object of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    version: Version,
    bound: Duration,
}

/// What an application needs, now and earlier.
#[derive(Clone, Debug)]
struct Members {
    digest: Digest,
    /// The version shown when it last changed: who is in it, or one of their states.
    changed_at: Version,
    now: Epoch,
    /// From the oldest on.
    past: Vec<Epoch>,
}

/// The states that an application had at these versions.
#[derive(Clone, Debug)]
struct Epoch {
    from: Version,
    to: Version,
    keys: Arc<BTreeSet<StateKey>>,
}

/// How a client stands to what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has it.
    Nothing,
    /// It lacks some changes.
    Changes,
    /// It has nothing, or something of which it is not known what it lacks.
    Full,
    /// It has a later version.
    Ahead,
    /// There is nothing to show.
    Gone,
}

impl Shown {
    /// Shows a view.
    pub(crate) fn new(scope: Scope, view: View, fresh_at: Option<Duration>) -> Self {
        let members = Members::of(&scope, &view).map(Arc::new);
        let settings = Settings::of(&scope, &view);
        Self {
            scope: Arc::new(scope),
            view,
            fresh_at,
            wanted: Version::ZERO,
            settings,
            members,
        }
    }

    /// The same for a later view. Says whether it shows anything else.
    pub(crate) fn later(&self, view: &View, fresh_at: Option<Duration>) -> (Self, bool) {
        let touched = self.is_touched(view);
        let members = match (&self.scope.application, &self.members) {
            (Some(_), Some(before)) if touched => before.later(self, view),
            (Some(_), Some(before)) => Some(before.still(view.version())),
            (Some(_), None) => Members::of(&self.scope, view),
            (None, _) => None,
        };
        let settings = match self.settings.version == settings_version(&self.scope, view) {
            true => self.settings,
            false => Settings::of(&self.scope, view),
        };
        let content = |view: &View, members: Option<&Members>| match &self.scope.application {
            Some(_) => members.map(|members| members.changed_at),
            None => content_version(&self.scope, view),
        };
        let before = (content(&self.view, self.members.as_deref()), self.bound());
        let differs = before != (content(view, members.as_ref()), settings.bound);
        let later = Self {
            scope: self.scope.clone(),
            view: view.clone(),
            fresh_at,
            wanted: self.wanted,
            settings,
            members: members.map(Arc::new),
        };
        (later, differs)
    }

    /// Whether anything changed that this could depend on.
    pub(crate) fn is_touched(&self, later: &View) -> bool {
        let state = |view: &View| {
            let application = self.scope.application.clone().map(ObjectId::application);
            let object = application.and_then(|id| view.object(&id).map(|object| object.version));
            let settings = settings_version(&self.scope, view);
            (content_version(&self.scope, view), object, settings)
        };
        state(&self.view) != state(later)
    }

    /// The staleness bound that holds for what is shown.
    pub(crate) fn bound(&self) -> Duration {
        self.settings.bound
    }

    /// Compares with the version that a client has.
    pub(crate) fn standing(&self, have: Option<Version>) -> Standing {
        let Some(here) = self.view.compiled(&self.scope.environment) else {
            return Standing::Gone;
        };
        let members = match (&self.scope.application, &self.members) {
            (Some(_), None) => return Standing::Gone,
            (_, members) => members.as_deref(),
        };
        let Some(have) = have else {
            return Standing::Full;
        };
        let known = members.is_none_or(|members| members.at(have).is_some());
        let changed_at = members.map_or(here.changed_at(), |members| members.changed_at);
        if have > self.view.version() {
            Standing::Ahead
        } else if have < here.floor() || !known {
            Standing::Full
        } else if have >= changed_at {
            Standing::Nothing
        } else {
            Standing::Changes
        }
    }

    /// Everything.
    pub(crate) fn snapshot(&self) -> Option<ConfigSnapshot> {
        let environment = &self.scope.environment;
        match &self.members {
            Some(members) => self.view.snapshot_of(environment, &members.now.keys),
            None => self.view.config_snapshot(environment),
        }
    }

    /// What changed since a version; `None` when there is no delta from there.
    pub(crate) fn delta(&self, since: Version) -> Option<Delta> {
        let delta = match self.view.since(&self.scope.environment, since) {
            Since::Changes(delta) => Some(delta),
            Since::Nothing | Since::Full | Since::Ahead => None,
        };
        let Some(members) = &self.members else {
            return delta;
        };
        let then = members.at(since)?;
        let now = &members.now.keys;
        let mut upserts = delta.map_or_else(Vec::new, |delta| delta.upserts);
        upserts.retain(|state| now.contains(state.state_key()));
        let changed: BTreeSet<&StateKey> = upserts.iter().map(|state| state.state_key()).collect();
        let new: BTreeSet<StateKey> = now
            .difference(then)
            .filter(|key| !changed.contains(key))
            .cloned()
            .collect();
        let new = self.view.snapshot_of(&self.scope.environment, &new)?;
        upserts.extend(new.states().iter().cloned());
        Some(Delta {
            environment: self.scope.environment.clone(),
            from: since,
            to: self.view.version(),
            upserts,
            removals: then.difference(now).cloned().collect(),
            digest: members.digest,
        })
    }
}

/// When the environment of a scope last changed.
fn content_version(scope: &Scope, view: &View) -> Option<Version> {
    let here = view.compiled(&scope.environment);
    here.map(|here| here.changed_at())
}

/// When its settings did; 0 without an environment.
fn settings_version(scope: &Scope, view: &View) -> Version {
    let id = ObjectId::environment_object(scope.environment.shared());
    let object = view.object(&id);
    object.map_or(Version::ZERO, |object| object.version)
}

impl Settings {
    fn of(scope: &Scope, view: &View) -> Self {
        let environment = Core::environment(view, &scope.environment).unwrap_or_default();
        Self {
            version: settings_version(scope, view),
            bound: environment.staleness_bound(),
        }
    }
}

impl Members {
    /// What the application of a scope needs in a view; `None` without one.
    fn of(scope: &Scope, view: &View) -> Option<Self> {
        let application = scope.application.as_ref()?;
        let keys = view.members(&scope.environment, application)?;
        let version = view.version();
        Some(Self {
            digest: digest_of(scope, view, &keys),
            changed_at: version,
            now: Epoch {
                from: version,
                to: version,
                keys: Arc::new(keys),
            },
            past: Vec::new(),
        })
    }

    /// The same at a later version, nothing having been touched in between.
    fn still(&self, version: Version) -> Self {
        let mut still = self.clone();
        still.now.to = version;
        still
    }

    /// What it needs in a later view, in which something was touched. Versions in between that nobody
    /// looked at stay unknown: another node may have shown them.
    fn later(&self, before: &Shown, view: &View) -> Option<Self> {
        let mut later = Self::of(&before.scope, view)?;
        if later.now.keys == self.now.keys {
            later.now.keys = self.now.keys.clone();
        }
        // The digest covers the states with their versions: what is the same adds up to the same.
        if later.digest == self.digest && later.now.keys == self.now.keys {
            later.changed_at = self.changed_at;
        }
        later.past = self.past.clone();
        later.past.push(self.now.clone());
        let surplus = later.past.len().saturating_sub(PAST_MAX);
        later.past.drain(..surplus);
        Some(later)
    }

    /// The states that it had at a version, if that is known.
    fn at(&self, version: Version) -> Option<&BTreeSet<StateKey>> {
        let all = std::iter::once(&self.now).chain(self.past.iter().rev());
        let mut of = all.filter(|epoch| (epoch.from..=epoch.to).contains(&version));
        of.next().map(|epoch| &*epoch.keys)
    }
}

fn digest_of(scope: &Scope, view: &View, keys: &BTreeSet<StateKey>) -> Digest {
    let here = view.compiled(&scope.environment);
    let states = keys
        .iter()
        .filter_map(|key| here.and_then(|here| here.state(key)));
    Digest::of(states.map(|state| &state.encoded))
}

#[cfg(test)]
mod tests {
    use super::super::cursor::tests::{e, machine, write};
    use super::*;
    use pennon_evaluator::Snapshot;
    use pennon_raft_store::machine::Machine;

    const FLAG: &str =
        r#"{"type":"boolean","variants":{"on":true,"off":false},"off_variant":"off","tags":["T"]}"#;

    fn put_flag(machine: &mut Machine, key: &str, tag: &str) {
        write(machine, ObjectId::flag(key), &FLAG.replace('T', tag));
    }

    fn put_policy(machine: &mut Machine, key: &str, when: &str) {
        let policy = r#"{"enabled":true,"default":{"variant":"off"},"rules":[WHEN]}"#;
        let policy = policy.replace("WHEN", when);
        write(machine, ObjectId::policy(e(), key), &policy);
    }

    const BY_SEGMENT: &str =
        r#"{"when":[{"op":"in_segment","values":["s"]}],"serve":{"variant":"on"}}"#;

    fn scope() -> Scope {
        Scope {
            environment: e(),
            application: Some("shop".into()),
        }
    }

    fn view(machine: &Machine) -> View {
        Arc::new(machine.clone())
    }

    fn keys(snapshot: &ConfigSnapshot) -> Vec<String> {
        let states = snapshot.states().iter();
        states.map(|state| state.state_key().to_string()).collect()
    }

    /// The segment `s`, a flag `a` of the shop, a flag `b` of somebody else, the shop.
    fn furnished() -> Machine {
        let mut machine = machine();
        put_flag(&mut machine, "a", "shop");
        put_flag(&mut machine, "b", "other");
        put_policy(&mut machine, "a", "");
        put_policy(&mut machine, "b", "");
        let shop = ObjectId::application("shop");
        write(&mut machine, shop, r#"{"tags":["shop"]}"#);
        machine
    }

    /// Goes on to what the machine holds, as a client with every version shown before: what it has
    /// then is what it would get as a whole.
    fn follow(shown: &mut Shown, clients: &mut Vec<Snapshot>, machine: &Machine) -> bool {
        let (later, differs) = shown.later(&view(machine), None);
        *shown = later;
        let whole = shown.snapshot().unwrap();
        for client in clients.iter_mut() {
            match shown.standing(Some(client.version())) {
                Standing::Nothing => {}
                Standing::Changes => {
                    let delta = shown.delta(client.version()).unwrap();
                    *client = client.apply(&delta).expect("a delta that fits");
                }
                other => panic!("{other:?} at {}", client.version()),
            }
            assert_eq!(client.digest(), whole.digest()); // I8
        }
        clients.push(Snapshot::load(&whole).unwrap());
        differs
    }

    #[test]
    fn an_application_sees_its_flags_with_what_they_use_and_nothing_else() {
        let mut machine = furnished();
        let mut shown = Shown::new(scope(), view(&machine), None);
        assert_eq!(keys(&shown.snapshot().unwrap()), ["flag/a"]);
        let mut clients = vec![Snapshot::load(&shown.snapshot().unwrap()).unwrap()];
        // The segment did not change, but it is needed now.
        put_policy(&mut machine, "a", BY_SEGMENT);
        assert!(follow(&mut shown, &mut clients, &machine));
        assert_eq!(keys(&shown.snapshot().unwrap()), ["flag/a", "segment/s"]);
        write(
            &mut machine,
            ObjectId::segment(e(), "s"),
            r#"{"included":["u"]}"#,
        );
        assert!(follow(&mut shown, &mut clients, &machine));
        // Somebody else's flag, and then it is tagged; then not any more; then the shop wants it.
        put_policy(&mut machine, "b", BY_SEGMENT);
        assert!(
            !follow(&mut shown, &mut clients, &machine),
            "none of its business"
        );
        put_flag(&mut machine, "b", "shop");
        assert!(follow(&mut shown, &mut clients, &machine));
        put_flag(&mut machine, "b", "other");
        assert!(follow(&mut shown, &mut clients, &machine));
        assert_eq!(keys(&shown.snapshot().unwrap()), ["flag/a", "segment/s"]);
        let shop = ObjectId::application("shop");
        write(&mut machine, shop.clone(), r#"{"tags":["other"]}"#);
        assert!(follow(&mut shown, &mut clients, &machine));
        assert_eq!(keys(&shown.snapshot().unwrap()), ["flag/b", "segment/s"]);
        put_policy(&mut machine, "b", "");
        assert!(follow(&mut shown, &mut clients, &machine));
        assert_eq!(keys(&shown.snapshot().unwrap()), ["flag/b"]);
        let elsewhere = ObjectId::segment("other".parse().unwrap(), "s");
        write(&mut machine, elsewhere, "{}");
        assert!(!follow(&mut shown, &mut clients, &machine));
    }

    #[test]
    fn a_version_that_nobody_looked_at_gets_everything() {
        let mut machine = furnished();
        let shown = Shown::new(scope(), view(&machine), None);
        let first = machine.version();
        // Another node could have shown the version in between, with the flag in it.
        put_flag(&mut machine, "b", "shop");
        let between = machine.version();
        put_flag(&mut machine, "b", "other");
        let (later, differs) = shown.later(&view(&machine), None);
        assert!(!differs);
        assert_eq!(later.standing(Some(first)), Standing::Nothing);
        assert_eq!(later.standing(Some(between)), Standing::Full);
        assert_eq!(later.standing(Some(machine.version())), Standing::Nothing);
        assert_eq!(shown.standing(Some(between)), Standing::Ahead);
    }

    #[test]
    fn without_its_application_a_scope_is_gone() {
        let mut machine = machine();
        let shown = Shown::new(scope(), view(&machine), None);
        assert_eq!(shown.standing(None), Standing::Gone);
        let shop = ObjectId::application("shop");
        write(&mut machine, shop, r#"{"tags":["shop"]}"#);
        let (later, differs) = shown.later(&view(&machine), None);
        assert!(differs);
        assert_eq!(later.standing(None), Standing::Full);
        assert_eq!(keys(&later.snapshot().unwrap()), Vec::<String>::new());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut machine = furnished();
        let mut shown = Shown::new(scope(), view(&machine), None);
        let first = machine.version();
        for n in 0..PAST_MAX + 10 {
            write(
                &mut machine,
                ObjectId::segment(e(), "s"),
                &format!(r#"{{"included":["{n}"]}}"#),
            );
            shown = shown.later(&view(&machine), None).0;
        }
        let members = shown.members.as_ref().unwrap();
        assert_eq!(members.past.len(), PAST_MAX);
        let same = members
            .past
            .iter()
            .all(|epoch| Arc::ptr_eq(&epoch.keys, &members.now.keys));
        assert!(same, "one set for all");
        assert_eq!(shown.standing(Some(first)), Standing::Full);
    }
}
