//! `pennon cluster`: who is in it, how far each member is, one verdict; and votes given and taken.
//!
//! What must hold: exit code 0 means that the cluster calls itself healthy; anything else is 7,
//! and no answer at all keeps its own code.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{HeaderMap, Method};
use serde_json::Value;

use super::connection::{Asking, parse_duration};
use super::failure::{Exit, Failure};
use super::signals::Signals;
use super::terminal::{Cell, Paint, shown};
use super::write::encoded;

/// What is shown is read here, with whatever the node says; what is acted on is typed.
const PATH: &str = "/v1/cluster";

/// Digits of a digest in the table: enough to see that two differ.
const DIGEST_CHARS: usize = 8;

/// Between two looks at a member that catches up.
const LOOK_PAUSE: Duration = Duration::from_millis(300);

/// A lag beyond this is no answer on its way, in versions.
const LAG_USUAL: u64 = 100;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the members and a verdict; exit code 7 when it is not healthy
    Status(StatusArgs),
    /// Give a learner a vote, when it has caught up
    Promote(MemberArgs),
    /// Take the vote of a member; it goes on as a learner
    Demote(MemberArgs),
    /// Take a member out of the cluster
    Remove(MemberArgs),
    /// Wait for a node that was started with --learner, show how it catches up, then give it a vote
    Add(AddArgs),
    /// The same, and then take another member out of the cluster
    Replace(ReplaceArgs),
    /// Have another voter lead
    TransferLeader {
        /// Name or id of the voter; the cluster chooses unless given
        member: Option<String>,
    },
}

#[derive(Args, Debug)]
#[command(after_help = "\
Start the new node first, with an empty directory and the peer address of any member:
  pennon serve --name n4 --learner --join 10.0.0.1:7500 --data /var/lib/pennon …
  pennon cluster add n4")]
pub(crate) struct AddArgs {
    /// Name of the new node
    member: String,

    /// Leave it a learner: it serves like any other, and has no vote
    #[arg(long)]
    learner: bool,

    /// Longest wait for it to come and to catch up
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    within: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct ReplaceArgs {
    /// Name or id of the member that goes; it need not answer
    old: String,

    /// Name of the new node, started with --learner and an empty directory
    new: String,

    /// Longest wait for the new one to come and to catch up
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    within: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct MemberArgs {
    /// Name or id of the member
    member: String,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Show it again and again, until Ctrl-C
    #[arg(short, long)]
    watch: bool,

    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration, requires = "watch")]
    interval: Duration,
}

/// `pennon cluster`.
pub(crate) async fn run(command: ClusterCommand, asking: Asking) -> Result<(), Failure> {
    match command {
        ClusterCommand::Status(args) if args.watch => watch(&asking, args.interval).await,
        ClusterCommand::Status(_) => once(&asking).await,
        ClusterCommand::Promote(args) => {
            change(&asking, Method::POST, &args.member, ":promote").await
        }
        ClusterCommand::Demote(args) => {
            change(&asking, Method::POST, &args.member, ":demote").await
        }
        ClusterCommand::Remove(args) => change(&asking, Method::DELETE, &args.member, "").await,
        ClusterCommand::Add(args) => {
            caught_up(&asking, &args.member, args.within).await?;
            match args.learner {
                true => Ok(()),
                false => change(&asking, Method::POST, &args.member, ":promote").await,
            }
        }
        ClusterCommand::Replace(args) => replace(&asking, &args).await,
        ClusterCommand::TransferLeader { member } => {
            let to = member.map(|member| format!("?to={}", encoded(&member)));
            let path = format!("/v1/cluster:transfer-leader{}", to.unwrap_or_default());
            show_change(&asking, Method::POST, &path).await
        }
    }
}

async fn change(
    asking: &Asking,
    method: Method,
    member: &str,
    action: &str,
) -> Result<(), Failure> {
    let path = format!("/v1/cluster/members/{}{action}", encoded(member));
    show_change(asking, method, &path).await
}

async fn show_change(asking: &Asking, method: Method, path: &str) -> Result<(), Failure> {
    let answer = asking
        .admin
        .request(method, path, HeaderMap::new(), None)
        .await?;
    if !asking.terminal.is_table() {
        return asking.terminal.value(answer.body());
    }
    let text = |name: &str| shown(answer.body()[name].as_str().unwrap_or("?"));
    let became = match answer.body()["role"].as_str() {
        Some("voter") => "has a vote",
        Some("leader") => "leads",
        Some("learner") => "has no vote; it goes on as a learner",
        _ => "is no member any more; stop it, and remove its data directory before it joins again",
    };
    asking.terminal.line(format!("{} {became}", text("name")))
}

/// A vote for the new one, then the old one goes: at no time are there fewer voters than before.
async fn replace(asking: &Asking, args: &ReplaceArgs) -> Result<(), Failure> {
    if asking.admin.cluster().await?.member(&args.old).is_none() {
        let text = format!("no member is called {}", args.old);
        return Err(Failure::new(Exit::NotFound, text));
    }
    caught_up(asking, &args.new, args.within).await?;
    let now = asking.admin.cluster().await?;
    if !now.member(&args.new).is_some_and(|member| member.voter) {
        change(asking, Method::POST, &args.new, ":promote").await?;
    }
    change(asking, Method::DELETE, &args.old, "").await
}

/// Waits until a member is there and has what the others have; says how far it is.
async fn caught_up(asking: &Asking, name: &str, within: Duration) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + within;
    let mut signals = Signals::take()?;
    let mut said = String::new();
    loop {
        let cluster = asking.admin.cluster().await?;
        let now = match cluster.member(name) {
            None => format!("waiting for {name}: start it with --learner and --join"),
            Some(member) => match member.lag.filter(|_| member.answers) {
                Some(lag) if lag <= LAG_USUAL => return Ok(()),
                Some(lag) => {
                    let all = cluster.version.get().max(1);
                    let part = 100 - (lag.min(all) * 100).div_ceil(all);
                    format!("{name} catches up: {part} %, {lag} versions behind")
                }
                None => format!("{name} does not answer yet"),
            },
        };
        if now != said {
            asking.terminal.note(&now);
            said = now;
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::new(Exit::Timeout, format!("not in time: {said}")));
        }
        tokio::select! {
            _ = signals.next() => return Err(Failure::silent(Exit::Failure)),
            () = tokio::time::sleep(LOOK_PAUSE) => {}
        }
    }
}

async fn once(asking: &Asking) -> Result<(), Failure> {
    let cluster = asking.read(PATH).await?;
    match asking.terminal.is_table() {
        true => asking.terminal.line(screen(asking, &cluster))?,
        false => asking.terminal.value(&cluster)?,
    }
    match is_healthy(&cluster) {
        true => Ok(()),
        false => Err(Failure::silent(Exit::CheckFailed)),
    }
}

async fn watch(asking: &Asking, interval: Duration) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.next() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let answer = tokio::select! {
            _ = signals.next() => return Ok(()),
            answer = asking.read(PATH) => answer,
        };
        match answer {
            Ok(cluster) if !asking.terminal.is_table() => asking.terminal.item(&cluster)?,
            Ok(cluster) => redraw(asking, &screen(asking, &cluster))?,
            Err(failure) => redraw(asking, &failure.text())?,
        }
    }
}

/// Shows a screen in the place of the one before it; one below the other where that cannot be.
fn redraw(asking: &Asking, screen: &str) -> Result<(), Failure> {
    match asking.terminal.is_colourful() {
        true => asking.terminal.line(format!("\u{1b}[H\u{1b}[2J{screen}")),
        false => asking.terminal.line(format!("{screen}\n")),
    }
}

fn is_healthy(cluster: &Value) -> bool {
    cluster["verdict"].as_str() == Some("healthy")
}

fn screen(asking: &Asking, cluster: &Value) -> String {
    let terminal = &asking.terminal;
    let mut members: Vec<&Value> = cluster["members"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    members.sort_by_key(|member| member["name"].as_str());
    let header = [
        "NAME", "ROLE", "VERSION", "LAG", "STALE", "DIGEST", "STREAMS", "API",
    ];
    let table = terminal.table(&header, members.into_iter().map(member));
    let verdict = shown(cluster["verdict"].as_str().unwrap_or("no verdict"));
    let paint = if is_healthy(cluster) {
        Paint::Good
    } else {
        Paint::Bad
    };
    // Any other verdict says by itself how many more may fail.
    let tolerance = match cluster["failure_tolerance"]
        .as_i64()
        .filter(|_| is_healthy(cluster))
    {
        Some(1) => "  one node may fail".to_owned(),
        Some(n) if n > 1 => format!("  {n} nodes may fail"),
        Some(_) => "  no node may fail".to_owned(),
        None => String::new(),
    };
    let id = shown(cluster["cluster_id"].as_str().unwrap_or("?"));
    format!(
        "{}{tolerance}\ncluster {id}, version {}, term {}\n{}\n{table}",
        terminal.paint(verdict, paint),
        cluster["version"],
        cluster["term"],
        upgrade(cluster)
            .into_iter()
            .chain(changing(cluster))
            .collect::<String>()
    )
}

/// A line on an upgrade that is under way: some members know more than may be used.
fn upgrade(cluster: &Value) -> Option<String> {
    let level = cluster["feature_level"].as_u64()?;
    let members = cluster["members"].as_array()?;
    let knows_more = |member: &&Value| {
        let known = member["feature_level"].as_u64();
        known.is_some_and(|known| known > level)
    };
    let behind = members.iter().filter(|member| !knows_more(member));
    let behind: Vec<String> = behind
        .filter_map(|member| member["name"].as_str().map(shown))
        .collect();
    let under_way = (1..members.len()).contains(&behind.len());
    let behind = behind.join(", ");
    under_way
        .then(|| format!("feature level {level}: what is new waits until {behind} is upgraded\n"))
}

/// A line on a change of members that is not over.
fn changing(cluster: &Value) -> Option<String> {
    let members = cluster["members"].as_array()?.iter();
    let changing = members.filter(|member| member["changing"] == true);
    let what: Vec<String> = changing
        .filter_map(|member| {
            let name = shown(member["name"].as_str()?);
            Some(match member["voter"] == true {
                true => format!("{name} loses its vote"),
                false => format!("{name} gets a vote"),
            })
        })
        .collect();
    let what = match what.is_empty() {
        true => String::new(),
        false => format!(": {}", what.join(", ")),
    };
    (cluster["changing"] == true).then(|| format!("a change of members is under way{what}\n"))
}

fn member(member: &Value) -> Vec<Cell> {
    let text = |name: &str| member[name].as_str().unwrap_or("-").to_owned();
    let number = |name: &str| {
        member[name]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |n| n.to_string())
    };
    let silent = member["applied"].is_null();
    let role = match text("role") {
        _ if silent => Cell::painted("silent", Paint::Bad),
        leader if leader == "leader" => Cell::painted(leader, Paint::Bold),
        role => role.into(),
    };
    let lag = match member["lag"].as_u64() {
        Some(lag) if lag > LAG_USUAL => Cell::painted(lag.to_string(), Paint::Warn),
        _ => number("lag").into(),
    };
    let stale = member["staleness_ms"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), age);
    let digest: String = text("digest").chars().take(DIGEST_CHARS).collect();
    vec![
        text("name").into(),
        role,
        number("applied").into(),
        lag,
        stale.into(),
        digest.into(),
        number("streams").into(),
        text("api").into(),
    ]
}

fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..86_400_000 => format!("{}m", ms / 60_000),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_word_healthy_is_healthy() {
        assert!(is_healthy(&json!({"verdict": "healthy"})));
        for other in [
            json!({"verdict": "degraded: no answer from n2"}),
            json!({"verdict": "unhealthy"}),
            json!({}),
        ] {
            assert!(!is_healthy(&other), "{other}");
        }
    }

    #[test]
    fn an_upgrade_under_way_says_who_is_waited_for() {
        let cluster = |known: [Option<u32>; 3]| {
            let members = known.iter().zip(1..);
            let members =
                members.map(|(known, n)| json!({"name": format!("n{n}"), "feature_level": known}));
            upgrade(&json!({"feature_level": 1, "members": members.collect::<Vec<_>>()}))
        };
        let said = cluster([Some(2), Some(1), None]).unwrap();
        assert!(said.contains("until n2, n3 is upgraded"), "{said}");
        assert_eq!(cluster([Some(1), Some(1), None]), None);
        // All of them know more: the leader is about to raise it.
        assert_eq!(cluster([Some(2), Some(2), Some(2)]), None);
    }

    #[test]
    fn a_change_of_members_says_whose_vote_it_is() {
        let member = |name, voter| json!({"name": name, "voter": voter, "changing": true});
        let members = [
            member("n1", true),
            member("n4", false),
            json!({"name": "n2"}),
        ];
        assert_eq!(
            changing(&json!({"changing": true, "members": members})).unwrap(),
            "a change of members is under way: n1 loses its vote, n4 gets a vote\n"
        );
        assert_eq!(
            changing(&json!({"changing": true, "members": []})).unwrap(),
            "a change of members is under way\n"
        );
        assert_eq!(changing(&json!({"changing": false, "members": []})), None);
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [0, 999, 1_250, 61_000].map(age),
            ["0ms", "999ms", "1.2s", "1m"]
        );
        assert_eq!(age(9_007_199_254_740_991), "-");
    }
}
