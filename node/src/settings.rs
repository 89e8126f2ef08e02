//! The settings of one node: flags over environment over file over defaults.
//!
//! What must hold: a setting has one name, `--peer-listen` on the command line,
//! `PENNON_PEER_LISTEN` in the environment, `peer-listen` in the file; what cannot work is refused
//! before anything is opened, with what to do instead. A cluster takes the same settings on every
//! node but for name, directory and addresses.
//!
//! Left out: opening anything (`cli/serve.rs`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

/// Where a node listens for clients unless told otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7400";
/// Where a node listens for its peers unless told otherwise.
pub const PEER_LISTEN_DEFAULT: &str = "127.0.0.1:7500";
/// Where a node keeps its data unless told otherwise.
pub const DATA_DEFAULT: &str = "./pennon-data";
/// What a node is called unless told otherwise.
pub const NAME_DEFAULT: &str = "n1";
/// Bytes of the disk below which a node takes no changes, unless told otherwise: enough for the log to
/// go on, for sled to write what is under way, and for a snapshot of some 90 MiB.
pub const MIN_FREE_DEFAULT: u64 = 128 << 20;
/// The most nodes that form a cluster together: more voters only make writes slower.
pub const EXPECT_MAX: u32 = 9;
/// Entries between two snapshots, unless told otherwise.
pub const SNAPSHOT_EVERY_DEFAULT: u64 = 20_000;
/// The fewest: below, a node would write little but snapshots.
pub const SNAPSHOT_EVERY_MIN: u64 = 10;
/// The most: what a restart applies again, and what a log may hold.
pub const SNAPSHOT_EVERY_MAX: u64 = 10_000_000;

/// Settings as they are given: on the command line and in the environment, or in a file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Given {
    /// Name of this node, its own in the cluster [default: n1 without --join]
    #[arg(long, env = "PENNON_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Directory for everything this node keeps [default: ./pennon-data]
    #[arg(long, env = "PENNON_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Where to listen for clients [default: 127.0.0.1:7400]
    #[arg(long, env = "PENNON_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,

    /// Where to listen for the other nodes [default: 127.0.0.1:7500]
    #[arg(long, env = "PENNON_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,

    /// Where clients reach this node, if not where it listens
    #[arg(long, env = "PENNON_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Where the other nodes reach this one, if not where it listens for them
    #[arg(long, env = "PENNON_PEER_ADVERTISE", value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,

    /// Peer addresses of all nodes that form the cluster, the same list on every node
    #[arg(
        long,
        env = "PENNON_JOIN",
        value_name = "HOST:PORT,…",
        value_delimiter = ','
    )]
    pub join: Option<Vec<String>>,

    /// Reach the peer address of another node by way of another address, such as the near end of a
    /// tunnel, wherever that peer address is met: in --join or later
    #[arg(
        long,
        env = "PENNON_PEER_VIA",
        value_name = "PEER=ADDRESS,…",
        value_delimiter = ','
    )]
    pub peer_via: Option<Vec<String>>,

    /// How many nodes form the cluster [default: as many as --join names]
    #[arg(long, env = "PENNON_EXPECT", value_name = "N")]
    pub expect: Option<u32>,

    /// Join the cluster of --join without a vote: serve streams and evaluations, never count for a
    /// quorum
    #[arg(long, env = "PENNON_LEARNER", num_args = 0..=1, default_missing_value = "true", require_equals = true,
        value_name = "BOOL", hide_possible_values = true)]
    pub learner: Option<bool>,

    /// Listen beyond this machine although there are no tokens: whoever reaches a port may do
    /// everything
    #[arg(long, env = "PENNON_INSECURE", num_args = 0..=1, default_missing_value = "true", require_equals = true,
        value_name = "BOOL", hide_possible_values = true)]
    pub insecure: Option<bool>,

    /// Disk space below which changes are refused (reads, evaluations and streams go on): bytes, or
    /// a number with KiB, MiB or GiB; 0 for never [default: 128MiB]
    #[arg(long, env = "PENNON_MIN_FREE", value_name = "SIZE")]
    pub min_free: Option<String>,

    /// Log entries between two snapshots; as many are kept behind the newest one, so that a member
    /// that was away for a moment needs no snapshot [default: 20000]
    #[arg(long, env = "PENNON_SNAPSHOT_EVERY", value_name = "N")]
    pub snapshot_every: Option<u64>,

    /// What to log: error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, env = "PENNON_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
}

/// Settings with nothing left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of the node, 1 to 255 bytes.
    pub name: String,
    /// Its directory.
    pub data: PathBuf,
    /// Where it listens for clients.
    pub listen: String,
    /// Where it listens for peers.
    pub peer_listen: String,
    /// Where clients reach it, if not there.
    pub advertise: Option<String>,
    /// Where peers reach it, if not there.
    pub peer_advertise: Option<String>,
    /// Who forms the cluster; empty for a single node.
    pub join: Vec<String>,
    /// By which address another node's peer address is reached, where that is another one.
    pub peer_via: BTreeMap<String, String>,
    /// How many form it, from 1.
    pub expect: u32,
    /// Whether it joins a cluster without a vote.
    pub learner: bool,
    /// Whether it may listen beyond loopback.
    pub insecure: bool,
    /// Bytes of the disk below which no changes are taken; 0 for no such mark.
    pub min_free: u64,
    /// Entries between two snapshots, and kept behind the newest one.
    pub snapshot_every: u64,
    /// What to log.
    pub log: String,
}

/// Settings that cannot work; one sentence for people, with what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Given {
    /// Reads a settings file (TOML).
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or has a setting that does not exist.
    pub fn read(file: &Path) -> Result<Given, SettingsError> {
        let text = std::fs::read_to_string(file).map_err(|why| {
            SettingsError(format!(
                "the settings file {} cannot be read: {why}",
                file.display()
            ))
        })?;
        Given::parse(&text)
            .map_err(|why| SettingsError(format!("the settings file {}: {why}", file.display())))
    }

    /// Reads settings from TOML.
    ///
    /// # Errors
    /// When it is no TOML, or has a setting that does not exist.
    ///
    /// ```
    /// use pennon_node::settings::Given;
    /// let given = Given::parse("name = \"a\"\njoin = [\"n1:7500\", \"n2:7500\"]")?;
    /// assert_eq!(given.or(Given::default()).resolve()?.expect, 2);
    /// assert!(Given::parse("nmae = \"a\"").is_err_and(|why| why.to_string().contains("nmae")));
    /// # Ok::<(), pennon_node::settings::SettingsError>(())
    /// ```
    pub fn parse(text: &str) -> Result<Given, SettingsError> {
        toml::from_str(text).map_err(|why| SettingsError(why.to_string().trim_end().to_owned()))
    }

    /// Takes from `below` what is not given here.
    #[must_use]
    pub fn or(self, below: Given) -> Given {
        Given {
            name: self.name.or(below.name),
            data: self.data.or(below.data),
            listen: self.listen.or(below.listen),
            peer_listen: self.peer_listen.or(below.peer_listen),
            advertise: self.advertise.or(below.advertise),
            peer_advertise: self.peer_advertise.or(below.peer_advertise),
            join: self.join.or(below.join),
            peer_via: self.peer_via.or(below.peer_via),
            expect: self.expect.or(below.expect),
            learner: self.learner.or(below.learner),
            insecure: self.insecure.or(below.insecure),
            min_free: self.min_free.or(below.min_free),
            snapshot_every: self.snapshot_every.or(below.snapshot_every),
            log: self.log.or(below.log),
        }
    }

    /// Fills in the defaults and checks what can be checked without opening anything.
    ///
    /// # Errors
    /// When the settings contradict each other.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        let join: Vec<String> = self.join.unwrap_or_default();
        let join: Vec<String> = join
            .iter()
            .map(|address| address.trim().to_owned())
            .filter(|a| !a.is_empty())
            .collect();
        let learner = self.learner.unwrap_or(false);
        if learner && self.expect.is_some() {
            return refused(
                "--learner joins a cluster that is there: leave out --expect, which is for those that form one",
            );
        }
        let expect = self
            .expect
            .unwrap_or_else(|| u32::try_from(join.len()).unwrap_or(u32::MAX).max(1));
        let name = match self.name {
            Some(name) => name,
            None if join.is_empty() => NAME_DEFAULT.to_owned(),
            None => return refused("give every node of a cluster a --name of its own"),
        };
        let settings = Settings {
            name,
            data: self.data.unwrap_or_else(|| DATA_DEFAULT.into()),
            listen: self.listen.unwrap_or_else(|| LISTEN_DEFAULT.to_owned()),
            peer_listen: self
                .peer_listen
                .unwrap_or_else(|| PEER_LISTEN_DEFAULT.to_owned()),
            advertise: self.advertise,
            peer_advertise: self.peer_advertise,
            join,
            peer_via: parse_via(&self.peer_via.unwrap_or_default())?,
            expect,
            learner,
            insecure: self.insecure.unwrap_or(false),
            min_free: match self.min_free {
                Some(text) => parse_size("--min-free", &text)?,
                None => MIN_FREE_DEFAULT,
            },
            snapshot_every: self.snapshot_every.unwrap_or(SNAPSHOT_EVERY_DEFAULT),
            log: self.log.unwrap_or_else(|| "info".to_owned()),
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        if self.name.is_empty() || self.name.len() > 255 || self.name.chars().any(char::is_control)
        {
            return refused("--name has 1 to 255 bytes and no control characters");
        }
        if !(SNAPSHOT_EVERY_MIN..=SNAPSHOT_EVERY_MAX).contains(&self.snapshot_every) {
            return refused(format!(
                "--snapshot-every is a number from {SNAPSHOT_EVERY_MIN} to {SNAPSHOT_EVERY_MAX}"
            ));
        }
        if self.learner && self.join.is_empty() {
            return refused(
                "--learner needs --join with the peer addresses of nodes of the cluster",
            );
        }
        if self.learner {
            return self.check_addresses();
        }
        if self.expect == 0 || self.expect > EXPECT_MAX {
            return refused(format!(
                "--expect is a number from 1 to {EXPECT_MAX}; three or five are usual"
            ));
        }
        if self.join.is_empty() && self.expect > 1 {
            return refused(format!(
                "--expect {} needs --join with the peer addresses of all {} nodes",
                self.expect, self.expect
            ));
        }
        if !self.join.is_empty() && self.join.len() < self.expect as usize {
            return refused(format!(
                "--join names {} of the {} nodes that --expect asks for: name them all, this one as well",
                self.join.len(),
                self.expect
            ));
        }
        self.check_addresses()
    }

    fn check_addresses(&self) -> Result<(), SettingsError> {
        if self.listen == self.peer_listen && !self.listen.ends_with(":0") {
            return refused(format!(
                "--listen and --peer-listen are both {}: clients and peers need an address each",
                self.listen
            ));
        }
        let given = [
            ("--advertise", &self.advertise),
            ("--peer-advertise", &self.peer_advertise),
        ];
        let addresses = [
            ("--listen", Some(&self.listen)),
            ("--peer-listen", Some(&self.peer_listen)),
        ];
        let given = given
            .into_iter()
            .map(|(name, value)| (name, value.as_ref()));
        let joined = self.join.iter().map(|address| ("--join", Some(address)));
        for (name, address) in given.chain(addresses).chain(joined) {
            check_address(name, address)?;
        }
        self.check_reachable()
    }

    /// "Every address" is where one listens, not where others connect to.
    fn check_reachable(&self) -> Result<(), SettingsError> {
        let everywhere =
            |address: &str| address.starts_with("0.0.0.0:") || address.starts_with("[::]:");
        let peer = self.peer_advertise.as_ref().unwrap_or(&self.peer_listen);
        if !self.join.is_empty() && everywhere(peer) {
            return refused(format!(
                "the other nodes cannot connect to {peer}: name the address of this machine with --peer-advertise HOST:PORT"
            ));
        }
        let api = self.advertise.as_ref().unwrap_or(&self.listen);
        if !self.join.is_empty() && everywhere(api) {
            return refused(format!(
                "clients cannot connect to {api}: name the address of this machine with --advertise HOST:PORT"
            ));
        }
        Ok(())
    }
}

fn check_address(name: &str, address: Option<&String>) -> Result<(), SettingsError> {
    let Some(address) = address else {
        return Ok(());
    };
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !bare_v6 && !host.contains('/') && port.parse::<u16>().is_ok()
    });
    match good {
        true => Ok(()),
        false => refused(format!(
            "{name} {address:?} is no address: write HOST:PORT, for example 127.0.0.1:7400"
        )),
    }
}

/// Reads `PEER=ADDRESS` pairs.
fn parse_via(pairs: &[String]) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut via = BTreeMap::new();
    for pair in pairs
        .iter()
        .map(|pair| pair.trim())
        .filter(|pair| !pair.is_empty())
    {
        let Some((peer, address)) = pair.split_once('=') else {
            return refused(format!(
                "--peer-via {pair:?} is no pair: write PEER=ADDRESS, for example 10.0.0.2:7500=127.0.0.1:9500"
            ));
        };
        let (peer, address) = (peer.trim().to_owned(), address.trim().to_owned());
        check_address("--peer-via", Some(&peer))?;
        check_address("--peer-via", Some(&address))?;
        if let Some(other) = via.insert(peer.clone(), address) {
            return refused(format!(
                "--peer-via names {peer} twice, once as {other}: leave one out"
            ));
        }
    }
    Ok(via)
}

/// Reads `128MiB` and the like.
fn parse_size(name: &str, text: &str) -> Result<u64, SettingsError> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: Option<u64> = match text[digits.len()..].trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<u64>().ok().zip(unit);
    match size.and_then(|(number, unit)| number.checked_mul(unit)) {
        Some(size) => Ok(size),
        None => refused(format!(
            "{name} {text:?} is no size: write bytes, or a number with KiB, MiB or GiB, for example 128MiB"
        )),
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, SettingsError> {
    Err(SettingsError(why.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<Settings, String> {
        Given::parse(text)
            .unwrap()
            .resolve()
            .map_err(|why| why.to_string())
    }

    #[test]
    fn what_is_given_higher_up_wins() {
        let flags = Given {
            name: Some("flag".into()),
            ..Given::default()
        };
        let file =
            Given::parse("name = \"file\"\nlisten = \"127.0.0.1:1\"\ninsecure = true").unwrap();
        let settings = flags.or(file).resolve().unwrap();
        assert_eq!(
            (settings.name.as_str(), settings.listen.as_str()),
            ("flag", "127.0.0.1:1")
        );
        assert_eq!(
            (settings.peer_listen.as_str(), settings.insecure),
            (PEER_LISTEN_DEFAULT, true)
        );
        assert_eq!(settings.data, Path::new(DATA_DEFAULT));
    }

    #[test]
    fn ways_to_peers_are_pairs() {
        let via = resolved("peer-via = [\"a:1=b:2\", \" [::1]:3 = c:4 \"]")
            .unwrap()
            .peer_via;
        let pair = |peer: &str, address: &str| (peer.to_owned(), address.to_owned());
        assert_eq!(via, [pair("a:1", "b:2"), pair("[::1]:3", "c:4")].into());
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("64 KiB", 64 << 10),
            ("1GiB", 1 << 30),
        ] {
            let settings = resolved(&format!("min-free = {text:?}")).unwrap();
            assert_eq!(settings.min_free, size, "{text}");
        }
        for text in ["", "MiB", "1MB", "-1", "1.5GiB", "99999999999GiB"] {
            let why = resolved(&format!("min-free = {text:?}")).unwrap_err();
            assert!(
                why.contains("--min-free") && why.contains("128MiB"),
                "{why}"
            );
        }
        assert_eq!(resolved("").unwrap().min_free, MIN_FREE_DEFAULT);
    }

    #[test]
    fn a_single_node_needs_no_settings_at_all() {
        let settings = resolved("").unwrap();
        assert_eq!(
            (settings.name.as_str(), settings.expect, settings.join.len()),
            (NAME_DEFAULT, 1, 0)
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_what_to_do() {
        let join = "join = [\"a:1\", \"b:1\", \"c:1\"]\n";
        for (text, said) in [
            (join.to_owned(), "--name"),
            (format!("{join}name = \"a\"\nexpect = 5"), "3 of the 5"),
            ("expect = 3".to_owned(), "--join"),
            ("learner = true".to_owned(), "--join"),
            (
                format!("{join}name = \"a\"\nlearner = true\nexpect = 3"),
                "leave out --expect",
            ),
            ("expect = 0".to_owned(), "--expect"),
            ("snapshot-every = 9".to_owned(), "from 10"),
            ("listen = \"localhost\"".to_owned(), "HOST:PORT"),
            ("listen = \"::1:7400\"".to_owned(), "HOST:PORT"),
            ("advertise = \"http://a:1\"".to_owned(), "--advertise"),
            ("peer-via = [\"a:1\"]".to_owned(), "PEER=ADDRESS"),
            ("peer-via = [\"a:1=b\"]".to_owned(), "HOST:PORT"),
            ("peer-via = [\"a:1=b:1\", \"a:1=c:1\"]".to_owned(), "twice"),
            (
                "listen = \"127.0.0.1:7500\"".to_owned(),
                "both 127.0.0.1:7500",
            ),
            (
                format!("{join}name = \"a\"\npeer-listen = \"0.0.0.0:7500\""),
                "--peer-advertise",
            ),
        ] {
            let why = resolved(&text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
