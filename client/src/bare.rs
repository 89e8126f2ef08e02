//! A stream without HTTP around it: the connection itself, once the node has switched it to frames.
//!
//! What a flip costs a client is mostly what is around the frame; and receipts go back the same way,
//! so that they need no connection of their own (D6).
//!
//! What must hold: nothing depends on the switch. A proxy between client and node may not know it, and
//! refuse it, or swallow everything: an endpoint by which nothing came after an offer is asked for an
//! ordinary answer the next times. What is to be sent is bounded, and never keeps from reading.
//!
//! Left out: asking for the switch (`transport.rs`), when a receipt is due (`session/receipts.rs`).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use pennon_evaluator::Version;
use pennon_evaluator::wire::{Ages, FrameDecoder, SharedFrame, StreamMessage};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::endpoint::Io;
use crate::session::ReceiptId;

/// Streams for which the switch is not offered to an endpoint after an offer came to nothing.
const PLAIN_STREAMS: u8 = 4;
/// Bytes that wait to be sent at most; a receipt is some forty.
const UNSENT_LEN_MAX: usize = 512;

/// A connection that was switched to frames.
pub(crate) struct Bare {
    io: Box<dyn Io>,
    unsent: BytesMut,
    /// Whether what was written may wait in a buffer below.
    unflushed: bool,
    receipt: Option<ReceiptId>,
    /// Until something has come.
    offered: Option<Offered>,
}

/// What happened on it.
pub(crate) enum News {
    /// There are more bytes to decode.
    Bytes,
    /// The node has ended it.
    End,
    /// The receipt is on its way.
    Sent(ReceiptId),
}

impl Bare {
    pub(crate) fn new(io: Box<dyn Io>, offered: Offered) -> Bare {
        Bare {
            io,
            unsent: BytesMut::new(),
            unflushed: false,
            receipt: None,
            offered: Some(offered),
        }
    }

    /// Sends a receipt, behind what is still to be sent.
    pub(crate) fn tell(&mut self, receipt: ReceiptId, version: Version) {
        let frame = SharedFrame::encode(&StreamMessage::Acknowledge { version });
        // One that finds no room is given up after its time, and another one sent.
        if let Ok(frame) = frame
            && self.unsent.len() + frame.len() <= UNSENT_LEN_MAX
        {
            let header = frame.header(Ages::default());
            self.unsent.extend_from_slice(&header);
            self.unsent.extend_from_slice(frame.body());
            self.receipt = Some(receipt);
        }
    }

    /// A whole message has come: the switch does what it is for.
    pub(crate) fn works(&mut self) {
        if let Some(offered) = self.offered.take() {
            offered.keep();
        }
    }

    /// Waits for the next thing that happens; what comes goes to the decoder. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self, decoder: &mut FrameDecoder) -> io::Result<News> {
        poll_fn(|context| {
            if let Poll::Ready(sent) = self.poll_send(context) {
                return Poll::Ready(sent.map(News::Sent));
            }
            let read = pin!(self.io.read_buf(decoder.space())).poll(context);
            read.map_ok(|len| if len == 0 { News::End } else { News::Bytes })
        })
        .await
    }

    /// Ready when a receipt is sent; pending also when there is nothing to send.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<ReceiptId>> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.io).poll_write(context, &self.unsent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(len)) => self.unsent.advance(len),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(context) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = false;
        }
        self.receipt
            .take()
            .map_or(Poll::Pending, |sent| Poll::Ready(Ok(sent)))
    }
}

/// To which endpoints the switch is offered.
pub(crate) struct Offers(Arc<[AtomicU8]>);

impl Offers {
    /// To all of so many.
    pub(crate) fn new(endpoints: usize) -> Offers {
        Offers((0..endpoints).map(|_| AtomicU8::new(0)).collect())
    }

    /// Offers it to an endpoint, unless an offer has come to nothing there lately.
    pub(crate) fn offer(&self, endpoint: usize) -> Option<Offered> {
        let plain = self.0.get(endpoint)?;
        let left = plain.load(Ordering::Relaxed);
        if left > 0 {
            plain.store(left - 1, Ordering::Relaxed);
            return None;
        }
        Some(Offered {
            offers: Arc::clone(&self.0),
            endpoint,
            open: false,
        })
    }
}

/// An offer. It has come to nothing if it is dropped after it was made.
pub(crate) struct Offered {
    offers: Arc<[AtomicU8]>,
    endpoint: usize,
    open: bool,
}

impl Offered {
    /// It is about to be sent.
    pub(crate) fn make(&mut self) {
        self.open = true;
    }

    /// It was understood, whatever came of it.
    pub(crate) fn keep(mut self) {
        self.open = false;
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let (true, Some(plain)) = (self.open, self.offers.get(self.endpoint)) {
            plain.store(PLAIN_STREAMS, Ordering::Relaxed);
        }
    }
}
