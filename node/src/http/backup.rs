//! The whole ground state at once: as a file, and back.
//!
//! A backup is made of one view, so it is one version, whichever node gives it (I3). A restore is a
//! change set of what differs, applied only onto the ground state that it was found to differ from:
//! nothing that was written meanwhile is overwritten unseen, and versions rise as with any write (D1).
//!
//! What must hold: a backup that breaks off does not look like a whole one (the file ends with a
//! footer over all of it, and the connection is cut).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, HeaderValue};
use pennon_evaluator::{Digest, Fault, json_kind};
use pennon_raft_store::backup::{Difference, differences};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::View;
use pennon_raft_store::raft::Blocking;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Answer, Decided};
use super::call::Call;
use super::changes;
use super::json;
use super::problem::{Problem, Slug, named};
use super::read::{self, Consistency, Read};
use super::write;

/// What a backup is sent as.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.pennon.backup";

/// Pieces of a backup on their way at most; a piece is a block of the file.
const PIECES_MAX: usize = 4;

/// How often what differs is looked at anew when something was written meanwhile.
const LOOKS_MAX: usize = 10;

/// Gives everything, with the history, as a file.
pub(crate) async fn backup(call: Call) -> Result<Answer, Problem> {
    let Read { view, decided } = read::global(&call, Consistency::Linearizable).await?;
    let core = call.core()?;
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    let name = format!("attachment; filename=\"pennon-{}.backup\"", decided.version);
    let body = match core.blocking {
        // Nobody could read while it is written.
        Blocking::Inline => {
            let written = core.backup(view, Vec::new()).await;
            let (bytes, _) = written.map_err(|why| Problem::internal(&why.to_string()))?;
            Body::from(bytes)
        }
        Blocking::Threads => {
            let core = core.clone();
            tokio::spawn(async move {
                if let Err(why) = core.backup(view, Pieces(sender.clone())).await {
                    tracing::warn!(%why, "a backup broke off");
                    let _ = sender.send(Err(why)).await;
                }
            });
            let pieces = stream::unfold(pieces, |mut pieces| async move {
                pieces.recv().await.map(|piece| (piece, pieces))
            });
            Body::from_stream(pieces.boxed())
        }
    };
    let answer = Answer::new(StatusCode::OK, MEDIA_TYPE, body)
        .decided(decided)
        .header(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(match HeaderValue::from_str(&name) {
        Ok(name) => answer.header(CONTENT_DISPOSITION, name),
        Err(_) => answer,
    })
}

/// Hands a thread's bytes to a connection.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the ground state exactly what is in the body, or says what that would change.
pub(crate) async fn restore(call: Call) -> Result<Answer, Problem> {
    let wanted = objects(json::parse(&call.body)?).map_err(|faults| Problem::faults(&faults))?;
    let wanted = Arc::new(wanted);
    let onto = match call.param("onto").map(str::parse::<Digest>) {
        None => None,
        Some(Ok(digest)) => Some(digest),
        Some(Err(why)) => return Err(Problem::parameter("onto", why.to_string())),
    };
    let dry_run = call.param("dry_run") == Some("true");
    let core = call.core()?;
    for _ in 0..LOOKS_MAX {
        let Read { view, decided } = read::global(&call, Consistency::Linearizable).await?;
        let found = view.digest();
        if onto.is_some_and(|onto| onto != found) {
            return Err(moved().decided(decided));
        }
        let look = {
            let (view, wanted) = (view.clone(), wanted.clone());
            core.compute(move || differences(&view, &wanted)).await
        };
        let differing = look.map_err(|why| Problem::internal(&why))?;
        if dry_run || differing.is_empty() {
            return Ok(answer(&view, decided, &wanted, &differing, None));
        }
        let writes = differing.iter().map(Difference::write).collect();
        match write::submit(&call, writes, Some(found), true).await {
            Ok(done) => {
                return Ok(answer(
                    &view,
                    done.decided,
                    &wanted,
                    &differing,
                    done.delivery,
                ));
            }
            Err(problem) if problem.slug() == Slug::StateMoved && onto.is_none() => {}
            Err(problem) => return Err(problem),
        }
    }
    Err(moved())
}

/// What is said when the ground state is another one than was looked at.
pub(crate) fn moved() -> Problem {
    let detail = "something was written since this was looked at; nothing was changed; look at what differs again \
        (dry_run=true), and restore onto the digest that it names";
    Problem::new(Slug::StateMoved, detail)
}

fn answer(
    found: &View,
    decided: Decided,
    wanted: &BTreeMap<ObjectId, Arc<str>>,
    differing: &[Difference],
    delivery: Option<Value>,
) -> Answer {
    let op = |one: &Difference| match (&one.now, &one.then) {
        (None, _) => "create",
        (Some(_), Some(_)) => "change",
        (Some(_), None) => "delete",
    };
    let count = |word: &str| differing.iter().filter(|one| op(one) == word).count();
    let shown = differing.iter().map(|one| {
        let mut shown = named(&one.object);
        shown["op"] = op(one).into();
        if let Some((version, _)) = &one.now {
            shown["version"] = json!(version);
        }
        shown
    });
    let (created, changed, deleted) = (count("create"), count("change"), count("delete"));
    let mut body = json!({
        "version": decided.version,
        "onto": found.digest(),
        "created": created,
        "changed": changed,
        "deleted": deleted,
        "unchanged": wanted.len() - created - changed,
        "objects": shown.collect::<Vec<_>>(),
    });
    if let Some(delivery) = delivery {
        body["delivery"] = delivery;
    }
    Answer::json(decided, body.to_string())
}

/// Reads `{"objects": [{kind, environment?, key, value}]}`.
fn objects(body: Value) -> Result<BTreeMap<ObjectId, Arc<str>>, Vec<Fault>> {
    let Value::Object(mut fields) = body else {
        let message = format!("must be {{\"objects\": […]}}, not {}", json_kind(&body));
        return Err(vec![Fault::new("", message)]);
    };
    let items = fields.remove("objects");
    if let Some(name) = fields.keys().next() {
        let message = format!("there is no field {name:?}; known is objects");
        return Err(vec![Fault::new("", message)]);
    }
    match items {
        Some(Value::Array(items)) if items.is_empty() => {
            let message = "has no object: everything would be deleted";
            Err(vec![Fault::new("/objects", message)])
        }
        Some(Value::Array(items)) => changes::named_values("/objects", items),
        other => {
            let kind = other.as_ref().map_or("nothing", json_kind);
            let message = format!("must be a list of objects, not {kind}");
            Err(vec![Fault::new("/objects", message)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_and_every_fault_in_it_named() {
        let read = objects(json!({"objects": [
            {"kind": "flag", "key": "a", "value": {"z": 1, "a": 2}},
            {"kind": "policy", "environment": "e", "key": "a", "value": {}},
        ]}));
        let read: Vec<_> = read.unwrap().into_iter().collect();
        assert_eq!(read[0], (ObjectId::flag("a"), r#"{"z":1,"a":2}"#.into()));
        let pointers = |body: Value| -> Vec<String> {
            let faults = objects(body).unwrap_err().into_iter();
            faults.map(|fault| fault.pointer).collect()
        };
        assert_eq!(pointers(json!([])), [""]);
        assert_eq!(pointers(json!({"objects": [], "more": 1})), [""]);
        assert_eq!(pointers(json!({"objects": {}})), ["/objects"]);
        assert_eq!(pointers(json!({"objects": []})), ["/objects"]);
        let twice = json!({"kind": "flag", "key": "a", "value": {}});
        let body = json!({"objects": [
            twice, twice, 7, {"kind": "flag", "key": "b"}, {"kind": "flag", "key": "b", "value": 1, "op": "put"},
        ]});
        let expected = [
            "/objects/1",
            "/objects/2",
            "/objects/3/value",
            "/objects/4/op",
        ];
        assert_eq!(pointers(body), expected);
    }
}
