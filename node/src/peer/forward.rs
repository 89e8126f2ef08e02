//! Writes on their way to the leader: those that come together travel together.
//!
//! What must hold: each write is sent at most once, has its own deadline and its own answer, and a
//! caller that goes away takes nobody along. Nothing waits for company: what is there when it is a
//! message's turn is in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use pennon_raft_store::command::{ClusterId, Outcome};
use pennon_raft_store::plan::ChangeRequest;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{PeerClient, PeerError, left_ms};
use crate::space::Shortage;
use crate::writer::{Writer, Written};

/// Most writes in one message. They wait for each other's answers.
const LEN_MAX: usize = 128;

/// A forwarded write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WriteCall {
    pub(super) cluster: ClusterId,
    pub(super) within_ms: u64,
    pub(super) request: Arc<ChangeRequest>,
}

/// Several of them: how long each may take, and what it asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WritesCall {
    pub(super) cluster: ClusterId,
    pub(super) writes: Vec<(u64, Arc<ChangeRequest>)>,
}

/// A forwarded write's answer, as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum WriteReply {
    Outcome(Outcome),
    NotLeader,
    Busy,
    Unknown,
    Full(Shortage),
}

impl From<WriteReply> for Written {
    fn from(reply: WriteReply) -> Self {
        match reply {
            WriteReply::Outcome(outcome) => Self::Outcome(outcome),
            WriteReply::NotLeader => Self::NotLeader,
            WriteReply::Busy => Self::Busy,
            WriteReply::Unknown => Self::Unknown,
            WriteReply::Full(shortage) => Self::Full(shortage),
        }
    }
}

/// What a leader does with a forwarded write.
pub(super) async fn write(
    writer: &Writer,
    within_ms: u64,
    request: Arc<ChangeRequest>,
) -> WriteReply {
    let deadline = Instant::now() + Duration::from_millis(within_ms);
    match writer.write(request, deadline).await {
        Written::Outcome(outcome) => WriteReply::Outcome(outcome),
        Written::NotLeader => WriteReply::NotLeader,
        Written::Busy => WriteReply::Busy,
        Written::Full(shortage) => WriteReply::Full(shortage),
        Written::Unknown => WriteReply::Unknown,
    }
}

/// And with several. The answers are in their order.
pub(super) async fn write_all(
    writer: &Writer,
    writes: Vec<(u64, Arc<ChangeRequest>)>,
) -> Vec<WriteReply> {
    let replies = writes
        .into_iter()
        .map(|(within_ms, request)| write(writer, within_ms, request));
    join_all(replies).await
}

/// A write that is about to be sent.
struct Waiting {
    request: Arc<ChangeRequest>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Written, PeerError>>,
}

impl Waiting {
    fn answer(self, answer: Result<Written, PeerError>) {
        // The caller may have gone away.
        let _ = self.answer.send(answer);
    }
}

/// What is about to be sent, by address.
#[derive(Default)]
pub(super) struct Outbox(Mutex<BTreeMap<String, Vec<Waiting>>>);

impl Outbox {
    /// Adds one; true for the first, whose caller has to see to it that all are taken.
    fn put(&self, address: &str, waiting: Waiting) -> bool {
        let mut boxes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match boxes.get_mut(address) {
            Some(waits) => {
                waits.push(waiting);
                false
            }
            None => {
                boxes.insert(address.to_owned(), vec![waiting]);
                true
            }
        }
    }

    fn take(&self, address: &str) -> Vec<Waiting> {
        let mut boxes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        boxes.remove(address).unwrap_or_default()
    }
}

impl PeerClient {
    /// Forwards a write to the leader at `address`, once.
    pub(super) async fn forward(
        &self,
        address: String,
        request: Arc<ChangeRequest>,
        deadline: Instant,
    ) -> Result<Written, PeerError> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            request,
            deadline,
            answer,
        };
        if self.outbox.put(&address, waiting) {
            let client = self.clone();
            tokio::spawn(async move {
                // Whoever is ready to write now gets its turn first.
                tokio::task::yield_now().await;
                client.send(&address).await;
            });
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(PeerError::Unanswered("the node is stopping".into())),
            Err(_) => Err(PeerError::Unanswered("the deadline passed".into())),
        }
    }

    async fn send(&self, address: &str) {
        let mut waiting = self.outbox.take(address);
        let mut messages = Vec::new();
        while waiting.len() > LEN_MAX {
            let rest = waiting.split_off(LEN_MAX);
            messages.push(std::mem::replace(&mut waiting, rest));
        }
        messages.push(waiting);
        join_all(
            messages
                .into_iter()
                .map(|some| self.send_some(address, some)),
        )
        .await;
    }

    async fn send_some(&self, address: &str, mut waiting: Vec<Waiting>) {
        if waiting.len() > 1 {
            match self.send_together(address, &waiting).await {
                Ok(replies) => {
                    for (waiting, reply) in waiting.into_iter().zip(replies) {
                        waiting.answer(Ok(reply.into()));
                    }
                    return;
                }
                // A leader of an earlier release.
                Err(PeerError::NoSuchCall) => {}
                Err(why) => {
                    waiting
                        .drain(..)
                        .for_each(|waiting| waiting.answer(Err(why.clone())));
                    return;
                }
            }
        }
        join_all(waiting.into_iter().map(|one| self.send_alone(address, one))).await;
    }

    async fn send_together(
        &self,
        address: &str,
        waiting: &[Waiting],
    ) -> Result<Vec<WriteReply>, PeerError> {
        let writes = waiting
            .iter()
            .map(|waiting| (left_ms(waiting.deadline), waiting.request.clone()));
        let body = WritesCall {
            cluster: self.cluster,
            writes: writes.collect(),
        };
        let latest = waiting.iter().map(|waiting| waiting.deadline).max();
        let deadline = latest.unwrap_or_else(Instant::now);
        let replies: Vec<WriteReply> = self.ask(address, "writes", &body, deadline).await?;
        match replies.len() == waiting.len() {
            true => Ok(replies),
            false => Err(PeerError::Unanswered("some answers are missing".into())),
        }
    }

    async fn send_alone(&self, address: &str, waiting: Waiting) {
        let body = WriteCall {
            cluster: self.cluster,
            within_ms: left_ms(waiting.deadline),
            request: waiting.request.clone(),
        };
        let reply: Result<WriteReply, _> =
            self.ask(address, "write", &body, waiting.deadline).await;
        waiting.answer(reply.map(Written::from));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use pennon_evaluator::Version;
    use pennon_raft_store::codec;
    use pennon_raft_store::command::{ObjectId, Origin, Refusal};
    use pennon_raft_store::plan::{Ask, AskedWrite};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::FORMAT;
    use super::*;
    use crate::net::{BoxedIo, Listen, MemoryNetwork};

    fn request(flag: &str) -> Arc<ChangeRequest> {
        Arc::new(ChangeRequest {
            writes: vec![AskedWrite {
                object: ObjectId::flag(flag),
                ask: Ask::Delete,
                expected: pennon_raft_store::command::Expected::Any,
            }],
            onto: None,
            origin: Origin {
                actor: "ana".into(),
                request: None,
                reason: None,
            },
        })
    }

    /// Says no, with the length of the flag's name as the version, so that answers can be told apart.
    fn reply(request: &ChangeRequest) -> WriteReply {
        let length = request.writes[0].object.to_string().len() as u64;
        WriteReply::Outcome(Outcome::Refused {
            version: Version::new(length).unwrap(),
            refusal: Refusal::Moved,
        })
    }

    /// What a leader's listener heard.
    #[derive(Default)]
    struct Heard {
        alone: AtomicUsize,
        together: AtomicUsize,
    }

    async fn serve(mut io: BoxedIo, heard: Arc<Heard>, knows: bool) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                (io.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
            };
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap_or("0\r\n");
            let length: usize = length.split("\r\n").next()?.parse().ok()?;
            while bytes.len() < end + length {
                (io.read_buf(&mut bytes).await.ok()? > 0).then_some(())?;
            }
            let body = &bytes[end..end + length];
            let answer = if head.starts_with("post /peer/line ") {
                // An earlier release still.
                None
            } else if head.starts_with("post /peer/write ") {
                heard.alone.fetch_add(1, Ordering::Relaxed);
                let call: WriteCall = codec::decode(FORMAT, body).unwrap();
                Some(codec::encode(FORMAT, &reply(&call.request)).unwrap())
            } else {
                heard.together.fetch_add(1, Ordering::Relaxed);
                let call: WritesCall = codec::decode(FORMAT, body).unwrap();
                let replies: Vec<_> = call.writes.iter().map(|(_, asks)| reply(asks)).collect();
                knows.then(|| codec::encode(FORMAT, &replies).unwrap())
            };
            let (status, answer) = match answer {
                Some(answer) => ("200 OK", answer),
                None => ("404 Not Found", bytes::Bytes::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            io.write_all(head.as_bytes()).await.ok()?;
            io.write_all(&answer).await.ok()?;
            bytes.drain(..end + length);
        }
    }

    /// Three writes at once to a leader that knows, or does not know, how to take several.
    async fn three_at_once(knows: bool) -> (usize, usize) {
        let network = MemoryNetwork::new();
        let mut listener = network.listen("leader:1");
        let heard = Arc::new(Heard::default());
        let theirs = heard.clone();
        let serving = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                tokio::spawn(serve(io, theirs.clone(), knows));
            }
        });
        let client = PeerClient::new(Arc::new(network.at("follower")), ClusterId::new(1));
        let deadline = Instant::now() + Duration::from_secs(10);
        let send = |flag: &str| client.forward("leader:1".into(), request(flag), deadline);
        // Who goes away while it waits takes nobody along.
        assert!(send("gone").now_or_never().is_none());
        let (a, bb, ccc) = tokio::join!(send("a"), send("bb"), send("ccc"));
        for (flag, written) in [("a", a), ("bb", bb), ("ccc", ccc)] {
            let Ok(Written::Outcome(Outcome::Refused { version, .. })) = written else {
                panic!("{flag}: {written:?}");
            };
            let length = ObjectId::flag(flag).to_string().len() as u64;
            assert_eq!(version.get(), length, "{flag} got the answer of another");
        }
        serving.abort();
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (count(&heard.together), count(&heard.alone))
    }

    #[tokio::test]
    async fn writes_that_come_together_are_one_message() {
        assert_eq!(three_at_once(true).await, (1, 0));
    }

    #[tokio::test]
    async fn a_leader_of_an_earlier_release_gets_them_one_by_one() {
        assert_eq!(three_at_once(false).await, (1, 4));
    }

    #[tokio::test]
    async fn a_leader_that_cannot_be_reached_has_got_nothing() {
        let network = MemoryNetwork::new();
        let client = PeerClient::new(Arc::new(network.at("follower")), ClusterId::new(1));
        let deadline = Instant::now() + Duration::from_secs(10);
        let send = |flag: &str| client.forward("leader:1".into(), request(flag), deadline);
        let (one, other) = tokio::join!(send("a"), send("bb"));
        for written in [one, other] {
            assert!(matches!(written, Err(PeerError::NotSent(_))), "{written:?}");
        }
    }
}
