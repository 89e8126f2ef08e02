//! What is recorded is what is read back; damage is refused or marked.

use std::sync::Arc;

use super::*;
use crate::history::{
    Action, Attempt, Fault, FaultStage, Outcome, Phase, PhaseEvent, Recorder, Request, Seen,
};

fn request(n: u64) -> Request {
    let outcome = Outcome::Conflict {
        decided: n,
        seen: Some(Seen {
            version: n,
            value: "v".into(),
        }),
    };
    Request {
        operation: Operation {
            client: 3,
            register: "r".into(),
            invoked: n,
            completed: n + 1,
            action: Action::Write {
                value: None,
                expected: Some(7),
            },
            outcome: outcome.clone(),
        },
        request: Some("id".into()),
        attempts: vec![Attempt {
            node: Some(1),
            sent: n,
            outcome,
        }],
    }
}

fn header() -> Header {
    Header::new(42, vec!["n1".into(), "n2".into()], Demand::default())
}

fn events() -> Vec<Event> {
    vec![
        Event::Operation(request(5)),
        Event::Fault(Fault {
            at: 9,
            fault: 1,
            kind: "pause".into(),
            targets: vec!["n2".into()],
            stage: FaultStage::Acted {
                proof: "state T".into(),
                count: 1,
            },
        }),
        Event::Phase(PhaseEvent {
            at: 10,
            phase: Phase::Healed,
        }),
    ]
}

fn recorded(directory: &tempfile::TempDir) -> (Recorder, std::path::PathBuf) {
    let path = directory.path().join("history.jsonl");
    let recorder = Recorder::default().to_file(&path, &header()).unwrap();
    events()
        .into_iter()
        .for_each(|event| recorder.add_event(event));
    (recorder, path)
}

#[test]
fn what_is_recorded_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, path) = recorded(&directory);
    // Nobody closed or flushed anything: so it is when a run is killed.
    let cut = History::read(&path).unwrap();
    assert_eq!((&cut.events, cut.ended), (&events(), None));
    assert!(cut.complaint.is_some());
    recorder.close().unwrap();
    let whole = History::read(&path).unwrap();
    assert_eq!((whole.header, whole.events), (header(), events()));
    assert!(whole.ended.is_some() && whole.complaint.is_none());
    assert_eq!(recorder.operations(), [request(5).operation]);
    assert!(Recorder::default().to_file(&path, &header()).is_err());
}

#[test]
fn a_panic_in_a_client_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (recorder, path) = recorded(&directory);
    let (clone, more) = (recorder.clone(), request(8));
    let panicked = std::thread::spawn(move || {
        clone.add_request(more);
        panic!("planted");
    });
    assert!(panicked.join().is_err());
    assert_eq!(History::read(&path).unwrap().operations().len(), 2);
}

#[test]
fn what_is_no_history_is_refused_with_its_place() {
    let read = |text: &str| History::read_from(text.as_bytes());
    let begin = serde_json::to_string(&header()).unwrap();
    let event = serde_json::to_string(&events()[2]).unwrap();
    assert!(matches!(read(""), Err(Damaged::Empty)));
    assert!(matches!(read("hello\n"), Err(Damaged::NoHeader(_))));
    let other = begin.replacen(":1", ":2", 1);
    assert!(matches!(read(&other), Err(Damaged::Format { found: 2 })));
    let bad = format!("{begin}\n{event}\n{{\"phase\":1}}\n{event}\n");
    assert!(matches!(read(&bad), Err(Damaged::Line { line: 3, .. })));
    let end = r#"{"end":{"at":5,"events":1}}"#;
    let after = format!("{begin}\n{event}\n{end}\n{event}\n");
    assert!(matches!(read(&after), Err(Damaged::AfterEnd { line: 4 })));
    // Cut off by a kill: readable up to there.
    let cut = read(&format!("{begin}\n{event}\n{}", &event[..9])).unwrap();
    assert_eq!((cut.events.len(), cut.ended), (1, None));
    assert!(cut.complaint.unwrap().contains("line 3"));
    // A line is missing.
    let short = read(&format!("{begin}\n{end}\n")).unwrap();
    assert!(short.complaint.unwrap().contains("0 events are here"));
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_a_paused_clock() {
    let recorder = Recorder::default();
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    assert_eq!(recorder.now(), 3_000_000_000);
    let given = Recorder::with_times(|| std::time::Duration::from_nanos(7));
    assert_eq!(given.now(), 7);
    let value: Arc<str> = "x".into();
    given.add(Operation {
        register: value,
        ..request(1).operation
    });
    assert_eq!(given.history(header()).operations().len(), 1);
}
