//! What happened, as clients and the harness saw it: the only thing that checkers look at.
//!
//! A history is a header, then one [`Event`] a line, as JSON, then a last line that says how many
//! there are:
//!
//! ```text
//! {"pennon_history":1,"seed":7,"parameters":{…},"release":"pennon 0.1.0","nodes":["n1","n2","n3"],"demand":{…}}
//! {"operation":{"request":"s7-c0-3","attempts":[{"node":0,"sent":12,"outcome":{"written":{"version":9}}}],"operation":{…}}}
//! {"fault":{"at":50,"fault":1,"kind":"pause","targets":["n2"],"stage":"asked"}}
//! {"end":{"at":99,"events":2}}
//! ```
//!
//! What must hold: nothing is guessed (an answer that did not come is of unknown outcome); a line is
//! with the kernel before [`Recorder::add`] and its like return, so neither a panic nor a kill of
//! the harness loses one; a history without its last line is one of a run that did not finish, and
//! says so. Times are nanoseconds since the recorder began, of one clock for all clients: tokio's,
//! which is paused and moved on by hand in a simulation, or one that the caller gives.
//!
//! Left out: exposures (I10), because no node takes any yet. Their place is an `Event::Exposure` of
//! the event's id, who sent it when, and what was answered, beside `Event::Evaluation`.

mod event;
mod file;
mod recorder;
mod register;

pub use event::{
    Attempt, ChangeSet, Evaluation, Event, Fault, FaultStage, FinalRead, GroundAt, GroundObject,
    HistoryLine, NodeDigest, NodeEvent, NodeStage, ObjectSeen, Phase, PhaseEvent, ReadSet,
    ReceiptSeen, Request, ServedAt, ServedState, SetOutcome, StateSeen, StreamEvent, StreamItem,
    SubjectSeen, Write,
};
pub use file::{Damaged, FORMAT, Header, History};
pub use recorder::Recorder;
pub use register::{Action, Operation, Outcome, Seen};
