//! The audit list: every change of every object, newest first, and filters over it.
//!
//! What must hold: every node that has a version says the same of it; a page ends with a whole
//! version, so that paging by `before` skips nothing and repeats nothing; one request looks at a
//! bounded number of changes and bytes, whatever it filters, and `next` says where to go on.
//!
//! Left out: the history of one object under its own path (`history.rs`).

use std::io;

use pennon_evaluator::{EnvironmentKey, Version};
use pennon_raft_store::changes::Changes;
use pennon_raft_store::command::{Change, ObjectId, ObjectKind};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::call::Call;
use super::history::{before, describe, upper, value};
use super::objects;
use super::parse;
use super::problem::{Problem, named};
use super::read::{self, Consistency};

/// Changes that one request looks at, and the rest of the last version among them.
pub(crate) const SCAN_MAX: usize = 10_000;
/// Bytes of values that a page shows before it ends.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// Changes read at a time.
const CHUNK: usize = 128;

/// The words for kinds, in the order of [`ObjectKind::ALL`].
pub(crate) const KINDS: [&str; ObjectKind::ALL.len()] = {
    let mut words = [""; ObjectKind::ALL.len()];
    let mut at = 0;
    while at < words.len() {
        words[at] = ObjectKind::ALL[at].as_str();
        at += 1;
    }
    words
};

/// Which changes are wanted.
#[derive(Debug, Default)]
struct Filter {
    actor: Option<String>,
    kind: Option<ObjectKind>,
    environment: Option<EnvironmentKey>,
    key: Option<String>,
    /// The one object that the three above name.
    object: Option<ObjectId>,
    since: Version,
    from_ms: u64,
    to_ms: Option<u64>,
}

/// One page.
#[derive(Debug)]
struct Page {
    items: Vec<Value>,
    next: Option<Version>,
    scanned: usize,
}

/// One page of the changes that the query asks for.
pub(crate) async fn list(call: Call) -> Result<Answer, Problem> {
    let (filter, before, limit) = (Filter::read(&call)?, call.version("before")?, call.limit()?);
    let read = read::global(&call, Consistency::Linearizable).await?;
    let decided = read.decided;
    // What is newer than the view is left to a later request.
    let below = before.min(upper(decided)).or(upper(decided));
    let page = call
        .core()?
        .consult(move |changes| filter.page(changes, below, limit));
    let page = page.await.map_err(|why| Problem::internal(&why))?;
    let mut body =
        json!({ "items": page.items, "version": decided.version, "scanned": page.scanned });
    if let Some(next) = page.next {
        body["next"] = json!(next.to_string());
    }
    Ok(Answer::json(decided, body.to_string()))
}

impl Filter {
    fn read(call: &Call) -> Result<Self, Problem> {
        let text = |name: &str| call.param(name).map(str::to_owned);
        let moment = |name: &str| {
            let read = |text| parse::moment(text).map_err(|why| Problem::parameter(name, why));
            call.param(name).map(read).transpose()
        };
        let kind = call.param("kind").and_then(|word| {
            let mut kinds = ObjectKind::ALL.into_iter();
            kinds.find(|kind| kind.as_str() == word)
        });
        let environment = match call.param("environment") {
            None => None,
            Some(key) => Some(
                EnvironmentKey::try_from(key)
                    .map_err(|why| Problem::parameter("environment", why.to_string()))?,
            ),
        };
        let key = text("key");
        let object = match (kind, &key) {
            (Some(kind), Some(key)) => objects::id_of(kind, environment.clone(), key.clone())
                .transpose()
                .map_err(|why| Problem::parameter("key", why))?,
            _ => None,
        };
        Ok(Self {
            actor: text("actor"),
            kind,
            environment,
            key,
            object,
            since: call.version("since_version")?.unwrap_or(Version::ZERO),
            from_ms: moment("from")?.unwrap_or(0),
            to_ms: moment("to")?,
        })
    }

    /// Whether neither this change nor an older one is wanted. The leader's time never falls from a
    /// version to the next.
    fn ends_at(&self, change: &Change) -> bool {
        change.version <= self.since || change.time_ms < self.from_ms
    }

    fn takes(&self, change: &Change) -> bool {
        let object = &change.object;
        let environment = match object.kind() {
            ObjectKind::Environment => Some(object.key()),
            _ => object.environment().map(EnvironmentKey::as_str),
        };
        let within = |wanted: &EnvironmentKey| environment == Some(wanted.as_str());
        self.actor
            .as_ref()
            .is_none_or(|actor| **actor == *change.origin.actor)
            && self.kind.is_none_or(|kind| kind == object.kind())
            && self.environment.as_ref().is_none_or(within)
            && self.key.as_ref().is_none_or(|key| key == object.key())
            && self.to_ms.is_none_or(|to| change.time_ms < to)
    }

    fn some(&self, changes: &Changes, below: Option<Version>) -> io::Result<Vec<Change>> {
        match &self.object {
            Some(object) => changes.of(object, below, CHUNK),
            None => changes.latest(below, CHUNK),
        }
    }

    fn page(&self, changes: &Changes, below: Option<Version>, limit: usize) -> io::Result<Page> {
        let (mut items, mut scanned, mut bytes) = (Vec::new(), 0, 0);
        let mut reached = below;
        loop {
            let some = self.some(changes, reached)?;
            let ended = some.is_empty();
            for change in &some {
                let full = items.len() >= limit || scanned >= SCAN_MAX || bytes >= PAGE_BYTES_MAX;
                let ended = self.ends_at(change);
                if ended || (full && reached != Some(change.version)) {
                    let next = reached.filter(|_| !ended);
                    return Ok(Page {
                        items,
                        next,
                        scanned,
                    });
                }
                (reached, scanned) = (Some(change.version), scanned + 1);
                if self.takes(change) {
                    let older = changes.replaced_by(change)?;
                    bytes += [Some(change), older.as_ref()]
                        .into_iter()
                        .flatten()
                        .filter_map(|change| change.value.as_ref().map(|value| value.len()))
                        .sum::<usize>();
                    items.push(line(change, older.as_ref()));
                }
            }
            if ended {
                let next = None;
                return Ok(Page {
                    items,
                    next,
                    scanned,
                });
            }
        }
    }
}

/// A change as the list shows it.
fn line(change: &Change, older: Option<&Change>) -> Value {
    let mut line = match named(&change.object) {
        Value::Object(name) => name,
        _ => Map::new(),
    };
    line.insert("version".into(), json!(change.version));
    if let Some(previous) = change.previous {
        line.insert("previous_version".into(), json!(previous));
    }
    let op = match (&change.value, change.previous) {
        (None, _) => "delete",
        (Some(_), None) => "create",
        (Some(_), Some(_)) => "change",
    };
    line.insert("op".into(), op.into());
    describe(&mut line, change);
    if let Some(before) = before(change, older) {
        line.insert("before".into(), before);
    }
    line.insert("after".into(), value(change));
    Value::Object(line)
}
