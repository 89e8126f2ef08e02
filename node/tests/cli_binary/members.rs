//! Members that come, go and are replaced: the drills of an operator, with real processes.

use serde_json::Value;

use crate::support::{Process, Row, Said, eventually, run};

/// A place for five nodes.
struct Places {
    directory: tempfile::TempDir,
    ports: Row,
}

impl Places {
    fn new() -> Places {
        Places {
            directory: tempfile::tempdir().unwrap(),
            ports: Row::of(10),
        }
    }

    fn peer(&self, n: u16) -> String {
        format!("127.0.0.1:{}", self.ports.first + 2 * n + 1)
    }

    fn url(&self, n: u16) -> String {
        format!("http://127.0.0.1:{}", self.ports.first + 2 * n)
    }

    /// Starts node `n` from 0 on; the first three form the cluster, the others come as learners.
    fn start(&self, n: u16) -> Process {
        let name = format!("n{}", n + 1);
        let data = self.directory.path().join(&name);
        let listen = format!("127.0.0.1:{}", self.ports.first + 2 * n);
        let join = [0, 1, 2].map(|n| self.peer(n)).join(",");
        let peer = self.peer(n);
        let mut args = vec!["serve", "--name", &name, "--data", data.to_str().unwrap()];
        args.extend(["--listen", &listen, "--peer-listen", &peer, "--join", &join]);
        match n {
            0..3 => args.extend(["--expect", "3"]),
            _ => args.push("--learner"),
        }
        Process::start(&args, &[])
    }

    /// Runs a command that may ask any of the five.
    fn run(&self, line: &str) -> Said {
        let urls = [1, 2, 0, 3, 4].map(|n| self.url(n)).join(",");
        let args: Vec<&str> = line.split_whitespace().collect();
        run(&args, &[("PENNON_URL", &urls)])
    }

    /// The members by name: role, and whether each votes.
    fn members(&self) -> Vec<(String, String, bool)> {
        let cluster: Value = serde_json::from_str(&self.run("cluster status -o json").out).unwrap();
        let members = cluster["members"].as_array().unwrap().iter();
        let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        let mut members: Vec<_> = members
            .map(|one| (text(one, "name"), text(one, "role"), one["voter"] == true))
            .collect();
        members.sort();
        members
    }

    fn leader(&self) -> String {
        eventually("a leader", || {
            let members = self.members();
            members.into_iter().find(|(_, role, _)| role == "leader")
        })
        .0
    }
}

#[test]
fn a_node_is_added_leads_and_takes_the_place_of_one_that_died() {
    let places = Places::new();
    let mut nodes: Vec<Process> = (0..3).map(|n| places.start(n)).collect();
    for node in &mut nodes {
        node.says("is ready");
    }
    places.run("env put prod --value {}").exits(0);
    places.run("flag create f --type boolean").exits(0);

    // Nobody is there yet: it says so, and gives up in the end.
    let late = places.run("cluster add n4 --within 100ms").exits(124);
    assert!(late.err.contains("start it with --learner"), "{}", late.err);
    nodes.push(places.start(3));
    places.run("cluster add n4 --learner").exits(0);
    let voters = |places: &Places| {
        let members = places.members().into_iter();
        let voters = members.filter(|(_, _, voter)| *voter);
        voters.map(|(name, _, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(voters(&places), ["n1", "n2", "n3"]);
    places
        .run("cluster transfer-leader n4")
        .exits(1)
        .complains("no vote");
    places
        .run("cluster add n4")
        .exits(0)
        .prints("n4 has a vote");
    assert_eq!(voters(&places), ["n1", "n2", "n3", "n4"]);
    places
        .run("cluster transfer-leader n4")
        .exits(0)
        .prints("n4 leads");
    assert_eq!(places.leader(), "n4");
    places
        .run("cluster transfer-leader n9")
        .exits(3)
        .complains("there are n1");

    // The leader dies, and a new node takes its place.
    nodes[3].signal("KILL");
    assert_eq!(nodes[3].ended(), None);
    assert_ne!(places.leader(), "n4");
    places.run("flag enable f --env prod").exits(0);
    nodes.push(places.start(4));
    places.run("cluster replace n9 n5").exits(3);
    let replaced = places.run("cluster replace n4 n5").exits(0);
    assert!(
        replaced.out.contains("n5 has a vote") && replaced.out.contains("n4 is no member"),
        "{}",
        replaced.out
    );
    assert_eq!(voters(&places), ["n1", "n2", "n3", "n5"]);
    let at = places.url(4);
    let read = ["flag", "get", "f", "-o", "json", "--url", &at];
    assert_eq!(run(&read, &[]).exits(0).json()["key"], "f");
    // A leader that stops hands over: the next write does not wait.
    let leader: usize = places.leader()[1..].parse().unwrap();
    nodes[leader - 1].signal("TERM");
    nodes[leader - 1].says("leads now");
    assert_eq!(nodes[leader - 1].ended(), Some(0));
    places.run("flag disable f --env prod").exits(0);
}
