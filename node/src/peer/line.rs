//! One connection to a peer for all that is small and frequent: entries and news of the log, read-index,
//! forwarded writes.
//!
//! What must hold: many calls are under way on it at once and are answered in any order; what cannot be read
//! ends it; a call whose first byte was not sent says so ([`PeerError::NotSent`]), every other one that gets
//! no answer may have arrived; whoever stops waiting leaves it as it was, or ends it if he had begun to
//! send. It is opened once and kept: a node that can open no more files goes on with the one it has.
//!
//! It begins as a request of HTTP that asks for another protocol, so that a release that does not know it
//! says no and is called over HTTP as before. Then both sides send frames, numbers little endian:
//!
//! ```text
//! call    length u32 | number u64 | path length u8 | path | body
//! answer  length u32 | number u64 | status u16 | body
//! ```
//!
//! `length` counts what follows it. Paths, bodies and statuses are those of HTTP; bodies have a checksum.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::PeerError;
use crate::net::Io;

/// The name of the protocol, with its format.
pub(crate) const PROTOCOL: &str = "pennon-line/1";

/// Longest body of a call. What is longer would make others wait, and travels alone.
pub(super) const CALL_LEN_MAX: usize = 64 * 1024;

/// Longest body of an answer, which may be longer than what it answers.
const ANSWER_LEN_MAX: usize = 16 << 20;

/// Longest frame.
const FRAME_LEN_MAX: usize = ANSWER_LEN_MAX + 1_024;

/// Calls of one connection that are answered at once; more wait to be read.
const UNDER_WAY_MAX: usize = 1_024;

/// How long nothing may come while something is due until the connection is given up, by a call that had no
/// answer in time: a new one is heard sooner than TCP sends again what fell into a hole.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// Room for what is read at once.
const READ_LEN: usize = 16 * 1024;
const READ_LEN_MIN: usize = 1024;

/// Bytes of `length`, and of `number`.
const LENGTH_LEN: usize = 4;
const NUMBER_LEN: usize = 8;

/// What a call came to.
pub(super) enum Called {
    /// An answer, whatever its status.
    Answered(StatusCode, Bytes),
    /// The deadline passed.
    Late,
    /// No answer will come.
    Failed(PeerError),
}

/// This side of a connection, from which calls go out.
pub(super) struct Line {
    write: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    waits: Arc<Waits>,
}

impl Line {
    /// Takes over a connection on which the other side answers.
    pub(super) fn new(io: impl Io) -> Line {
        let (read, write) = tokio::io::split(io);
        let waits = Arc::new(Waits::default());
        tokio::spawn(listen(read, waits.clone()));
        Line {
            write: tokio::sync::Mutex::new(Box::new(write)),
            waits,
        }
    }

    /// Whether calls can still be made.
    pub(super) fn is_open(&self) -> bool {
        !self.waits.end.is_cancelled()
    }

    /// Sends one call and waits for its answer.
    pub(super) async fn call(&self, path: &str, body: &[u8], deadline: Instant) -> Called {
        let Some((waiting, answered)) = self.waits.begin() else {
            return Called::Failed(ended_before());
        };
        let frame = call_frame(waiting.number, path, body);
        let called = timeout_at(deadline, async {
            self.send(frame).await?;
            let gone = |_| PeerError::Unanswered("the connection ended".into());
            answered.await.map_err(gone)
        });
        match called.await {
            Ok(Ok((status, body))) => Called::Answered(status, body),
            Ok(Err(why)) => Called::Failed(why),
            Err(_) => {
                self.waits.late();
                Called::Late
            }
        }
    }

    async fn send(&self, mut frame: Bytes) -> Result<(), PeerError> {
        let length = frame.len();
        let end = &self.waits.end;
        let mut write = self.write.lock().await;
        if end.is_cancelled() {
            return Err(ended_before());
        }
        let whole = EndsUnlessWhole(Some(end));
        let sending = end.run_until_cancelled(write.write_all_buf(&mut frame));
        let why = match sending.await {
            Some(Ok(())) => {
                whole.keep();
                return Ok(());
            }
            Some(Err(why)) => why.to_string(),
            None => "the connection ended".to_owned(),
        };
        match frame.len() == length {
            true => Err(PeerError::NotSent(why)), // I9
            false => Err(PeerError::Unanswered(why)),
        }
    }
}

fn ended_before() -> PeerError {
    PeerError::NotSent("the connection had ended".into())
}

impl Drop for Line {
    fn drop(&mut self) {
        self.waits.end.cancel();
    }
}

/// Half a frame makes everything after it unreadable.
struct EndsUnlessWhole<'a>(Option<&'a CancellationToken>);

impl EndsUnlessWhole<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for EndsUnlessWhole<'_> {
    fn drop(&mut self) {
        if let Some(end) = self.0 {
            end.cancel();
        }
    }
}

type Answer = (StatusCode, Bytes);

/// Calls that have no answer yet.
#[derive(Default)]
struct Waits {
    inner: Mutex<WaitsInner>,
    end: CancellationToken,
}

#[derive(Default)]
struct WaitsInner {
    open: BTreeMap<u64, oneshot::Sender<Answer>>,
    next: u64,
    ended: bool,
    /// Since when something is due and nothing came.
    due: Option<Instant>,
}

/// One call that waits; it is forgotten when this is dropped.
struct Waiting<'a> {
    waits: &'a Waits,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.inner().open.remove(&self.number);
    }
}

impl Waits {
    fn inner(&self) -> MutexGuard<'_, WaitsInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Option<(Waiting<'_>, oneshot::Receiver<Answer>)> {
        let (answer, answered) = oneshot::channel();
        let mut inner = self.inner();
        if inner.ended {
            return None;
        }
        let number = inner.next;
        inner.next += 1;
        inner.open.insert(number, answer);
        inner.due.get_or_insert_with(Instant::now);
        Some((
            Waiting {
                waits: self,
                number,
            },
            answered,
        ))
    }

    fn heard(&self, number: u64, answer: Answer) {
        let mut inner = self.inner();
        let waiting = inner.open.remove(&number);
        inner.due = (!inner.open.is_empty()).then(Instant::now);
        drop(inner);
        // Whoever waited may have gone away.
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    /// A call had no answer in time.
    fn late(&self) {
        let due = self.inner().due;
        if due.is_some_and(|due| due.elapsed() >= SILENCE_MAX) {
            self.end.cancel();
        }
    }

    fn close(&self) {
        self.end.cancel();
        let mut inner = self.inner();
        inner.ended = true;
        inner.open.clear();
    }
}

/// Hands answers to those who wait for them, until the connection ends.
async fn listen<T: AsyncRead + Unpin>(read: T, waits: Arc<Waits>) {
    let mut frames = Frames::new(read);
    let ended = waits.end.clone();
    let listening = async {
        while let Some(frame) = frames.next().await? {
            let (number, answer) = read_answer(frame)?;
            waits.heard(number, answer);
        }
        io::Result::Ok(())
    };
    let result = ended.run_until_cancelled(listening).await;
    if let Some(Err(why)) = result {
        tracing::debug!(%why, "a line to a peer ended");
    }
    waits.close();
}

/// Answers the calls that come over a connection until it ends, or until `stop`, and then those that
/// came before.
pub(crate) async fn serve<F>(
    io: impl Io,
    stop: CancellationToken,
    answer: impl Fn(String, Bytes) -> F,
) -> io::Result<()>
where
    F: Future<Output = Result<Bytes, (StatusCode, String)>>,
{
    let (read, mut write): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(io);
    let mut frames = Frames::new(read);
    let mut answers = FuturesUnordered::new();
    let mut takes = true;
    let mut out = BytesMut::new();
    while takes || !answers.is_empty() {
        tokio::select! {
            biased;
            Some(frame) = answers.next() => {
                out.put::<Bytes>(frame);
                // What else is ready goes with it.
                while let Some(Some(frame)) = answers.next().now_or_never() {
                    out.put::<Bytes>(frame);
                }
                write.write_all_buf(&mut out).await?;
            }
            () = stop.cancelled(), if takes => takes = false,
            frame = frames.next(), if takes && answers.len() < UNDER_WAY_MAX => match frame? {
                Some(frame) => {
                    let (number, path, body) = read_call(frame)?;
                    let answered = answer(path, body);
                    answers.push(async move { answer_frame(number, answered.await) });
                }
                None => takes = false,
            },
        }
    }
    Ok(())
}

/// Frames of a connection.
struct Frames<T> {
    read: T,
    buffer: BytesMut,
}

impl<T: AsyncRead + Unpin> Frames<T> {
    fn new(read: T) -> Self {
        Self {
            read,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame without its length; `None` when the other side has ended. Nothing is lost when
    /// this is dropped while it waits.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let mut wanted = READ_LEN;
            if let Some(mut length) = self.buffer.get(..LENGTH_LEN) {
                let length = length.get_u32_le() as usize;
                if length > FRAME_LEN_MAX {
                    return Err(unreadable("a frame is too long"));
                }
                if self.buffer.len() >= LENGTH_LEN + length {
                    self.buffer.advance(LENGTH_LEN);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
                wanted = wanted.max(LENGTH_LEN + length - self.buffer.len());
            }
            if self.buffer.capacity() - self.buffer.len() < READ_LEN_MIN {
                self.buffer.reserve(wanted);
            }
            if self.read.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(unreadable("it ends within a frame")),
                };
            }
        }
    }
}

fn unreadable(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn call_frame(number: u64, path: &str, body: &[u8]) -> Bytes {
    let length = NUMBER_LEN + 1 + path.len() + body.len();
    let mut frame = BytesMut::with_capacity(LENGTH_LEN + length);
    frame.put_u32_le(length as u32);
    frame.put_u64_le(number);
    frame.put_u8(path.len() as u8);
    frame.put_slice(path.as_bytes());
    frame.put_slice(body);
    frame.freeze()
}

fn read_call(mut frame: Bytes) -> io::Result<(u64, String, Bytes)> {
    let number = frame.try_get_u64_le();
    let number = number.map_err(|_| unreadable("a call without a number"))?;
    let length = usize::from(frame.try_get_u8().unwrap_or_default());
    if frame.len() < length {
        return Err(unreadable("a call without a path"));
    }
    let path = frame.split_to(length).to_vec();
    let path = String::from_utf8(path).map_err(|_| unreadable("a path that is no text"))?;
    Ok((number, path, frame))
}

fn answer_frame(number: u64, answered: Result<Bytes, (StatusCode, String)>) -> Bytes {
    let (status, body) = match answered {
        Ok(body) if body.len() > ANSWER_LEN_MAX => {
            let why = Bytes::from_static(b"the answer is too long");
            (StatusCode::INTERNAL_SERVER_ERROR, why)
        }
        Ok(body) => (StatusCode::OK, body),
        Err((status, why)) => (status, Bytes::from(why)),
    };
    let length = NUMBER_LEN + 2 + body.len();
    let mut frame = BytesMut::with_capacity(LENGTH_LEN + length);
    frame.put_u32_le(length as u32);
    frame.put_u64_le(number);
    frame.put_u16_le(status.as_u16());
    frame.put_slice(&body);
    frame.freeze()
}

fn read_answer(mut frame: Bytes) -> io::Result<(u64, Answer)> {
    let number = frame.try_get_u64_le();
    let status = frame.try_get_u16_le();
    let status = status.ok().and_then(|code| StatusCode::from_u16(code).ok());
    match (number, status) {
        (Ok(number), Some(status)) => Ok((number, (status, frame))),
        _ => Err(unreadable("an answer without a number or status")),
    }
}

#[cfg(test)]
mod tests;
