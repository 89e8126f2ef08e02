//! Answers that are taken piece by piece, because they are files.
//!
//! What must hold: a file that breaks off is an error, never a short file; nothing is asked for twice
//! once its first byte was taken.

use std::io;

use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use super::{Admin, Answer};
use crate::error::Error;
use crate::http1::{self, Connection};

impl Admin {
    /// Reads a file from the first node that gives it, handing its bytes to `take` as they come. The
    /// timeout bounds the wait for the answer and for each piece, not the whole. The answer has no
    /// body.
    ///
    /// # Errors
    /// Every answer of 400 and above, no answer at all, a file that broke off, and what `take` says.
    ///
    /// ```no_run
    /// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
    /// let mut bytes = Vec::new();
    /// let answer = admin
    ///     .download("/v1/backup", &mut |piece| Ok(bytes.extend_from_slice(piece)))
    ///     .await?;
    /// println!("version {:?}: {} bytes", answer.version(), bytes.len());
    /// // Refused: there is no such file.
    /// let refused = admin.download("/v1/backups", &mut |_| Ok(())).await;
    /// assert!(refused.is_err_and(|error| error.is_not_found()));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn download(
        &self,
        path: &str,
        take: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<Answer, Error> {
        let mut failed = None;
        for at in 0..self.pool.len() {
            match self.begin(path, at).await {
                // The connection ends when it is dropped.
                Ok((_connection, response)) => return self.take(at, response, take).await,
                Err(error) if error.is_unreachable() || error.is_timeout() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::unreachable("there is no node to ask")))
    }

    async fn begin(
        &self,
        path: &str,
        at: usize,
    ) -> Result<(Connection, Response<Incoming>), Error> {
        let outgoing = self.outgoing(Method::GET, path, HeaderMap::new(), None)?;
        let Some(endpoint) = self.pool.endpoint(at) else {
            return Err(Error::unreachable("there is no node to ask"));
        };
        let late = || Error::timed_out("the node took too long to answer").at(endpoint);
        let opened = timeout(self.limits.connect, self.pool.open(at)).await;
        let mut connection = opened.map_err(|_| late())??;
        let sent = timeout(self.limits.timeout, connection.send(&outgoing, endpoint)).await;
        let response = sent.map_err(|_| late())?;
        let response = response.map_err(http1::NoAnswer::into_error)?;
        if response.status().as_u16() < 400 {
            return Ok((connection, response));
        }
        let (head, body) = response.into_parts();
        let version = http1::version_of(&head.headers);
        let body = http1::read_body(body, http1::PROBLEM_LEN_MAX).await?;
        Err(Error::refused(head.status, version, &body).at(endpoint))
    }

    async fn take(
        &self,
        at: usize,
        response: Response<Incoming>,
        take: &mut (dyn FnMut(&[u8]) -> io::Result<()> + Send),
    ) -> Result<Answer, Error> {
        let (head, mut body) = response.into_parts();
        let broke_off = |why: String| {
            let error = Error::unreachable(format!("the file broke off: {why}"));
            match self.pool.endpoint(at) {
                Some(endpoint) => error.at(endpoint),
                None => error,
            }
        };
        loop {
            let frame = timeout(self.limits.timeout, body.frame()).await;
            let frame = frame.map_err(|_| broke_off("nothing came for too long".into()))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|why| broke_off(why.to_string()))?;
            if let Some(piece) = frame.data_ref() {
                take(piece)
                    .map_err(|why| Error::settings(format!("cannot keep the file: {why}")))?;
            }
        }
        Ok(Answer {
            status: head.status.as_u16(),
            version: http1::version_of(&head.headers),
            headers: head.headers,
            body: Value::Null,
            endpoint: self.pool.endpoint(at).cloned(),
        })
    }
}
