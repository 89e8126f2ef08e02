//! History in memory: the plainest thing with the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use super::files::closed;
use super::sled::lock;
use super::store::Id;
use super::{Extent, History, HistoryOptions, HistoryRecord, Keep, READ_LIMIT_MAX, Refill};

/// History in memory, with the same limits and answers; gone with the value. For the simulation,
/// where a restarted node finds it empty and refills it.
#[derive(Debug)]
pub struct MemoryHistory {
    options: HistoryOptions,
    state: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    applied: u64,
    closed: bool,
    /// What was said last; until then what the options say.
    keep: Option<Keep>,
    records: BTreeMap<Id, Bytes>,
    objects: BTreeMap<Vec<u8>, BTreeSet<u64>>,
}

impl Memory {
    fn add(
        &mut self,
        records: impl IntoIterator<Item = HistoryRecord>,
        keep: &Keep,
        time_of: fn(&[u8]) -> u64,
    ) {
        for record in records {
            let versions = self.objects.entry(record.object.clone()).or_default();
            versions.insert(record.version);
            self.records
                .insert((record.version, record.object.clone()), record.body);
        }
        // Which records go is the same as if all came first: always the oldest.
        for (object, versions) in &mut self.objects {
            while versions.len() > keep.per_object_max.max(1) {
                let Some(version) = versions.pop_first() else {
                    break;
                };
                self.records.remove(&(version, object.clone()));
            }
        }
        while self.records.first_key_value().is_some_and(|(_, body)| {
            self.records.len() as u64 > keep.total_max.max(1) || time_of(body) < keep.since_ms
        }) {
            let Some(((version, object), _)) = self.records.pop_first() else {
                break;
            };
            if let Some(versions) = self.objects.get_mut(&object) {
                versions.remove(&version);
                if versions.is_empty() {
                    self.objects.remove(&object);
                }
            }
        }
    }

    fn newest_first(&self, before: Option<u64>) -> impl Iterator<Item = HistoryRecord> {
        let all = self.records.iter().rev();
        let below = all
            .skip_while(move |((version, _), _)| before.is_some_and(|before| *version >= before));
        below.map(|((version, object), body)| HistoryRecord {
            object: object.clone(),
            version: *version,
            body: body.clone(),
        })
    }
}

impl MemoryHistory {
    /// An empty history. The sizes in bytes are not used.
    pub fn new(options: HistoryOptions) -> Self {
        Self {
            options,
            state: Mutex::default(),
        }
    }

    fn open_state(&self) -> io::Result<MutexGuard<'_, Memory>> {
        let state = lock(&self.state);
        if state.closed {
            Err(closed())
        } else {
            Ok(state)
        }
    }
}

impl History for MemoryHistory {
    fn begin(&self, applied: u64, refill: Refill) -> io::Result<()> {
        match self.applied() < applied {
            true => refill(self),
            false => Ok(()),
        }
    }

    fn record(&self, applied: u64, records: Vec<HistoryRecord>) {
        let Ok(mut state) = self.open_state() else {
            return;
        };
        if applied > state.applied {
            let keep = state.keep.unwrap_or(self.options.keep);
            state.add(records, &keep, self.options.time_of);
            state.applied = applied;
        }
    }

    fn keep(&self, keep: Keep) {
        lock(&self.state).keep = Some(keep);
    }

    fn applied(&self) -> u64 {
        lock(&self.state).applied
    }

    fn drain(&self) -> io::Result<u64> {
        self.open_state().map(|state| state.applied)
    }

    fn of_object(
        &self,
        object: &[u8],
        before: Option<u64>,
        limit: usize,
    ) -> io::Result<Vec<HistoryRecord>> {
        let state = self.open_state()?;
        let of_it = state
            .newest_first(before)
            .filter(|record| record.object == object);
        Ok(of_it.take(limit.min(READ_LIMIT_MAX)).collect())
    }

    fn latest(&self, before: Option<u64>, limit: usize) -> io::Result<Vec<HistoryRecord>> {
        let limit = limit.min(READ_LIMIT_MAX);
        let state = self.open_state()?;
        let mut records: Vec<HistoryRecord> = Vec::new();
        for record in state
            .newest_first(before)
            .take(if limit == 0 { 0 } else { usize::MAX })
        {
            if records.len() >= limit
                && records
                    .last()
                    .is_some_and(|last| last.version != record.version)
            {
                break;
            }
            records.push(record);
        }
        Ok(records)
    }

    fn extent(&self, object: &[u8]) -> io::Result<Extent> {
        let state = self.open_state()?;
        let versions = state.objects.get(object);
        Ok(Extent {
            of_object: versions.map_or(0, BTreeSet::len) as u64,
            oldest_of_object: versions.and_then(BTreeSet::first).copied(),
            of_all: state.records.len() as u64,
            oldest: state.records.keys().next().map(|(version, _)| *version),
        })
    }

    fn for_each_up_to(
        &self,
        version_max: u64,
        f: &mut dyn FnMut(HistoryRecord) -> io::Result<()>,
    ) -> io::Result<()> {
        // A copy, so that `f` may call the history.
        let records: Vec<_> = self
            .open_state()?
            .newest_first(version_max.checked_add(1))
            .collect();
        records.into_iter().try_for_each(f)
    }

    fn replace_all(
        &self,
        applied: u64,
        records: &mut dyn Iterator<Item = io::Result<HistoryRecord>>,
    ) -> io::Result<()> {
        let records = records.collect::<io::Result<Vec<_>>>()?;
        let mut state = self.open_state()?;
        let mut fresh = Memory {
            applied,
            keep: state.keep,
            ..Memory::default()
        };
        let keep = state.keep.unwrap_or(self.options.keep);
        fresh.add(records, &keep, self.options.time_of);
        *state = fresh;
        Ok(())
    }

    fn failed(&self) -> Option<String> {
        None
    }

    fn close(&self) {
        lock(&self.state).closed = true;
    }
}
