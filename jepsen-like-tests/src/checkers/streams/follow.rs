//! One client and what it holds, message by message.

use super::*;

/// A client, over all its connections.
#[derive(Default)]
pub(super) struct Follower<'a> {
    connection: Option<Connection>,
    cluster: Option<&'a Arc<str>>,
    /// What it holds; `None` before its first snapshot, and when it resumes from a version at which
    /// nobody knows what it would hold.
    states: Option<States<'a>>,
    /// The version it holds, also between two connections.
    version: Option<u64>,
    held: Vec<Held>,
}

/// The hash of each state, and their sum.
#[derive(Default)]
struct States<'a> {
    hashes: HashMap<&'a str, Digest>,
    digest: Digest,
}

impl<'a> States<'a> {
    fn insert(&mut self, key: &'a str, hash: Digest) {
        self.remove(key);
        self.digest.add(hash.get());
        self.hashes.insert(key, hash);
    }

    fn remove(&mut self, key: &str) {
        if let Some(hash) = self.hashes.remove(key) {
            self.digest.remove(hash.get());
        }
    }
}

/// The same states over a range of versions.
pub(super) struct Held {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) digest: Digest,
    pub(super) place: Place,
}

#[derive(Clone, Copy)]
struct Connection {
    number: u32,
    greeted: bool,
    over: bool,
    resumed: bool,
}

impl<'a> Follower<'a> {
    /// The ranges over which its states were known.
    pub(super) fn into_held(self) -> Vec<Held> {
        self.held
    }

    pub(super) fn take(
        &mut self,
        event: &'a StreamEvent,
        truth: &Truth<'a>,
        counts: &mut Counts,
        complaints: &mut Complaints<Rule>,
    ) {
        if let StreamItem::Asked { since, .. } = &event.item {
            return self.ask(event, *since);
        }
        if event.item == StreamItem::Cut {
            self.connection = None;
            return;
        }
        self.check_form(event, complaints);
        match &event.item {
            StreamItem::Hello { cluster, .. } => self.greet(event, cluster, complaints),
            StreamItem::Snapshot {
                version,
                states,
                digest,
                ..
            } => {
                counts.snapshots += 1;
                self.replace(event, *version, states, *digest, complaints);
            }
            StreamItem::Delta { .. } => self.change(event, truth, counts, complaints),
            StreamItem::Heartbeat { version, .. } => {
                counts.heartbeats += 1;
                self.beat(event, *version, truth, complaints);
            }
            StreamItem::Goodbye | StreamItem::Reset => {
                if let Some(connection) = &mut self.connection {
                    connection.greeted = true;
                    connection.over = event.item == StreamItem::Goodbye;
                }
            }
            StreamItem::Asked { .. } | StreamItem::Cut => {}
        }
    }

    fn ask(&mut self, event: &StreamEvent, since: Option<u64>) {
        self.connection = Some(Connection {
            number: event.connection,
            greeted: false,
            over: false,
            resumed: since.is_some(),
        });
        if since != self.version || since.is_none() {
            self.version = since;
            self.states = None;
        }
    }

    fn check_form(&self, event: &StreamEvent, complaints: &mut Complaints<Rule>) {
        let begins = matches!(
            event.item,
            StreamItem::Hello { .. } | StreamItem::Reset | StreamItem::Goodbye
        );
        let wrong = match self.connection {
            None => Some("without a connection"),
            Some(one) if one.number != event.connection => Some("on another connection"),
            Some(one) if one.over => Some("after a goodbye"),
            Some(one) if !one.greeted && !begins => Some("before a hello"),
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            let what = format!("{} {wrong}", shown(event));
            complaints.add_at(event, Rule::Form, what);
        }
    }

    fn greet(
        &mut self,
        event: &StreamEvent,
        cluster: &'a Arc<str>,
        complaints: &mut Complaints<Rule>,
    ) {
        if let Some(connection) = &mut self.connection {
            connection.greeted = true;
        }
        let before = *self.cluster.get_or_insert(cluster);
        if before != cluster {
            let what = format!("{}: {cluster}, before {before}", shown(event));
            complaints.add_at(event, Rule::OtherCluster, what);
        }
    }

    fn replace(
        &mut self,
        event: &StreamEvent,
        version: u64,
        states: &'a [StateSeen],
        digest: Digest,
        complaints: &mut Complaints<Rule>,
    ) {
        // I6
        if let Some(have) = self.version.filter(|have| version < *have) {
            let what = format!("{} to a client that has {have}", shown(event));
            complaints.add_at(event, Rule::WentBack, what);
        }
        if let Some(newer) = states.iter().find(|state| state.changed_at > version) {
            let what = format!("{}: {newer:?}", shown(event));
            complaints.add_at(event, Rule::OutOfRange, what);
        }
        let mut held = States::default();
        states
            .iter()
            .for_each(|state| held.insert(&state.key, state.hash));
        self.states = Some(held);
        self.version = Some(version);
        self.hold(event, version, digest, complaints);
    }

    fn change(
        &mut self,
        event: &'a StreamEvent,
        truth: &Truth<'a>,
        counts: &mut Counts,
        complaints: &mut Complaints<Rule>,
    ) {
        let StreamItem::Delta {
            from,
            to,
            upserts,
            removals,
            digest,
            ..
        } = &event.item
        else {
            return;
        };
        counts.deltas += 1;
        if let Some(connection) = &mut self.connection {
            counts.resumes += usize::from(std::mem::take(&mut connection.resumed));
        }
        if self.version != Some(*from) {
            let what = format!("{} to a client that has {:?}", shown(event), self.version);
            complaints.add_at(event, Rule::Gap, what); // I8
            self.states = None;
        }
        if to <= from {
            complaints.add_at(event, Rule::WentBack, shown(event)); // I6
        }
        let whole = !event.scope.contains('/');
        let range =
            |state: &&StateSeen| state.changed_at > *to || (whole && state.changed_at <= *from);
        if let Some(state) = upserts.iter().find(range) {
            let what = format!("{}: {state:?}", shown(event));
            complaints.add_at(event, Rule::OutOfRange, what);
        }
        let named = upserts.iter().map(|state| &*state.key);
        let named: BTreeSet<&str> = named.chain(removals.iter().map(AsRef::as_ref)).collect();
        // I3, I8
        if let Some(missed) = truth.missed(&event.scope, (*from, *to), &named) {
            let what = format!("{}, although {missed}", shown(event));
            complaints.add_at(event, Rule::NotWhole, what);
        }
        if let Some(states) = &mut self.states {
            for key in removals {
                states.remove(key);
            }
            for state in upserts {
                states.insert(&state.key, state.hash);
            }
        }
        self.version = Some(*to);
        self.hold(event, *to, *digest, complaints);
    }

    fn beat(
        &mut self,
        event: &StreamEvent,
        version: u64,
        truth: &Truth<'a>,
        complaints: &mut Complaints<Rule>,
    ) {
        let Some(have) = self.version else {
            let what = format!("{} to a client that has nothing", shown(event));
            complaints.add_at(event, Rule::Gap, what);
            return;
        };
        if version < have {
            let what = format!("{} to a client that has {have}", shown(event));
            complaints.add_at(event, Rule::WentBack, what); // I6
            return;
        }
        // I8
        if let Some(missed) = truth.missed(&event.scope, (have, version), &BTreeSet::new()) {
            let what = format!(
                "{} to a client that has {have}, although {missed}",
                shown(event)
            );
            complaints.add_at(event, Rule::HeartbeatAhead, what);
        }
        self.version = Some(version);
        if let Some(last) = self.held.last_mut().filter(|last| last.to == have) {
            last.to = version;
        }
    }

    /// What it holds now, which has to be what it was told.
    fn hold(
        &mut self,
        event: &StreamEvent,
        version: u64,
        told: Digest,
        complaints: &mut Complaints<Rule>,
    ) {
        if let Some(states) = &self.states {
            let digest = states.digest;
            // I4, I8
            if digest != told {
                let what = format!(
                    "{}: {} states add up to {digest}",
                    shown(event),
                    states.hashes.len()
                );
                complaints.add_at(event, Rule::DigestMismatch, what);
                // What it does next is to ask for a snapshot.
                self.states = None;
            }
        }
        self.held.push(Held {
            from: version,
            to: version,
            digest: told,
            place: event.into(),
        });
    }
}

/// A message as people read it.
fn shown(event: &StreamEvent) -> String {
    let StreamEvent {
        at,
        client,
        connection,
        scope,
        item,
    } = event;
    let item = match item {
        StreamItem::Snapshot {
            version, digest, ..
        } => format!("snapshot {version} ({digest})"),
        StreamItem::Delta {
            from, to, digest, ..
        } => format!("delta {from}..{to} ({digest})"),
        StreamItem::Heartbeat { version, .. } => format!("heartbeat {version}"),
        other => format!("{other:?}"),
    };
    format!(
        "[client {client}.{connection} {} µs {scope} {item}]",
        at / 1_000
    )
}
