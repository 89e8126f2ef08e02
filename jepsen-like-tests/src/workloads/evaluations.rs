//! W4 and W5: applications with the client library and a disk cache evaluate fixed subjects all the
//! time, and are started anew every few seconds.
//!
//! What must hold: an application that comes back has its number and its cache; it comes back only
//! when the one before has let go of the cache, as a process that ends has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pennon_client::{Client, Freshness, Subject};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Site;
use super::pairs::{PAIRS, key};
use crate::failure::{Failure, Result};
use crate::history::{Evaluation, Event, SubjectSeen};
use crate::until;

/// The subjects that are evaluated, over and over.
const SUBJECTS: usize = 12;
/// Evaluations between two pauses.
const BURST: usize = 3;
/// Longest wait for a client that was dropped to let go of its cache.
const LET_GO_MAX: Duration = Duration::from_secs(20);

/// Starts applications under these numbers.
///
/// # Errors
/// When a directory for caches cannot be made.
pub fn start(site: &Site, clients: &[u32]) -> Result<JoinSet<Result<()>>> {
    let caches = site.directory.join("caches");
    std::fs::create_dir_all(&caches)?;
    for subject in 0..SUBJECTS {
        site.recorder.add_event(Event::Subject(SubjectSeen {
            key: subject_key(subject).into(),
            attributes: serde_json::Map::new(),
        }));
    }
    let mut tasks = JoinSet::new();
    for client in clients {
        let application = Application {
            site: site.clone(),
            client: *client,
            random: site.random(*client),
            cache: caches.join(format!("client-{client}.cache")),
        };
        tasks.spawn(application.run());
    }
    Ok(tasks)
}

fn subject_key(subject: usize) -> String {
    format!("user-{subject}")
}

struct Application {
    site: Site,
    client: u32,
    random: StdRng,
    cache: PathBuf,
}

impl Application {
    async fn run(mut self) -> Result<()> {
        while !self.site.is_over() {
            let lives = Duration::from_millis(self.random.random_range(2_000..=15_000));
            self.live(lives).await?;
            let lock = self.cache.with_extension("cache.lock");
            until("a cache that is let go of", LET_GO_MAX, async || {
                is_free(&lock).map_err(|why| why.to_string())
            })
            .await?;
        }
        Ok(())
    }

    /// One process's life.
    async fn live(&mut self, lives: Duration) -> Result<()> {
        let ways = self.site.ways[self.client as usize].iter();
        let urls: Vec<String> = ways.map(|way| format!("http://{way}")).collect();
        let client = Client::builder(urls)
            .environment(&*self.site.environment)
            .client_id(format!("application-{}", self.client))
            .seed(self.random.random())
            .cache_file(&self.cache)
            .start()
            .map_err(Failure::new)?;
        let end = Instant::now() + lives;
        while !self.site.is_over() && Instant::now() < end {
            for _ in 0..BURST {
                self.evaluate(&client);
            }
            let pause = Duration::from_millis(self.random.random_range(10..=80));
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn evaluate(&mut self, client: &Client) {
        let flag = key(self.random.random_range(0..PAIRS));
        let name = subject_key(self.random.random_range(0..SUBJECTS));
        let subject = Subject::new(name.clone());
        let began = self.site.recorder.now();
        let answer = client.evaluate(&flag, &subject);
        self.site.recorder.add_event(Event::Evaluation(Evaluation {
            began,
            client: self.client,
            environment: self.site.environment.clone(),
            flag: flag.into(),
            subject: name.into(),
            snapshot_version: answer.snapshot_version().map_or(0, |version| version.get()),
            config_version: answer.config_version().get(),
            variant: answer.variant().map(Arc::from),
            value: answer.value().map(|value| value.as_json().into()),
            reason: answer.reason().as_str().into(),
            fresh: answer.freshness() == Freshness::Fresh,
            age: answer
                .age()
                .map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        }));
    }
}

/// Whether nobody holds a lock file.
fn is_free(lock: &Path) -> std::io::Result<()> {
    match std::fs::File::open(lock) {
        Ok(file) => file.try_lock().map_err(std::io::Error::from),
        // Nobody has made one yet.
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}
