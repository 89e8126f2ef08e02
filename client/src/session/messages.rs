//! What the session does with the messages of its stream.
//!
//! What must hold: a message changes the held state only to a later version of the same cluster, or
//! whole to a later version of another one (I6, I8); a proof is kept only with a state that includes
//! what it is about (I5); what does not add up changes nothing (I4).

use std::sync::Arc;
use std::time::Duration;

use pennon_evaluator::wire::{Intent, StreamMessage};
use pennon_evaluator::{
    AgeBound, DeltaRefused, EnvironmentKey, Freshness, Snapshot, Version, judge,
};

use super::stream::{Hello, Stream};
use super::{Phase, Session, stream_hello};
use crate::broken::Broken;
use crate::error::Error;
use crate::held::{Held, Source};

/// Why a connection is given up.
pub(super) enum Trouble {
    /// Go to another endpoint.
    Leave(Error),
    /// The same, and ask for everything: what is held or what came does not add up.
    Full(Error),
}

impl Session {
    /// Takes a message of the current stream and says whether what is held has changed.
    pub(super) fn take(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let proof = match Broken::FreshOnReceipt.is(self.settings.broken) {
            true => Broken::received(now),
            false => proof, // I5
        };
        let greeted = matches!(&self.phase, Phase::Streaming(Stream { hello: Some(_), .. }));
        match (message, greeted) {
            (message @ StreamMessage::Hello { .. }, _) => self.on_hello(message, proof, now),
            (message @ StreamMessage::Snapshot { .. }, true) => {
                self.on_snapshot(message, proof, now)
            }
            (message @ StreamMessage::Delta { .. }, true) => self.on_delta(message, proof, now),
            (StreamMessage::Heartbeat { version }, true) => self.on_heartbeat(version, proof, now),
            (StreamMessage::Reset { .. }, true) => {
                self.counters.resets += 1;
                if let Some(hello) = self.hello() {
                    hello.full = hello.full.or(Some(now));
                }
                Ok(false)
            }
            (StreamMessage::Acknowledge { version }, true) => {
                self.receipts.ask(version);
                Ok(false)
            }
            (message, _) => Err(Trouble::Leave(Error::protocol(format!(
                "the node sent a {} out of turn",
                message.name()
            )))),
        }
    }

    fn on_hello(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let StreamMessage::Hello {
            cluster_id,
            environment,
            intent,
            version,
            staleness_bound_ms,
            heartbeat_ms,
        } = message
        else {
            return Ok(false);
        };
        if environment != self.settings.environment {
            return Err(Trouble::Leave(Error::protocol(format!(
                "the node streams environment {environment}, not {}",
                self.settings.environment
            ))));
        }
        let foreign = self.is_foreign(&cluster_id);
        let have = self.held.as_ref().map(|held| held.snapshot.version());
        if foreign && have.is_some_and(|have| version <= have) {
            return Err(self.foreign(&cluster_id, version)); // I6
        }
        let before = self.hello().map(|hello| hello.cluster_id.clone());
        if before.is_some_and(|before| *before != *cluster_id) {
            let why = "the node says that it belongs to another cluster than before";
            return Err(Trouble::Leave(Error::protocol(why)));
        }
        let asked =
            matches!(&self.phase, Phase::Streaming(stream) if stream.goes_on()) && have.is_some();
        if !asked && intent != Intent::Full {
            let why = "the node says that nothing is missing, but there is no state to go on from";
            return Err(Trouble::Leave(Error::protocol(why)));
        }
        // What is held may be of another cluster: a proof about this one says nothing of it (I5).
        let foreign = foreign || !self.is_known();
        let full = foreign || intent == Intent::Full;
        let times = (staleness_bound_ms, heartbeat_ms);
        let hello = Hello::new(&cluster_id, times, full, proof, now);
        let bound = hello.bound;
        if let Phase::Streaming(stream) = &mut self.phase {
            stream.greet(hello);
        }
        self.connected_since.get_or_insert(now);
        self.receipts.open(heartbeat_ms);
        if foreign {
            return Ok(false);
        }
        let changed = match &mut self.held {
            Some(held) => {
                let before = held.bound();
                Arc::make_mut(held).set_bound(bound, self.settings.staleness_max);
                held.bound() != before
            }
            None => false,
        };
        Ok(self.prove(version, proof, now) || changed)
    }

    fn on_snapshot(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let Some((cluster_id, bound)) = self.hello().map(|h| (h.cluster_id.clone(), h.bound))
        else {
            return Ok(false);
        };
        self.counters.snapshots += 1;
        let version = match &message {
            StreamMessage::Snapshot { version, .. } => *version,
            _ => Version::ZERO,
        };
        let foreign = self.is_foreign(&cluster_id);
        if let Some(held) = &self.held {
            let have = match Broken::NewerOnly.is(self.settings.broken) {
                true => Version::ZERO,
                false => held.snapshot.version(),
            };
            if foreign && version <= have {
                return Err(self.foreign(&cluster_id, version)); // I6
            }
            if version < have {
                self.counters.refused_older += 1;
                let why = format!("the node offers version {version}, older than {have}");
                return Err(Trouble::Leave(Error::protocol(why))); // I6
            }
        }
        let snapshot = match load(message, &self.settings.environment) {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.counters.digest_failures += 1;
                return Err(Trouble::Full(error)); // I4
            }
        };
        self.counters.clusters += u64::from(foreign);
        let proof = match &self.held {
            // I5: a proof about another cluster says nothing about this state.
            Some(held) if !foreign => held.proof().fresher(proof),
            _ => proof,
        };
        let max = self.settings.staleness_max;
        self.held = Some(Arc::new(Held::new(snapshot, cluster_id, proof, bound, max)));
        self.full_wanted = false;
        self.saves.changed();
        if let Some(hello) = self.hello() {
            hello.full = None;
        }
        self.receipts.changed();
        self.note_fresh(proof, now);
        Ok(true)
    }

    fn on_delta(
        &mut self,
        message: StreamMessage,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        let full = self.hello().is_none_or(|hello| hello.full.is_some());
        let (Some(held), false) = (&mut self.held, full) else {
            let why = "the node sent a delta where only a snapshot can follow";
            return Err(Trouble::Leave(Error::protocol(why)));
        };
        self.counters.deltas += 1;
        let wrong =
            |error: &dyn std::fmt::Display| Error::protocol(format!("a delta is wrong: {error}"));
        let delta = message.into_delta(&self.settings.environment);
        let delta = match delta {
            Ok(Some(delta)) => delta,
            Ok(None) => return Ok(false),
            Err(error) => return Err(Trouble::Full(wrong(&error))),
        };
        match held.snapshot.apply(&delta) {
            Ok(snapshot) => {
                let held = Arc::make_mut(held);
                (held.snapshot, held.source) = (snapshot, Source::Node);
            }
            // I8: there is a gap. What is held is good; ask again from there.
            Err(error @ (DeltaRefused::WrongBase { .. } | DeltaRefused::NotNewer { .. })) => {
                self.counters.gaps += 1;
                return Err(Trouble::Leave(wrong(&error)));
            }
            Err(error) => {
                self.counters.digest_failures += 1;
                return Err(Trouble::Full(wrong(&error))); // I4
            }
        }
        self.receipts.changed();
        self.saves.changed();
        self.prove(delta.to, proof, now);
        Ok(true)
    }

    fn on_heartbeat(
        &mut self,
        version: Version,
        proof: AgeBound,
        now: Duration,
    ) -> Result<bool, Trouble> {
        self.counters.heartbeats += 1;
        let full = self.hello().is_none_or(|hello| hello.full.is_some());
        let (Some(held), false) = (&mut self.held, full) else {
            return Ok(false);
        };
        // I8: the stream is gapless, so nothing changed here up to this version.
        let mut changed = false;
        if version > held.snapshot.version() {
            let held = Arc::make_mut(held);
            held.snapshot = held.snapshot.with_version(version).map_err(|error| {
                Trouble::Leave(Error::protocol(format!("a heartbeat is wrong: {error}")))
            })?;
            changed = true;
        }
        Ok(self.prove(version, proof, now) || changed)
    }

    /// Keeps a proof about a version of the held cluster, if what is held includes that version.
    fn prove(&mut self, version: Version, proof: AgeBound, now: Duration) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        if version > held.snapshot.version() {
            return false; // I5
        }
        let fresher = held.proof().fresher(proof);
        let changed = fresher != held.proof();
        if changed {
            Arc::make_mut(held).set_proof(fresher);
        }
        self.note_fresh(proof, now);
        changed
    }

    /// Remembers what this stream is worth.
    fn note_fresh(&mut self, proof: AgeBound, now: Duration) {
        let Some(hello) = stream_hello(&mut self.phase) else {
            return;
        };
        hello.proof = hello.proof.fresher(proof);
        if judge(proof.age_max(now), hello.bound) == Freshness::Fresh {
            self.endpoints.good();
        }
    }

    fn foreign(&mut self, cluster_id: &str, version: Version) -> Trouble {
        self.counters.foreign += 1;
        let (ours, have) = match &self.held {
            Some(held) => (
                held.cluster_id.as_deref().unwrap_or("unknown"),
                held.snapshot.version(),
            ),
            None => ("none", Version::ZERO),
        };
        Trouble::Leave(Error::protocol(format!(
            "the node belongs to cluster {cluster_id} at version {version}; the state held is of \
             cluster {ours} at version {have}, and versions never go back"
        )))
    }

    fn is_foreign(&self, cluster_id: &str) -> bool {
        let held = self.held.as_ref().and_then(|held| held.cluster_id.as_ref());
        held.is_some_and(|held| **held != *cluster_id)
    }

    /// Whether it is known which cluster the state held is of; so it is while nothing is held.
    pub(super) fn is_known(&self) -> bool {
        let held = self.held.as_ref();
        held.is_none_or(|held| held.cluster_id.is_some())
    }
}

fn load(message: StreamMessage, environment: &EnvironmentKey) -> Result<Option<Snapshot>, Error> {
    let wrong =
        |error: &dyn std::fmt::Display| Error::protocol(format!("a snapshot is wrong: {error}"));
    let snapshot = message.into_snapshot(environment).map_err(|e| wrong(&e))?;
    let loaded = snapshot.map(|snapshot| Snapshot::load(&snapshot));
    loaded.transpose().map_err(|e| wrong(&e))
}
