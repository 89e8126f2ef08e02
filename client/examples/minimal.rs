//! One flag, followed as it changes. Start a cluster with `pennon dev`, then:
//!
//! ```text
//! PENNON_URL=http://127.0.0.1:7400 PENNON_ENV=production \
//!     cargo run -p pennon-client --example minimal -- checkout.new-ui user-42
//! ```
//!
//! Where no node can be reached, it starts from the cache that an earlier run left in the directory
//! for temporary files, and says that its answers are STALE.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use pennon_client::{ClientBuilder, Error, Subject};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let flag = arguments
        .next()
        .unwrap_or_else(|| "checkout.new-ui".to_owned());
    let user = Subject::new(arguments.next().unwrap_or_else(|| "user-42".to_owned()));
    let cache = std::env::temp_dir().join("pennon-minimal.cache");
    let flags = ClientBuilder::from_env()?
        .cache_file(cache)
        .connect()
        .await?;
    let mut changes = flags.changes();
    loop {
        let evaluation = flags.evaluate(&flag, &user);
        println!(
            "{flag} for {}: {} ({}, {}, version {})",
            user.key(),
            evaluation.variant().unwrap_or("the caller's default"),
            evaluation.reason(),
            evaluation.freshness(),
            evaluation.config_version(),
        );
        loop {
            match changes.next().await {
                Some(change) if change.affects(&flag) => break,
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
}
