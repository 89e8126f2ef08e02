//! `pennon backup`, `restore`, `recover`: the whole state as a file, back into a running cluster, and a
//! new cluster when the old one is lost.
//!
//! What must hold: a file under its final name is whole and was read back; nothing is restored but
//! what was shown and agreed to; `recover` changes neither backup nor old directory.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use http::Method;
use pennon_raft_store::backup::{self, Backup, FirstNode, MAGIC, Recovered, Source};
use pennon_raft_store::command::{ClusterId, ObjectKind};
use pennon_raft_store::disk::{Disk, RealDisk};
use pennon_raft_store::identity::DirectoryLock;
use pennon_raft_store::machine::Machine;
use pennon_raft_store::raft::Member;
use rand::RngExt;
use serde_json::{Value, json};

use super::connection::Asking;
use super::delivery;
use super::failure::{Exit, Failure};
use super::lists::print_rows;
use super::terminal::{Cell, Paint, Terminal, counted, shown};
use super::write::{ReasonArgs, send};
use crate::server::NODE_ID_MAX;
use crate::settings::{LISTEN_DEFAULT, PEER_LISTEN_DEFAULT};
use crate::verify;

/// Differences shown at most; `-o json` gives all of them.
const SHOWN_MAX: usize = 50;

#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  pennon backup flags.backup            everything, at one version, from any node
  pennon backup verify flags.backup     every byte, the digest, and that it compiles to what was served"
)]
pub(crate) struct BackupCommand {
    #[command(subcommand)]
    command: Option<BackupSubcommand>,

    /// File to make
    #[arg(required = true)]
    file: Option<PathBuf>,

    /// Replace the file if there is one
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum BackupSubcommand {
    /// Check a backup: it asks no node
    Verify {
        /// The backup
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon restore flags.backup --dry-run     what it would change
  pennon restore flags.backup               shows that, asks, and restores exactly that

Afterwards the cluster has the flags, policies, segments, environments, applications and settings of the
backup and no others. It is one change: everybody sees it at once, and the history keeps both.")]
pub(crate) struct RestoreCommand {
    /// The backup
    file: PathBuf,

    /// Only show what would change
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long, conflicts_with = "dry_run")]
    yes: bool,

    #[command(flatten)]
    why: ReasonArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  pennon recover --backup flags.backup --data /var/lib/pennon-new
  pennon recover --survivor /var/lib/pennon --data /var/lib/pennon-new

For when most voters are gone for good; a cluster that only lost a few is mended by replacing those. Take
the node with the newest state: what it had not received is lost. The new cluster has an id of its own and
versions beyond all of the old one, so that clients move on to it and never back. Nothing is changed but
the new directory.")]
pub(crate) struct RecoverCommand {
    /// Directory of the new node; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Begin with this backup
    #[arg(long, value_name = "FILE", required_unless_present = "survivor")]
    backup: Option<PathBuf>,

    /// Begin with what the stopped node of this data directory has
    #[arg(long, value_name = "DIR", conflicts_with = "backup")]
    survivor: Option<PathBuf>,

    /// Name of the new node
    #[arg(long, default_value = crate::settings::NAME_DEFAULT)]
    name: String,
}

/// `pennon backup`.
pub(crate) async fn backup(command: BackupCommand, asking: Asking) -> Result<(), Failure> {
    match (command.command, command.file) {
        (Some(BackupSubcommand::Verify { file }), _) => check(&asking.terminal, &file),
        (None, Some(file)) => take(&asking, &file, command.force).await,
        (None, None) => Err(Failure::usage("which file?")),
    }
}

async fn take(asking: &Asking, file: &Path, force: bool) -> Result<(), Failure> {
    if !force && file.exists() {
        let text = format!(
            "{} exists; name another file, or give --force",
            file.display()
        );
        return Err(Failure::usage(text));
    }
    let aside = aside_of(file)?;
    let taken = fetch(asking, &aside).await;
    let kept = match taken {
        Ok(()) => open(&aside).and_then(|backup| {
            std::fs::rename(&aside, file).map_err(|why| unwritable(file, &why))?;
            sync_directory(file)?;
            Ok(backup)
        }),
        Err(failure) => Err(failure),
    };
    match kept {
        Ok(backup) => say(&asking.terminal, file, &backup, "saved"),
        Err(failure) => {
            // What is there is no backup; if it cannot be removed, its name says so.
            let _ = std::fs::remove_file(&aside);
            Err(failure)
        }
    }
}

async fn fetch(asking: &Asking, aside: &Path) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).open(aside);
    let mut file = file.map_err(|why| unwritable(aside, &why))?;
    let mut keep = |piece: &[u8]| file.write_all(piece);
    asking.admin.download("/v1/backup", &mut keep).await?;
    file.sync_all().map_err(|why| unwritable(aside, &why))
}

fn check(terminal: &Terminal, file: &Path) -> Result<(), Failure> {
    let backup = open(file)?;
    let view = Arc::new(backup.machine().clone());
    if let Some(difference) = verify::difference(&view) {
        let text = format!("{}: {difference}", file.display());
        return Err(Failure::new(Exit::CheckFailed, text));
    }
    say(terminal, file, &backup, "is whole")
}

/// Opens a backup, every byte of it.
fn open(file: &Path) -> Result<Backup, Failure> {
    let mut magic = [0; MAGIC.len()];
    let begins = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    match begins {
        Ok(()) if magic == *MAGIC => {}
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let text = format!("there is no file {}", file.display());
            return Err(Failure::new(Exit::NotFound, text));
        }
        Err(why) if why.kind() != io::ErrorKind::UnexpectedEof => {
            return Err(unreadable(file, &why));
        }
        Ok(()) | Err(_) => {
            let text = format!("{} is no backup of Pennon", file.display());
            return Err(Failure::new(Exit::CheckFailed, text));
        }
    }
    let (directory, name) = parts(file)?;
    let disk = RealDisk::new(directory).map_err(|why| unreadable(file, &why))?;
    Backup::open(&disk, name).map_err(|why| Failure::new(Exit::CheckFailed, why.to_string()))
}

fn say(terminal: &Terminal, file: &Path, backup: &Backup, what: &str) -> Result<(), Failure> {
    let machine = backup.machine();
    let history = backup.history_len().map_err(|why| unreadable(file, &why))?;
    if !terminal.is_table() {
        let counts =
            ObjectKind::ALL.map(|kind| (kind.as_str().to_owned(), machine.count(kind).into()));
        return terminal.value(&json!({
            "file": file.display().to_string(),
            "bytes": backup.len_bytes(),
            "cluster_id": machine.cluster().to_string(),
            "version": machine.version(),
            "digest": machine.digest(),
            "objects": Value::Object(counts.into_iter().collect()),
            "history": history,
        }));
    }
    terminal.line(format!(
        "{} {what}: version {} of cluster {}, {} bytes",
        file.display(),
        machine.version(),
        machine.cluster(),
        backup.len_bytes()
    ))?;
    terminal.line(format!(
        "{}; a history of {}",
        content(machine),
        counted(history, "change")
    ))
}

/// `2 environments, 14 flags, …`: what there is any of.
fn content(machine: &Machine) -> String {
    let kinds = ObjectKind::ALL.map(|kind| (machine.count(kind), kind.as_str()));
    let some = kinds.into_iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = some
        .map(|(count, word)| match (count, word.strip_suffix('y')) {
            (1, _) | (_, None) => counted(count, word),
            (_, Some(stem)) => format!("{count} {stem}ies"),
        })
        .collect();
    match words.is_empty() {
        true => "no flags".into(),
        false => words.join(", "),
    }
}

/// `pennon restore`.
pub(crate) async fn restore(command: RestoreCommand, asking: Asking) -> Result<(), Failure> {
    let backup = open(&command.file)?;
    let objects = backup.machine().all_objects().map(|(id, object)| {
        let value: Value = serde_json::from_str(&object.value).unwrap_or(Value::Null);
        let mut shown = json!({ "kind": id.kind().as_str(), "key": id.key(), "value": value });
        if let Some(environment) = id.environment() {
            shown["environment"] = environment.as_str().into();
        }
        shown
    });
    let body = json!({ "objects": objects.collect::<Vec<_>>() });
    let path = "/v1/cluster:restore";
    let look = asking
        .question(&format!("{path}?dry_run=true"), &body)
        .await?;
    let look = look.into_body();
    let nothing = look["objects"].as_array().is_none_or(Vec::is_empty);
    if command.dry_run || nothing {
        return report(&asking, &look, "would");
    }
    if !command.yes {
        report(&asking, &look, "would")?;
        agree()?;
    }
    let onto = look["onto"].as_str().unwrap_or_default();
    let path = command.why.onto(&asking, format!("{path}?onto={onto}"));
    let answer = send(&asking, Method::POST, path, None, Some(&body)).await?;
    report(&asking, answer.body(), "did")?;
    delivery::report(&asking, answer.body())
}

fn report(asking: &Asking, body: &Value, word: &str) -> Result<(), Failure> {
    let terminal = &asking.terminal;
    if !terminal.is_table() {
        return terminal.value(body);
    }
    let number = |name: &str| body[name].as_u64().unwrap_or_default();
    let all = body["objects"].as_array().map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        return terminal.line(format!(
            "nothing differs: the cluster has exactly this at version {}",
            body["version"]
        ));
    }
    if word == "would" {
        let row = |one: &Value| {
            let (op, paint) = match one["op"].as_str() {
                Some("create") => ("create", Paint::Good),
                Some("delete") => ("delete", Paint::Bad),
                _ => ("change", Paint::Bold),
            };
            let text = |name: &str| shown(one[name].as_str().unwrap_or(""));
            let version = one["version"]
                .as_u64()
                .map_or(String::new(), |at| at.to_string());
            let (kind, environment, key) = (text("kind"), text("environment"), text("key"));
            vec![
                Cell::painted(op, paint),
                kind.into(),
                environment.into(),
                key.into(),
                version.into(),
            ]
        };
        let head = ["", "KIND", "ENVIRONMENT", "KEY", "NOW AT VERSION"];
        print_rows(asking, &head, all.iter().take(SHOWN_MAX).map(row))?;
        if all.len() > SHOWN_MAX {
            terminal.line(format!("… and {} more", all.len() - SHOWN_MAX))?;
        }
    }
    let counts = format!(
        "create {}, change {}, delete {}; {} stay as they are",
        number("created"),
        number("changed"),
        number("deleted"),
        number("unchanged")
    );
    terminal.line(match word {
        "would" => format!("this would {counts}"),
        _ => format!("restored as version {}: {counts}", body["version"]),
    })
}

/// Asks a person; whoever is none has to say so beforehand.
fn agree() -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody can be asked here; give --yes to restore, or --dry-run",
        ));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "Restore? [y/N] ").and_then(|()| io::stderr().flush());
    let read = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    read.map_err(|why| Failure::new(Exit::Failure, format!("cannot ask: {why}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "nothing was changed")),
    }
}

/// `pennon recover`.
pub(crate) fn recover(command: RecoverCommand, terminal: &Terminal) -> Result<(), Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(Exit::Failure, why.to_string());
    let mut random = rand::rng();
    let first = FirstNode {
        cluster: ClusterId::new(random.random()),
        node: random.random_range(1..NODE_ID_MAX),
        // It tells where it is when it starts.
        member: Member {
            name: command.name.clone(),
            api: LISTEN_DEFAULT.into(),
            peer: PEER_LISTEN_DEFAULT.into(),
        },
    };
    let backup = command.backup.as_deref().map(open).transpose()?;
    let survivor = command.survivor.as_deref().map(locked).transpose()?;
    let source = match (&backup, &survivor) {
        (Some(backup), _) => Source::Backup(backup),
        (None, Some((_, disk))) => Source::Node(disk),
        (None, None) => return Err(Failure::usage("from what? give --backup or --survivor")),
    };
    std::fs::create_dir_all(&command.data).map_err(|why| unwritable(&command.data, &why))?;
    let _lock = DirectoryLock::acquire(&command.data).map_err(|why| failed(&why))?;
    let disk = RealDisk::new(&command.data).map_err(|why| unwritable(&command.data, &why))?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let recovered = backup::recover(&source, &disk, &first).map_err(|why| failed(&why))?;
    told(terminal, &command, &first, recovered)
}

fn told(
    terminal: &Terminal,
    command: &RecoverCommand,
    first: &FirstNode,
    recovered: Recovered,
) -> Result<(), Failure> {
    if !terminal.is_table() {
        return terminal.value(&json!({
            "cluster_id": first.cluster.to_string(),
            "version": recovered.version,
            "old_cluster_id": recovered.old_cluster.to_string(),
            "old_version": recovered.old_version,
        }));
    }
    let data = command.data.display();
    terminal.line(format!(
        "new cluster {} at version {}, from version {} of cluster {}",
        first.cluster, recovered.version, recovered.old_version, recovered.old_cluster
    ))?;
    terminal.line(format!(
        "\
Make sure that no node of the old cluster starts again. Then
  pennon serve --name {} --data {data} …                   where the clients look for it
  pennon serve --learner --join PEER --data NEW --name …   every further node, with an empty directory
  pennon cluster add NAME                                  and give it a vote when it has caught up",
        command.name
    ))
}

/// Locks the data directory of a node, which must not run.
fn locked(directory: &Path) -> Result<(DirectoryLock, Arc<dyn Disk>), Failure> {
    if !directory.is_dir() {
        let text = format!("there is no directory {}", directory.display());
        return Err(Failure::usage(text));
    }
    let lock = DirectoryLock::acquire(directory);
    let lock = lock.map_err(|why| Failure::new(Exit::Failure, why.to_string()))?;
    let disk = RealDisk::new(directory).map_err(|why| unreadable(directory, &why))?;
    Ok((lock, Arc::new(disk)))
}

fn parts(file: &Path) -> Result<(PathBuf, &str), Failure> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Failure::usage(format!("{} is no file", file.display())))?;
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).to_owned(), name))
}

fn aside_of(file: &Path) -> Result<PathBuf, Failure> {
    let (directory, name) = parts(file)?;
    Ok(directory.join(format!("{name}.unfinished")))
}

fn sync_directory(file: &Path) -> Result<(), Failure> {
    let (directory, _) = parts(file)?;
    let synced = File::open(&directory).and_then(|directory| directory.sync_all());
    synced.map_err(|why| unwritable(file, &why))
}

fn unwritable(file: &Path, why: &io::Error) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("cannot write {}: {why}", file.display()),
    )
}

fn unreadable(file: &Path, why: &io::Error) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("cannot read {}: {why}", file.display()),
    )
}
