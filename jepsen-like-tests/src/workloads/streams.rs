//! W3: clients that hold a stream open: some stay, some go from node to node, some stop reading for a
//! while, some come back with a version around the one they had.
//!
//! Frames, message by message, and nothing kept: what the messages add up to is the judge's part. Asked for
//! a receipt they give one, so that they are laggards only when they lag.

use std::time::Duration;

use pennon_evaluator::wire::{Ages, Intent, StreamMessage};
use pennon_evaluator::{EncodedState, EnvironmentKey, StateKey, Version};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Site;
use crate::failure::{Failure, Result};
use crate::history::{Event, StateSeen, StreamEvent, StreamItem};
use crate::http1::Call;
use crate::streams::Frames;

/// A stream that says nothing for so long is given up: far more than a third of any bound.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait until a receipt was taken; then the client reads on, and its stream is not held up for long.
const RECEIPT_MAX: Duration = Duration::from_millis(300);

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Stays,
    Roams,
    Stalls,
    /// Asks for changes since a version that it does not hold.
    Jumps,
}

const HABITS: [Habit; 4] = [Habit::Stays, Habit::Roams, Habit::Stalls, Habit::Jumps];

/// Starts clients under these numbers, one habit after the other.
///
/// # Errors
/// When the environment has no name that can be one.
pub fn start(site: &Site, clients: &[u32]) -> Result<JoinSet<Result<()>>> {
    let scope: EnvironmentKey = site.environment.parse().map_err(Failure::new)?;
    let mut tasks = JoinSet::new();
    for (n, client) in clients.iter().enumerate() {
        let worker = Worker {
            site: site.clone(),
            scope: scope.clone(),
            client: *client,
            habit: HABITS[n % HABITS.len()],
            random: site.random(*client),
            node: *client as usize,
            connection: 0,
            held: None,
        };
        tasks.spawn(worker.run());
    }
    Ok(tasks)
}

struct Worker {
    site: Site,
    scope: EnvironmentKey,
    client: u32,
    habit: Habit,
    random: StdRng,
    node: usize,
    connection: u32,
    /// The version it has.
    held: Option<u64>,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        while !self.site.is_over() {
            self.connect().await?;
            self.node += 1;
            self.site.rest(PAUSE).await;
        }
        Ok(())
    }

    /// Holds one connection until it ends, or this client's habit ends it.
    async fn connect(&mut self) -> Result<()> {
        self.connection += 1;
        let since = match self.habit {
            Habit::Jumps => self.held.map(|held| {
                let by: i64 = self.random.random_range(-100..=100);
                held.saturating_add_signed(by)
            }),
            _ => self.held,
        };
        let since = since.filter(|_| self.random.random_range(0..10) > 0);
        let (node, address) = self.site.way(self.client, self.node);
        let mut path = format!(
            "/v1/environments/{}/stream?client=stream-{}",
            self.site.environment, self.client
        );
        if let Some(since) = since {
            path += &format!("&since={since}");
        }
        let opening =
            tokio::time::timeout(SILENCE_MAX, Frames::dial(&self.site.dial, &address, &path));
        let Ok(Ok(mut frames)) = opening.await else {
            return Ok(());
        };
        self.note(StreamItem::Asked { node, since });
        self.held = since;
        let end = match self.habit {
            Habit::Stays | Habit::Stalls => None,
            _ => {
                Some(Instant::now() + Duration::from_millis(self.random.random_range(200..=4_000)))
            }
        };
        loop {
            if self.site.is_over() || end.is_some_and(|end| Instant::now() >= end) {
                break;
            }
            if self.habit == Habit::Stalls && self.random.random_range(0..200) == 0 {
                let stall = Duration::from_millis(self.random.random_range(500..=6_000));
                self.site.rest(stall).await;
            }
            match frames.next(SILENCE_MAX).await {
                Ok(Some((_, StreamMessage::Acknowledge { .. }))) => {
                    self.acknowledge(&address).await
                }
                Ok(Some((ages, message))) => self.take(ages, message)?,
                Ok(None) | Err(_) => break,
            }
        }
        self.note(StreamItem::Cut);
        Ok(())
    }

    /// Says which version it has; when nobody takes that, it lags.
    async fn acknowledge(&self, address: &str) {
        let Some(held) = self.held else { return };
        let path = format!("/v1/environments/{}/receipts", self.site.environment);
        let client = format!("stream-{}", self.client);
        let call = Call::post(path, &json!({"client": client, "version": held}));
        let _ = call.over(&self.site.dial, address, RECEIPT_MAX).await;
    }

    fn take(&mut self, ages: Ages, message: StreamMessage) -> Result<()> {
        if let Some(item) = item(&self.scope, ages, message)? {
            match &item {
                StreamItem::Snapshot { version, .. }
                | StreamItem::Delta { to: version, .. }
                | StreamItem::Heartbeat { version, .. } => self.held = Some(*version),
                _ => {}
            }
            self.note(item);
        }
        Ok(())
    }

    fn note(&self, item: StreamItem) {
        self.site.recorder.add_event(Event::Stream(StreamEvent {
            at: self.site.recorder.now(),
            client: self.client,
            connection: self.connection,
            scope: self.site.environment.clone(),
            item,
        }));
    }
}

/// A message as it is written down; `None` for one that says nothing of states.
fn item(scope: &EnvironmentKey, ages: Ages, message: StreamMessage) -> Result<Option<StreamItem>> {
    let fresh_age_ms = ages.fresh_age_ms;
    Ok(Some(match message {
        StreamMessage::Hello {
            cluster_id,
            intent,
            version,
            staleness_bound_ms,
            ..
        } => StreamItem::Hello {
            cluster: cluster_id.into(),
            intent: match intent {
                Intent::None => "none",
                Intent::Changes => "changes",
                Intent::Full => "full",
            }
            .into(),
            version: version.get(),
            bound_ms: staleness_bound_ms,
        },
        StreamMessage::Snapshot {
            version,
            states,
            digest,
        } => StreamItem::Snapshot {
            version: version.get(),
            states: seen(scope, states)?,
            digest,
            fresh_age_ms,
        },
        StreamMessage::Delta {
            from,
            to,
            upserts,
            removals,
            digest,
        } => StreamItem::Delta {
            from: from.get(),
            to: to.get(),
            upserts: seen(scope, upserts)?,
            removals: removals
                .iter()
                .map(|key: &StateKey| key.to_string().into())
                .collect(),
            digest,
            fresh_age_ms,
        },
        StreamMessage::Heartbeat { version } => StreamItem::Heartbeat {
            version: Version::get(version),
            open_ms: ages.open_ms,
            fresh_age_ms,
        },
        StreamMessage::Goodbye { .. } => StreamItem::Goodbye,
        StreamMessage::Reset { .. } => StreamItem::Reset,
        StreamMessage::Acknowledge { .. } => return Ok(None),
    }))
}

fn seen(scope: &EnvironmentKey, states: Vec<bytes::Bytes>) -> Result<Vec<StateSeen>> {
    let decoded = states.into_iter().map(|bytes| {
        let state = EncodedState::from_bytes(scope, bytes).map_err(Failure::new)?;
        StateSeen::new(&state).map_err(Failure::new)
    });
    decoded.collect()
}
