//! Sends receipts: one small request at a time, to the node that the stream, or the poll, is from.
//!
//! What must hold: nothing here can disturb the stream; whatever goes wrong is an outcome that is
//! told. The connection is kept for the next receipt, so that a change of a flag in a large fleet
//! is not a storm of new connections.
//!
//! Left out: when one is sent and how long it may take (`session/receipts.rs`).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::endpoint::{Connector, Endpoint};
use crate::error::Error;
use crate::http1::{self, Connection, Outgoing, PROBLEM_LEN_MAX};
use crate::session::{Event, ReceiptId};
use crate::transport::refusal;

type Sending = Pin<Box<dyn Future<Output = Result<Connection, Error>> + Send>>;

/// The receipt on its way, and the connection that receipts take. Dropping it closes that.
#[derive(Default)]
pub(crate) struct Receipts {
    sending: Option<(ReceiptId, Sending)>,
    kept: Option<(Endpoint, Connection)>,
    /// Where the one on its way goes.
    endpoint: Option<Endpoint>,
}

impl Receipts {
    /// Sends a receipt, in the place of one that is still on its way.
    pub(crate) fn send(
        &mut self,
        receipt: ReceiptId,
        connector: Arc<dyn Connector>,
        endpoint: Endpoint,
        outgoing: Outgoing,
    ) {
        let kept = self.kept.take().filter(|(at, _)| *at == endpoint);
        self.endpoint = Some(endpoint.clone());
        let sending = deliver(kept.map(|(_, open)| open), connector, endpoint, outgoing);
        self.sending = Some((receipt, Box::pin(sending)));
    }

    /// Closes the connection if nothing is on its way over it: who polls needs it seldom.
    pub(crate) fn rest(&mut self) {
        self.kept = None;
    }

    /// Waits for the outcome of the one on its way. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        let Some((receipt, sending)) = &mut self.sending else {
            return std::future::pending().await;
        };
        let (receipt, sent) = (*receipt, sending.await);
        self.sending = None;
        let outcome = sent.map(|connection| {
            self.kept = self.endpoint.take().map(|at| (at, connection));
        });
        Event::Receipt { receipt, outcome }
    }
}

async fn deliver(
    kept: Option<Connection>,
    connector: Arc<dyn Connector>,
    endpoint: Endpoint,
    outgoing: Outgoing,
) -> Result<Connection, Error> {
    let mut connection = match kept.filter(Connection::is_usable) {
        Some(kept) => kept,
        None => Connection::open(&*connector, &endpoint).await?,
    };
    let answer = connection.send(&outgoing, &endpoint).await;
    let answer = answer.map_err(http1::NoAnswer::into_error)?;
    if !answer.status().is_success() {
        return Err(refusal(answer, &outgoing, &endpoint).await.error);
    }
    // Read to its end, so that the connection is free again.
    http1::read_body(answer.into_body(), PROBLEM_LEN_MAX).await?;
    Ok(connection)
}
