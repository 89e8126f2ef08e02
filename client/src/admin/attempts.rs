//! Sends one request to some node, and decides when it may be sent again.
//!
//! What must hold (I9): a write is sent again only when the earlier attempt certainly did not
//! reach a node, or under the same idempotency key; once one attempt may have reached a node, the
//! only thing that makes the outcome known is an answer decided after it by the log. A refusal on
//! the way there (no quorum, a full queue, a token) says nothing about the earlier attempt.
//!
//! Order: an idle connection, else a new one; send; read the answer; put the connection back.
//! Connections are kept per endpoint, at most `IDLE_MAX`; beyond it they are closed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::endpoint::{Connector, Endpoint};
use crate::error::{Error, Problem};
use crate::http1::{self, Connection, NoAnswer, Outgoing};

/// Idle connections kept per endpoint.
const IDLE_MAX: usize = 4;
/// The longest answer that is read, in bytes: a snapshot of every flag fits.
const ANSWER_LEN_MAX: usize = 256 << 20;
/// The first pause after every endpoint was tried; doubled with each further round.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// The longest pause between rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often and how long one request is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For everything together.
    pub(crate) timeout: Duration,
    /// For opening one connection.
    pub(crate) connect: Duration,
    /// Attempts on all endpoints together.
    pub(crate) attempts_max: u32,
}

/// Endpoints and the connections to them.
pub(crate) struct Pool {
    endpoints: Arc<[Endpoint]>,
    connector: Arc<dyn Connector>,
    idle: Vec<Mutex<Vec<Connection>>>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    rng: Mutex<StdRng>,
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) endpoint: usize,
}

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    NotSent,
    Lost,
    Answered(StatusCode),
    /// Refused, for want of space on a disk, before it was put to the log.
    DiskFull,
}

impl Attempt {
    fn of(answer: &RawAnswer) -> Attempt {
        let is_disk_full = || {
            let problem = Problem::parse(&answer.body)?;
            let quota = problem.field("quota")?.as_str()?;
            Some(problem.slug() == "quota-exceeded" && quota == "disk")
        };
        match answer.status {
            StatusCode::UNPROCESSABLE_ENTITY if is_disk_full() == Some(true) => Attempt::DiskFull,
            status => Attempt::Answered(status),
        }
    }
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The answer is final.
    Take,
    /// Try another endpoint.
    Again,
    /// Give up; nothing was done.
    Fail,
    /// Give up; the write may have happened.
    Unknown,
}

/// Whether a request may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing.
    Safe,
    /// It carries an idempotency key.
    Keyed,
    /// It must not.
    Never,
}

impl Repeat {
    pub(crate) fn of(method: &Method, keyed: bool) -> Repeat {
        match (method.is_safe(), keyed) {
            (true, _) => Repeat::Safe,
            (false, true) => Repeat::Keyed,
            (false, false) => Repeat::Never,
        }
    }
}

/// Decides what follows from an attempt. `doubt`: an earlier attempt may have reached a node.
fn decide(repeat: Repeat, doubt: bool, attempt: Attempt, may_go_on: bool) -> Next {
    let writes = repeat != Repeat::Safe;
    let (again, undecided) = match attempt {
        Attempt::NotSent => (true, doubt),
        Attempt::Lost | Attempt::Answered(StatusCode::GATEWAY_TIMEOUT) => {
            (repeat != Repeat::Never, true) // I9
        }
        // Refused before it was put to the log: says nothing about an earlier attempt.
        Attempt::Answered(
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::REQUEST_TIMEOUT,
        ) => (true, doubt),
        Attempt::DiskFull if doubt => (false, true),
        Attempt::DiskFull => return Next::Take,
        Attempt::Answered(
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS,
        ) => (false, doubt),
        // The node does not know itself how far it came, or says what nobody understands.
        Attempt::Answered(status) if status.as_u16() >= 500 => (false, true),
        Attempt::Answered(_) => return Next::Take,
    };
    match (again && may_go_on, writes && undecided) {
        (true, _) => Next::Again,
        (false, true) => Next::Unknown, // I9
        (false, false) => Next::Fail,
    }
}

impl Pool {
    pub(crate) fn new(endpoints: Arc<[Endpoint]>, connector: Arc<dyn Connector>) -> Pool {
        Pool {
            idle: endpoints.iter().map(|_| Mutex::default()).collect(),
            endpoints,
            connector,
            preferred: AtomicUsize::new(0),
            rng: Mutex::new(rand::make_rng()),
        }
    }

    /// How many endpoints there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Opens a connection of its own to an endpoint.
    pub(crate) async fn open(&self, at: usize) -> Result<Connection, Error> {
        match self.endpoints.get(at) {
            Some(endpoint) => Connection::open(self.connector.as_ref(), endpoint).await,
            None => Err(Error::unreachable("there is no such endpoint")),
        }
    }

    pub(crate) fn reseed(&self, seed: u64) {
        *locked(&self.rng) = StdRng::seed_from_u64(seed);
    }

    pub(crate) fn random_key(&self) -> String {
        let number: u128 = locked(&self.rng).random();
        format!("{number:032x}")
    }

    pub(crate) fn endpoint(&self, n: usize) -> Option<&Endpoint> {
        self.endpoints.get(n)
    }

    /// Sends a request until an answer is final or the limits are reached.
    pub(crate) async fn send(
        &self,
        outgoing: &Outgoing,
        repeat: Repeat,
        limits: Limits,
    ) -> Result<RawAnswer, Error> {
        let deadline = Instant::now() + limits.timeout;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut doubt = false;
        let mut tried = 0;
        loop {
            let n = (first + tried as usize) % self.endpoints.len();
            let result = self.attempt(n, outgoing, deadline, limits).await;
            tried += 1;
            let attempt = match &result {
                Ok(answer) => Attempt::of(answer),
                Err(NoAnswer::NotSent(_)) => Attempt::NotSent,
                Err(NoAnswer::Lost(_)) => Attempt::Lost,
            };
            let may_go_on = tried < limits.attempts_max && Instant::now() < deadline;
            let next = decide(repeat, doubt, attempt, may_go_on);
            doubt |= matches!(
                attempt,
                Attempt::Lost | Attempt::Answered(StatusCode::GATEWAY_TIMEOUT)
            );
            match (next, result) {
                (Next::Take, Ok(answer)) => {
                    self.preferred.store(n, Ordering::Relaxed);
                    return Ok(answer);
                }
                (Next::Again, _) => self.pause(tried, deadline).await,
                (Next::Unknown, result) => return Err(failure(result).into_outcome_unknown()),
                (Next::Fail | Next::Take, result) => return Err(failure(result)),
            }
        }
    }

    /// Waits when every endpoint has been tried, longer after each round, never past the deadline.
    async fn pause(&self, tried: u32, deadline: Instant) {
        let all = u32::try_from(self.endpoints.len()).unwrap_or(u32::MAX);
        if !tried.is_multiple_of(all) {
            return;
        }
        let rounds = (tried / all - 1).min(16);
        let longest = PAUSE_FIRST.saturating_mul(1 << rounds).min(PAUSE_MAX);
        let part: f64 = locked(&self.rng).random();
        let until = (Instant::now() + longest.mul_f64(part)).min(deadline);
        tokio::time::sleep_until(until).await;
    }

    /// Makes one attempt. A single slow endpoint takes at most half of what is left of the time
    /// while there are others.
    async fn attempt(
        &self,
        n: usize,
        outgoing: &Outgoing,
        deadline: Instant,
        limits: Limits,
    ) -> Result<RawAnswer, NoAnswer> {
        let endpoint = &self.endpoints[n];
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let others = self.endpoints.len() > 1;
        let until = now + if others { left / 2 } else { left };
        let late = |what: &str| Error::timed_out(format!("{what} took too long")).at(endpoint);

        let mut connection = match self.take_idle(n) {
            Some(connection) => connection,
            None => {
                let open = Connection::open(&*self.connector, endpoint);
                match tokio::time::timeout_at(until.min(now + limits.connect), open).await {
                    Ok(opened) => opened.map_err(NoAnswer::NotSent)?,
                    Err(_) => return Err(NoAnswer::NotSent(late("connecting"))),
                }
            }
        };
        let exchange = async {
            let response = connection.send(outgoing, endpoint).await?;
            let (head, body) = response.into_parts();
            let body = http1::read_body(body, ANSWER_LEN_MAX).await;
            let body = body.map_err(|e| NoAnswer::Lost(e.at(endpoint)))?;
            Ok(RawAnswer {
                status: head.status,
                headers: head.headers,
                body,
                endpoint: n,
            })
        };
        let answer = match tokio::time::timeout_at(until, exchange).await {
            Ok(answer) => answer?,
            Err(_) => return Err(NoAnswer::Lost(late("the answer"))),
        };
        self.put_back(n, connection);
        Ok(answer)
    }

    fn take_idle(&self, n: usize) -> Option<Connection> {
        let mut idle = locked(&self.idle[n]);
        while let Some(connection) = idle.pop() {
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    fn put_back(&self, n: usize, connection: Connection) {
        let mut idle = locked(&self.idle[n]);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// Makes the error for an attempt after which nothing more is tried.
fn failure(result: Result<RawAnswer, NoAnswer>) -> Error {
    match result {
        Ok(answer) => {
            let version = http1::version_of(&answer.headers);
            Error::refused(answer.status, version, &answer.body)
        }
        Err(no_answer) => no_answer.into_error(),
    }
}

/// Nothing that holds one of these locks can leave half a change behind.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16) -> Attempt {
        Attempt::Answered(StatusCode::from_u16(status).unwrap())
    }

    #[test]
    fn a_write_without_a_key_is_sent_again_only_when_it_was_never_sent() {
        let decide = |doubt, attempt| decide(Repeat::Never, doubt, attempt, true);
        assert_eq!(decide(false, Attempt::NotSent), Next::Again);
        assert_eq!(decide(false, Attempt::Lost), Next::Unknown);
        assert_eq!(decide(false, answered(504)), Next::Unknown);
        assert_eq!(decide(false, answered(503)), Next::Again);
        assert_eq!(decide(false, answered(500)), Next::Unknown);
        assert_eq!(decide(false, answered(412)), Next::Take);
    }

    #[test]
    fn a_keyed_write_goes_on_but_doubt_stays_until_the_log_answers() {
        let decide = |doubt, attempt, on| decide(Repeat::Keyed, doubt, attempt, on);
        assert_eq!(decide(false, Attempt::Lost, true), Next::Again);
        assert_eq!(decide(true, Attempt::NotSent, false), Next::Unknown);
        assert_eq!(decide(true, answered(503), false), Next::Unknown);
        assert_eq!(decide(true, answered(401), true), Next::Unknown);
        assert_eq!(decide(true, answered(429), true), Next::Unknown);
        assert_eq!(decide(true, answered(412), true), Next::Take);
        assert_eq!(decide(true, answered(200), true), Next::Take);
        assert_eq!(decide(false, Attempt::NotSent, false), Next::Fail);
        assert_eq!(decide(false, answered(503), false), Next::Fail);
        assert_eq!(decide(false, answered(403), true), Next::Fail);
    }

    #[test]
    fn a_read_is_never_of_unknown_outcome() {
        for doubt in [false, true] {
            for on in [false, true] {
                for attempt in [
                    Attempt::Lost,
                    Attempt::NotSent,
                    answered(504),
                    answered(500),
                ] {
                    let next = decide(Repeat::Safe, doubt, attempt, on);
                    assert_ne!(next, Next::Unknown, "{attempt:?}");
                    let again = on && attempt != answered(500);
                    assert_eq!(next == Next::Again, again, "{attempt:?}");
                }
            }
        }
    }
}
