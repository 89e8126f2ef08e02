//! A stream as it comes over the wire: Server-Sent Events or frames, one message at a time.
//!
//! Left out: judging what comes; holding a state together from it is the client library's part.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use pennon_evaluator::wire::{
    Ages, FrameDecoder, MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES, StreamMessage,
};
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::http1::{Call, Connection, Dial};

/// One Server-Sent Event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<u64>,
    /// Its data.
    pub data: Value,
}

/// An open stream of bytes.
#[derive(Debug)]
struct Open {
    _connection: Connection,
    body: Incoming,
}

impl Open {
    async fn new(dial: &Dial, address: &str, path: &str, accept: &str) -> Result<Open> {
        let mut connection = Connection::dial(dial, address).await?;
        let response = connection
            .begin(&Call::get(path).header("accept", accept))
            .await
            .map_err(Failure::new)?;
        let (status, kind) = (
            response.status(),
            response.headers().get("content-type").cloned(),
        );
        if !status.is_success()
            || kind.is_none_or(|kind| !kind.as_bytes().starts_with(accept.as_bytes()))
        {
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(Failure::new)?
                .to_bytes();
            return Err(Failure::new(format!(
                "{path} at {address}: {status} {}",
                String::from_utf8_lossy(&body)
            )));
        }
        Ok(Open {
            _connection: connection,
            body: response.into_body(),
        })
    }

    /// The next bytes; `None` at the end.
    async fn bytes(&mut self, within: Duration) -> Result<Option<bytes::Bytes>> {
        loop {
            let frame = tokio::time::timeout(within, self.body.frame()).await;
            match frame
                .map_err(|_| Failure::new(format!("the stream was silent for {within:?}")))?
            {
                None => return Ok(None),
                Some(Err(why)) => return Err(Failure::during("the stream broke", why)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// An open stream of Server-Sent Events.
#[derive(Debug)]
pub struct Events {
    open: Open,
    buffer: String,
}

impl Events {
    /// Opens a stream.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(address: &str, path: &str) -> Result<Events> {
        Ok(Events {
            open: Open::new(&Dial::default(), address, path, MEDIA_TYPE_EVENTS).await?,
            buffer: String::new(),
        })
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// When nothing comes for that long, or the stream breaks.
    pub async fn next(&mut self, within: Duration) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let text: String = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&text)? {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some(bytes) = self.open.bytes(within).await? else {
                return Ok(None);
            };
            self.buffer
                .push_str(std::str::from_utf8(&bytes).map_err(Failure::new)?);
        }
    }

    /// Reads on until an event of this name.
    ///
    /// # Errors
    /// When the stream ends or falls silent before it.
    pub async fn next_named(&mut self, name: &str, within: Duration) -> Result<Event> {
        loop {
            match self.next(within).await? {
                Some(event) if event.name == name => return Ok(event),
                Some(_) => {}
                None => return Err(Failure::new(format!("the stream ended before a {name}"))),
            }
        }
    }
}

/// Reads one block of lines; `None` for a comment.
fn parse(text: &str) -> Result<Option<Event>> {
    let (mut name, mut id, mut data) = (String::new(), None, String::new());
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(':'))
    {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "id" => {
                id = Some(
                    value
                        .parse()
                        .map_err(|_| Failure::new(format!("event id {value:?}")))?,
                )
            }
            "data" => data.push_str(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return Ok(None);
    }
    let data =
        serde_json::from_str(&data).map_err(|why| Failure::during(format!("event {name}"), why))?;
    Ok(Some(Event { name, id, data }))
}

/// An open stream of frames.
#[derive(Debug)]
pub struct Frames {
    open: Open,
    decoder: FrameDecoder,
    waiting: VecDeque<(Ages, StreamMessage)>,
}

impl Frames {
    /// Opens a stream.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(address: &str, path: &str) -> Result<Frames> {
        Frames::dial(&Dial::default(), address, path).await
    }

    /// Opens a stream over a connection that is opened this way.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn dial(dial: &Dial, address: &str, path: &str) -> Result<Frames> {
        let open = Open::new(dial, address, path, MEDIA_TYPE_FRAMES).await?;
        Ok(Frames {
            open,
            decoder: FrameDecoder::default(),
            waiting: VecDeque::new(),
        })
    }

    /// The next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// When nothing comes for that long, the stream breaks, or a frame is damaged.
    pub async fn next(&mut self, within: Duration) -> Result<Option<(Ages, StreamMessage)>> {
        loop {
            if let Some(message) = self.waiting.pop_front() {
                return Ok(Some(message));
            }
            let Some(bytes) = self.open.bytes(within).await? else {
                return Ok(None);
            };
            self.decoder.push(&bytes);
            while let Some(message) = self.decoder.pull().map_err(Failure::new)? {
                self.waiting.push_back(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_comments_skipped() {
        let event = parse("event: delta\nid: 7\ndata: {\"to\":7}\n\n")
            .unwrap()
            .unwrap();
        assert_eq!(
            (event.name.as_str(), event.id, event.data["to"].as_u64()),
            ("delta", Some(7), Some(7))
        );
        assert_eq!(parse(": still here\n\n").unwrap(), None);
        assert!(parse("event: delta\ndata: {\n\n").is_err());
    }
}
