//! W9: backups are taken from any node while everything else goes on. A whole one passes
//! `pennon backup verify`, and a cluster can be begun from it; one that was cut off does not.
//!
//! Left out: a restore into the running cluster. It writes old values again, which the checkers of
//! registers and pairs would take for values from nowhere.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http_body_util::BodyExt;
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Site;
use crate::failure::{Failure, Result};
use crate::http1::{Call, Connection};

/// Longest wait for the next piece of a backup.
const PIECE_MAX: Duration = Duration::from_secs(5);

/// Starts one client that takes backups and has the binary look at them.
pub fn start(site: &Site, client: u32, binary: PathBuf) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    let worker = Worker {
        site: site.clone(),
        client,
        random: site.random(client),
        binary,
        whole: 0,
        cut: 0,
    };
    tasks.spawn(worker.run());
    tasks
}

struct Worker {
    site: Site,
    client: u32,
    random: StdRng,
    binary: PathBuf,
    whole: u64,
    cut: u64,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        let directory = self.site.directory.join("backups");
        std::fs::create_dir_all(&directory)?;
        let mut node = 0;
        while !self.site.is_over() {
            self.site
                .rest(Duration::from_millis(
                    self.random.random_range(2_000..=6_000),
                ))
                .await;
            node += 1;
            let file = directory.join(format!("{node}.backup"));
            let (_, address) = self.site.way(self.client, node);
            match self.take(&address, &file).await {
                Ok(whole) => self.look(&file, whole, &directory)?,
                // It did not begin.
                Err(_) => continue,
            }
        }
        crate::say(format!(
            "{} whole backups and {} cut ones were looked at",
            self.whole, self.cut
        ));
        Ok(())
    }

    /// Writes a backup into a file; whether it came whole.
    async fn take(&mut self, address: &str, file: &Path) -> Result<bool> {
        let mut connection = Connection::open(address).await?;
        let call = Call::get("/v1/backup");
        let begun = timeout(PIECE_MAX, connection.begin(&call))
            .await
            .map_err(Failure::new)?;
        let answer = begun.map_err(Failure::new)?;
        if !answer.status().is_success() {
            return Err(Failure::new(answer.status()));
        }
        let mut body = answer.into_body();
        let mut bytes = Vec::new();
        let whole = loop {
            match timeout(PIECE_MAX, body.frame()).await {
                Ok(None) => break true,
                Ok(Some(Ok(frame))) => {
                    bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data))
                }
                Ok(Some(Err(_))) | Err(_) => break false,
            }
        };
        std::fs::write(file, bytes)?;
        Ok(whole)
    }

    fn look(&mut self, file: &Path, whole: bool, directory: &Path) -> Result<()> {
        let shown = file.display();
        let verified = self.pennon(&["backup", "verify", &file.to_string_lossy()])?;
        match (whole, verified.is_ok()) {
            (true, true) => self.whole += 1,
            (false, false) => self.cut += 1,
            (true, false) => self
                .site
                .complain(format!("{shown} came whole: {verified:?}")),
            (false, true) => self
                .site
                .complain(format!("{shown} was cut off and passes for whole")),
        }
        if whole && verified.is_ok() {
            let data = directory.join("recovered");
            let arguments = [
                "recover",
                "--backup",
                &file.to_string_lossy(),
                "--data",
                &data.to_string_lossy(),
            ];
            if let Err(why) = self.pennon(&arguments)? {
                self.site
                    .complain(format!("{shown} cannot be recovered from: {why}"));
            }
            // Nothing is there if it failed.
            let _ = std::fs::remove_dir_all(data);
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Runs the binary; what it said when it failed.
    fn pennon(&self, arguments: &[&str]) -> Result<Result<(), String>> {
        let output = std::process::Command::new(&self.binary)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        Ok(match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        })
    }
}
