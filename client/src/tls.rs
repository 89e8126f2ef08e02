//! Encrypted connections: rustls around whatever a connector opened. Behind the feature `tls`.
//!
//! What must hold: nothing is ever sent to an `https://` endpoint unencrypted, or before its
//! certificate was checked for its host; without the feature there is no such endpoint.
//!
//! Left out: client certificates.

#[cfg(not(feature = "tls"))]
pub(crate) use self::without::Tls;

#[cfg(feature = "tls")]
pub(crate) use self::with::Tls;

#[cfg(not(feature = "tls"))]
mod without {
    use std::io;

    use crate::endpoint::{Endpoint, Io};

    /// There is none.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) enum Tls {}

    impl Tls {
        pub(crate) const IS_BUILT_IN: bool = false;

        /// Endpoints that would need it are refused before this.
        pub(crate) fn of_the_system() -> Tls {
            unreachable!("an encrypted endpoint was refused")
        }

        pub(crate) async fn wrap(&self, _: Box<dyn Io>, _: &Endpoint) -> io::Result<Box<dyn Io>> {
            match *self {}
        }
    }
}

#[cfg(feature = "tls")]
mod with {
    use std::io;
    use std::sync::{Arc, OnceLock};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};

    use crate::endpoint::{Endpoint, Io};
    use crate::error::Error;

    /// Whom to trust.
    #[derive(Clone, Debug)]
    pub(crate) struct Tls {
        /// None: what the operating system trusts.
        config: Option<Arc<ClientConfig>>,
    }

    impl PartialEq for Tls {
        fn eq(&self, other: &Tls) -> bool {
            match (&self.config, &other.config) {
                (None, None) => true,
                (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                _ => false,
            }
        }
    }

    impl Eq for Tls {}

    impl Tls {
        pub(crate) const IS_BUILT_IN: bool = true;

        pub(crate) fn of_the_system() -> Tls {
            Tls { config: None }
        }

        /// Trusts the certificates in these PEM texts and no others.
        pub(crate) fn trusting(texts: &[Vec<u8>]) -> Result<Tls, Error> {
            let mut roots = RootCertStore::empty();
            for text in texts {
                let refused = |why: &dyn std::fmt::Display| {
                    Error::settings(format!("a root certificate: {why}"))
                };
                let before = roots.len();
                for certificate in CertificateDer::pem_slice_iter(text) {
                    let certificate = certificate.map_err(|e| refused(&e))?;
                    roots.add(certificate).map_err(|e| refused(&e))?;
                }
                if roots.len() == before {
                    return Err(refused(&"the text holds no certificate in PEM"));
                }
            }
            let config = configure(roots).map_err(|e| Error::settings(e.to_string()))?;
            let config = Some(config);
            Ok(Tls { config })
        }

        /// Encrypts a connection, once the other side has shown that it is the endpoint's host.
        pub(crate) async fn wrap(
            &self,
            io: Box<dyn Io>,
            endpoint: &Endpoint,
        ) -> io::Result<Box<dyn Io>> {
            let config = match &self.config {
                Some(config) => Arc::clone(config),
                None => system()?,
            };
            let host = ServerName::try_from(endpoint.host().to_owned());
            let host = host.map_err(|e| io::Error::other(format!("{}: {e}", endpoint.host())))?;
            let connector = tokio_rustls::TlsConnector::from(config);
            Ok(Box::new(connector.connect(host, io).await?))
        }
    }

    fn configure(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// What the operating system trusts, read once.
    fn system() -> io::Result<Arc<ClientConfig>> {
        static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        if let Some(config) = SYSTEM.get() {
            return Ok(Arc::clone(config));
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Some of them are too old to be read, on most systems.
        let (read, _) = roots.add_parsable_certificates(found.certs);
        if read == 0 {
            let why = found.errors.first().map(ToString::to_string);
            let why = why.unwrap_or_else(|| "there are none".to_owned());
            let why = format!("no certificates of the operating system: {why}");
            return Err(io::Error::other(why));
        }
        let config = configure(roots).map_err(io::Error::other)?;
        Ok(Arc::clone(SYSTEM.get_or_init(|| config)))
    }
}
