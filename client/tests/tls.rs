//! Encrypted connections against a node behind TLS: whom the client trusts, and whom it does not.
//! The certificates in `testdata` are valid until 2126 and their key is no secret.

#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::net::{Net, Requests, hello};
use common::states::snapshot_message;
use pennon_client::admin::Admin;
use pennon_client::{Client, ClientBuilder, Connecting, Connector, Endpoint, Io};
use pennon_evaluator::wire::Intent;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

const CA: &[u8] = include_bytes!("../testdata/ca.pem");

/// A node that speaks TLS, whatever host it is asked for as.
struct Secure {
    net: Net,
    acceptor: TlsAcceptor,
}

impl Connector for Secure {
    fn connect<'a>(&'a self, endpoint: &'a Endpoint) -> Connecting<'a> {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (net, acceptor) = (self.net.clone(), self.acceptor.clone());
        let host = endpoint.host().to_owned();
        tokio::spawn(async move {
            if let Ok(io) = acceptor.accept(server).await {
                net.serve(&host, io);
            }
        });
        Box::pin(async move { Ok(Box::new(client) as Box<dyn Io>) })
    }
}

fn secure() -> (Secure, Requests) {
    let certificate = include_bytes!("../testdata/server.pem");
    let certificate = CertificateDer::from_pem_slice(certificate).unwrap();
    let key = include_bytes!("../testdata/server.key");
    let key = PrivateKeyDer::from_pem_slice(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let (net, requests) = Net::new();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    (Secure { net, acceptor }, requests)
}

fn builder(url: &str, node: Secure) -> ClientBuilder {
    let builder = Client::builder([url]).environment("production");
    builder
        .connector(node)
        .connect_deadline(Duration::from_secs(2))
}

#[tokio::test]
async fn a_trusted_node_is_streamed_from() {
    let (node, mut requests) = secure();
    let builder = builder("https://flags.test", node).root_certificate(CA);
    let client = builder.start().unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.headers["host"], "flags.test:443");
    let stream = request.stream();
    stream.send(&hello("A", Intent::Full, 4));
    stream.send(&snapshot_message(0, 4));
    client.fresh(Duration::from_secs(30)).await.unwrap();
    assert!(client.status().endpoint.to_string().starts_with("https://"));
}

#[tokio::test]
async fn nothing_is_sent_to_who_cannot_show_that_it_is_the_host() {
    for (url, trusted) in [("https://other.test", true), ("https://flags.test", false)] {
        let (node, mut requests) = secure();
        let mut builder = builder(url, node);
        if trusted {
            builder = builder.root_certificate(CA);
        }
        let error = builder.connect().await.unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        let text = error.to_string();
        assert!(text.contains("ertificate"), "{text}");
        assert!(requests.try_recv().is_err(), "a request went out");
    }
    // What writes trusts the operating system, and no more.
    let (node, mut requests) = secure();
    let admin = Admin::new(["https://flags.test"], None, Arc::new(node)).unwrap();
    let flag = pennon_client::admin::Resource::flag("f");
    let asked = tokio::time::timeout(Duration::from_secs(2), admin.get(&flag));
    assert!(!matches!(asked.await, Ok(Ok(_))));
    assert!(requests.try_recv().is_err(), "a request went out");
}

#[tokio::test]
async fn what_holds_no_certificate_is_refused_at_once() {
    for pem in [&b"nothing"[..], b"", &CA[..CA.len() / 2]] {
        let (node, _requests) = secure();
        let builder = builder("https://flags.test", node).root_certificate(pem);
        let refusal = builder.start().unwrap_err();
        assert!(refusal.is_settings(), "{refusal}");
        assert!(
            refusal.to_string().contains("a root certificate"),
            "{refusal}"
        );
    }
}
