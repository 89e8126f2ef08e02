//! A stream over the connection itself: frames and nothing around them, once a request has switched it.
//!
//! Receipts come back the same way (D6), so that an evaluator needs one connection.
//!
//! What must hold: whatever the client sends ends its own stream at worst; what is held of it is bounded
//! by the longest receipt; the last message of a node that goes is heard.
//!
//! Left out: what has to be so before the first byte (`stream.rs`), what is sent (`hub.rs`).

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderName, Request};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pennon_evaluator::wire::{FrameDecoder, PROTOCOL_FRAMES, StreamMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hub::{Receiving, Streaming};
use crate::net::{BoxedIo, Stalling};

/// The longest frame that a client sends: far more than a receipt.
const RECEIPT_LEN_MAX: u32 = 64;

/// The longest wait for a client to hear the last message and go.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// What a connection is to be once the request at hand is answered: a stream, or nothing new.
#[derive(Clone, Default)]
pub(super) struct Switch(Arc<Mutex<Option<Streaming>>>);

impl Switch {
    /// Makes it a stream.
    pub(super) fn to(&self, streaming: Streaming) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(streaming);
    }

    /// What it is to be.
    pub(super) fn take(&self) -> Option<Streaming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a request can switch its connection, and asks for frames.
pub(super) fn is_asked_for(request: &Request<Incoming>) -> bool {
    request.extensions().get::<OnUpgrade>().is_some() && asks_for_frames(request.headers())
}

/// A proxy that passes on what is not its own to pass on, and takes away the word for it, has not agreed
/// to the switch.
fn asks_for_frames(headers: &HeaderMap) -> bool {
    names(headers, CONNECTION, "upgrade") && names(headers, UPGRADE, PROTOCOL_FRAMES)
}

fn names(headers: &HeaderMap, header: HeaderName, wanted: &str) -> bool {
    let named = headers.get_all(header).iter();
    let mut named = named
        .filter_map(|value| value.to_str().ok())
        .flat_map(|all| all.split(','));
    named.any(|one| one.trim().eq_ignore_ascii_case(wanted))
}

/// Serves a stream until it or the client ends.
pub(super) async fn serve(upgrade: OnUpgrade, streaming: Streaming) -> io::Result<()> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded.downcast::<TokioIo<Stalling<BoxedIo>>>();
    let parts = parts.map_err(|_| io::Error::other("it is not one of the API's"))?;
    run(parts.io.into_inner(), &parts.read_buf, streaming).await
}

async fn run(mut io: Stalling<BoxedIo>, early: &[u8], streaming: Streaming) -> io::Result<()> {
    let mut receipts = Receipts::of(streaming.receiving());
    receipts.take(early)?;
    let mut messages = pin!(streaming.into_stream());
    let mut piece = [0; RECEIPT_LEN_MAX as usize];
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(bytes) => io.write_all(&bytes).await?,
                None => break,
            },
            read = io.read(&mut piece) => match read? {
                0 => return Ok(()),
                len => receipts.take(&piece[..len])?,
            },
        }
    }
    io.shutdown().await?;
    // Closed with something unread it would take back what was said last.
    let heard = async { while matches!(io.read(&mut piece).await, Ok(1..)) {} };
    let _ = tokio::time::timeout(LEAVE_MAX, heard).await;
    Ok(())
}

/// What comes from a client.
struct Receipts {
    decoder: FrameDecoder,
    receiving: Receiving,
}

impl Receipts {
    fn of(receiving: Receiving) -> Self {
        Self {
            decoder: FrameDecoder::new(RECEIPT_LEN_MAX),
            receiving,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.decoder.push(bytes);
        let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        while let Some((_, message)) = self.decoder.pull().map_err(|why| wrong(why.to_string()))? {
            match message {
                StreamMessage::Acknowledge { version } => self.receiving.acknowledge(version),
                other => return Err(wrong(format!("a client sent a {}", other.name()))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn frames_are_asked_for_by_name_among_others_and_in_both_headers() {
        let asks = |connection: &'static str, upgrade: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.append(CONNECTION, HeaderValue::from_static(connection));
            for value in upgrade {
                headers.append(UPGRADE, HeaderValue::from_static(value));
            }
            asks_for_frames(&headers)
        };
        assert!(asks("upgrade", &["pennon-frames"]));
        assert!(asks("keep-alive, Upgrade", &["websocket, Pennon-Frames"]));
        assert!(asks("upgrade", &["websocket", "pennon-frames"]));
        assert!(!asks("keep-alive", &["pennon-frames"]));
        assert!(!asks("upgrade", &[]) && !asks("upgrade", &["pennon-frames-2"]));
    }
}
