//! Endpoints (where a node listens) and connectors (how to get bytes to it).
//!
//! What must hold: nothing in this crate opens a socket except through a `Connector`, so that a
//! simulation, a test or a proxy can stand in its place.
//!
//! Left out: HTTP (`http1.rs`), deadlines (the callers have them), encryption (`tls.rs`).

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::tls::Tls;

/// The most endpoints one client takes; beyond it the list is refused.
pub const ENDPOINTS_MAX: usize = 64;

/// The address of one node: host, port, and a path in front of `/v1` if there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    authority: Arc<str>,
    host_len: usize,
    port: u16,
    prefix: Arc<str>,
    /// How its connections are encrypted, if they are.
    tls: Option<Tls>,
}

impl Endpoint {
    /// Reads `http://host[:port][/prefix]`, or with the feature `tls` also `https://`; the port is 7400
    /// when left out, with `https://` 443.
    ///
    /// # Errors
    /// When it is no such URL, has a query or names a user.
    pub fn parse(url: &str) -> Result<Endpoint, Error> {
        let secure = url.starts_with("https://");
        if secure && !Tls::IS_BUILT_IN {
            let why = "this build does not encrypt connections; build pennon-client with the feature \
                       `tls`, or use http:// and a local proxy";
            return Err(Error::settings(format!("{url:?}: {why}")));
        }
        if !secure && !url.starts_with("http://") {
            return Err(Error::settings(format!(
                "{url:?} does not start with http://"
            )));
        }
        let uri: Uri = url
            .parse()
            .map_err(|e| Error::settings(format!("{url:?}: {e}")))?;
        let host = uri.host().unwrap_or("");
        let user = uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'));
        if host.is_empty() || user || uri.query().is_some() {
            let why = "is not of the form http://host[:port][/prefix]";
            return Err(Error::settings(format!("{url:?} {why}")));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 7400 });
        let authority = format!("{host}:{port}");
        let prefix = uri.path().trim_end_matches('/');
        let (host_len, authority) = (host.len(), Arc::from(authority));
        Ok(Endpoint {
            authority,
            host_len,
            port,
            prefix: Arc::from(prefix),
            tls: secure.then(Tls::of_the_system),
        })
    }

    /// How its connections are encrypted; none when they are not.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The same endpoint with other trust; without effect when nothing is encrypted.
    #[cfg(feature = "tls")]
    pub(crate) fn trusting(self, tls: &Tls) -> Endpoint {
        let tls = self.tls.map(|_| tls.clone());
        Endpoint { tls, ..self }
    }

    /// An endpoint that stands for none: port 1 of a name that no resolver knows.
    pub(crate) fn nowhere() -> Endpoint {
        Endpoint {
            authority: Arc::from("nowhere.invalid:1"),
            host_len: "nowhere.invalid".len(),
            port: 1,
            prefix: Arc::from(""),
            tls: None,
        }
    }

    /// Reads a list of URLs.
    ///
    /// # Errors
    /// When it is empty, has more than [`ENDPOINTS_MAX`], or one of them is no endpoint.
    pub(crate) fn parse_all<I>(urls: I) -> Result<Arc<[Endpoint]>, Error>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let parsed: Result<Vec<Endpoint>, Error> = urls
            .into_iter()
            .map(|url| Endpoint::parse(url.as_ref().trim()))
            .collect();
        let endpoints = parsed?;
        match endpoints.len() {
            0 => Err(Error::settings("no endpoint is given")),
            n if n > ENDPOINTS_MAX => Err(Error::settings(format!(
                "{n} endpoints are given, at most {ENDPOINTS_MAX}"
            ))),
            _ => Ok(endpoints.into()),
        }
    }

    /// Returns the host: a name or an address, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        self.authority[..self.host_len]
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns `host:port`, as it goes into the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the path in front of `/v1`, empty or beginning with a slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// A connection: bytes in, bytes out.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What [`Connector::connect`] returns.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Opens connections to endpoints: bytes as they are sent. What goes to an `https://` endpoint is
/// encrypted before it gets here. It needs no deadline of its own: a caller that has waited long
/// enough drops the future.
pub trait Connector: Send + Sync + 'static {
    /// Opens a connection.
    ///
    /// # Errors
    /// When the endpoint cannot be reached.
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a>;
}

impl<C: Connector + ?Sized> Connector for Arc<C> {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        (**self).connect(endpoint)
    }
}

/// Connects over TCP, with names resolved by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpConnector;

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
            // A request is one small write that waits for its answer.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_prefix() {
        let parts = |url: &str| {
            let e = Endpoint::parse(url).unwrap();
            (
                e.host().to_owned(),
                e.port(),
                e.prefix().to_owned(),
                e.to_string(),
            )
        };
        let node = (
            "n1".to_owned(),
            7400,
            String::new(),
            "http://n1:7400".to_owned(),
        );
        assert_eq!(parts("http://n1"), node);
        assert_eq!(parts("http://n1:7400/"), node);
        let v6 = (
            "::1".to_owned(),
            80,
            "/pennon".to_owned(),
            "http://[::1]:80/pennon".to_owned(),
        );
        assert_eq!(parts("http://[::1]:80/pennon/"), v6);
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_reason() {
        let refusal = |url: &str| Endpoint::parse(url).unwrap_err().to_string();
        if Tls::IS_BUILT_IN {
            let node = Endpoint::parse("https://n1/flags").unwrap();
            assert_eq!(
                (node.port(), node.to_string().as_str()),
                (443, "https://n1:443/flags")
            );
        } else {
            assert!(refusal("https://n1").contains("the feature `tls`"));
        }
        assert!(refusal("n1:7400").contains("http://"));
        for url in ["http://", "http://u:p@n1", "http://n1/?a=1", "http://n 1"] {
            assert!(Endpoint::parse(url).is_err(), "{url}");
        }
        assert!(Endpoint::parse_all(Vec::<String>::new()).is_err());
        assert!(Endpoint::parse_all(vec!["http://n1"; ENDPOINTS_MAX + 1]).is_err());
        assert_eq!(
            Endpoint::parse_all([" http://a ", "http://b"])
                .unwrap()
                .len(),
            2
        );
    }
}
