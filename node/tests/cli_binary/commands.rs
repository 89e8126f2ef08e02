//! Every client command against one node: what it does, and how it refuses.

use std::io::Write as _;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Held, Process, Single, run};

#[test]
fn objects_are_created_listed_replaced_and_deleted() {
    let node = Single::with_flag();
    node.run("flag list")
        .exits(0)
        .prints("web/new:ui")
        .prints("boolean");
    node.run("flag list --env prod")
        .exits(0)
        .prints("1 rule, off");
    let got = node.run("flag get web/new:ui -o json").exits(0).json();
    let first = got["version"].as_u64().unwrap();
    assert_eq!(
        (&got["value"]["type"], &got["updated_by"]),
        (&json!("boolean"), &json!("tester"))
    );
    let mut value = got["value"].clone();
    value["description"] = json!("newer");
    let replaced = node
        .run_with("flag put web/new:ui --value", &[&value.to_string()])
        .exits(0);
    let now = node.run("flag get web/new:ui -o json").json()["version"]
        .as_u64()
        .unwrap();
    assert_eq!(
        replaced.out,
        format!("web/new:ui: version {first} -> {now}\n")
    );
    node.run("flag history web/new:ui")
        .exits(0)
        .prints(&first.to_string())
        .prints("tester");
    node.run("policy get web/new:ui --env prod")
        .exits(0)
        .prints("\"enabled\": true");
    node.run("policy list -e prod")
        .exits(0)
        .prints("web/new:ui");
    node.run_with(
        "segment put beta --env prod --value",
        &[r#"{"included":["a","b"]}"#],
    )
    .exits(0)
    .prints("created");
    node.run("segment list --env prod").exits(0).prints("beta");
    assert_eq!(
        node.run("segment get beta --env prod -o json").json()["value"]["included"],
        json!(["a", "b"])
    );
    node.run("segment delete beta --env prod")
        .exits(0)
        .prints("deleted, version");
    node.run("segment history beta --env prod")
        .exits(0)
        .prints("deleted");
    node.run("env list").exits(0).prints("prod");
    node.run("policy delete web/new:ui --env prod").exits(0);
    node.run("flag delete web/new:ui").exits(0);
    node.run("flag list").exits(0).complains("nothing here yet");
    node.run("env delete prod").exits(0);
}

#[test]
fn applications_are_objects_like_any_other() {
    let node = Single::with_flag();
    node.run("app list").exits(0).complains("nothing here yet");
    let put = |more: &str, value: &str| {
        node.run_with(&format!("app put shop/web {more} --value"), &[value])
    };
    put("", r#"{"tags":[]}"#).exits(1).complains("/tags");
    put(
        "",
        r#"{"tags":["checkout","search"],"description":"the shop"}"#,
    )
    .exits(0)
    .prints("created");
    node.run("app list")
        .exits(0)
        .prints("checkout, search")
        .prints("the shop");
    put("--create", r#"{"tags":["a"]}"#)
        .exits(4)
        .complains("pennon app put shop/web --if-version");
    put("--force", r#"{"tags":["a"]}"#).exits(0).prints(" -> ");
    let got = node.run("app get shop/web -o json").exits(0).json();
    assert_eq!(got["value"], json!({"tags": ["a"]}));
    node.run("app history shop/web").exits(0).prints("checkout");
    node.run("app delete shop/web").exits(0).prints("deleted");
    node.run("app get shop/web").exits(3);
}

#[test]
fn limits_are_shown_whether_set_or_not() {
    let node = Single::with_flag();
    node.run("setting list").exits(0).prints("defaults");
    node.run("setting get limits")
        .exits(0)
        .prints("not set: the defaults hold")
        .prints("variant_value_bytes")
        .prints("rules of a policy or segment");
    let put = |more: &str, value: &str| {
        node.run_with(&format!("setting put limits {more} --value"), &[value])
    };
    put("", r#"{"rules":0}"#).exits(1).complains("/rules");
    put("", r#"{"rules":7}"#).exits(0).prints("created");
    put("--create", "{}").exits(4);
    put("", r#"{"rules":8}"#).exits(0).prints(" -> ");
    put("--force", r#"{"rules":9}"#).exits(0);
    let got = node.run("setting get limits -o json").exits(0).json();
    assert_eq!(
        (&got["effective"]["rules"], &got["default"]["rules"]),
        (&json!(9), &json!(1_000))
    );
    assert_eq!(got["stored"]["value"], json!({"rules": 9}));
    node.run("setting get limits").exits(0).prints("version");
    node.run("setting list").exits(0).prints(r#"{"rules":9}"#);
    node.run("setting history limits")
        .exits(0)
        .prints(r#"{"rules":8}"#);
    node.run("setting delete limits").exits(0).prints("deleted");
    node.run("setting get limits").exits(0).prints("not set");
    node.run("setting get limts")
        .exits(3)
        .complains("there is: limits");
}

#[test]
fn a_write_that_expects_something_else_is_a_conflict_with_the_way_out() {
    let node = Single::with_flag();
    let version = node.run("env get prod -o json").json()["version"]
        .as_u64()
        .unwrap();
    let put = |more: &str| {
        node.run_with(
            &format!("env put prod {more} --value"),
            &[r#"{"name":"P"}"#],
        )
    };
    let refused = put("--create")
        .exits(4)
        .complains(&format!("it is at version {version}"));
    assert!(
        refused
            .err
            .contains(&format!("pennon env put prod --if-version {version}")),
        "{}",
        refused.err
    );
    put("--if-version 999999").exits(4);
    let problem = put("--if-version 999999 -o json").exits(4);
    assert_eq!(problem.out, "");
    let problem: Value = serde_json::from_str(&problem.err).unwrap();
    assert_eq!(
        (&problem["type"], &problem["current_version"]),
        (&json!("/problems/version-conflict"), &json!(version))
    );
    node.run("env delete prod --if-version 999999").exits(4);
    assert_eq!(
        node.run("env get prod -o json").json()["version"],
        version,
        "nothing was written"
    );
    put(&format!("--if-version {version}"))
        .exits(0)
        .prints(&format!("version {version} -> "));
    put("--force").exits(0);
    node.run_with("env put other --force --value", &["{}"])
        .exits(0)
        .prints("created");
    node.run_with("flag put f --if-version 5 --value", &["{}"])
        .exits(4)
        .complains("--create");
    node.run("flag delete web/new:ui")
        .exits(1)
        .complains("policy web/new:ui in prod");
}

#[test]
fn what_does_not_exist_is_3() {
    let node = Single::with_flag();
    for line in [
        "flag get web/new:iu",
        "flag history nothing",
        "flag delete nothing",
        "flag enable nothing --env prod",
        "flag disable web/new:ui --env prdo",
        "policy get web/new:ui --env prdo",
        "policy list --env prdo",
        "segment get nothing --env prod",
        "env get prdo",
        "eval web/new:iu --env prod --subject u",
        "eval web/new:iu --env prod --subject u -o json",
        "eval web/new:ui --env prdo --subject u",
        "watch --env prdo",
    ] {
        let said = node.run(line);
        assert_eq!(said.code, Some(3), "{line}: {}{}", said.out, said.err);
    }
}

#[test]
fn what_cannot_be_carried_out_is_2_and_sends_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut broken = tempfile::NamedTempFile::new().unwrap();
    broken.write_all(b"{\"a\":\n tru}").unwrap();
    let broken = format!("flag put f -f {}", broken.path().display());
    for (line, said) in [
        ("eval f --env prod --subject u --attr country", "NAME=VALUE"),
        (
            "eval f --env prod --subject u --attr a=1 --attr-str a=2",
            "twice",
        ),
        (
            "eval f --env prod --subject u --attr-json a={",
            "--attr-json",
        ),
        ("eval f --env prod", "--subject"),
        ("explain f --env prod", "--subject"),
        ("explain f --subject u", "--env"),
        ("explain --env prod --subject u", "FLAG"),
        (
            "explain f --env prod --subject u --attr country",
            "NAME=VALUE",
        ),
        (
            "explain f --env prod --subject u --attr-json a=[1",
            "--attr-json",
        ),
        ("eval --env prod --subject u", "FLAG"),
        ("eval f --all --env prod --subject u", "--all"),
        ("policy list", "--env"),
        ("flag put f", "--value"),
        ("flag put f -f /nonexistent/f.json", "/nonexistent/f.json"),
        (&broken, "line 2"),
        ("flag put f --value {} --create --force", "--force"),
        ("flag put f --value {} --if-version seven", "seven"),
        ("flag create f --type bool", "boolean"),
        ("flag create f --type number", "--variant"),
        ("flag list -o xml", "xml"),
        ("flag list --timeout 5", "500ms"),
        (
            "flag list --token-file /nonexistent/token",
            "/nonexistent/token",
        ),
        ("flag list --url ftp://a", "ftp://a"),
        ("flag lst", "list"),
        ("change", "--file"),
        ("serve --expect 3", "--join"),
        (
            "serve --config /nonexistent/pennon.toml",
            "/nonexistent/pennon.toml",
        ),
        ("dev --nodes 0", "--nodes"),
    ] {
        let args: Vec<&str> = line.split_whitespace().collect();
        run(&args, &[("PENNON_URL", &url)]).exits(2).complains(said);
    }
    assert!(listener.accept().is_err(), "something was sent");
}

#[test]
fn nobody_there_is_5_silence_is_124_and_a_write_into_silence_is_9() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let nobody = Held::any();
    let gone = format!("http://{}", nobody.address);
    let run = |line: &str, url: &str| {
        run(
            &line.split_whitespace().collect::<Vec<_>>(),
            &[("PENNON_URL", url)],
        )
    };
    run("flag list", &gone).exits(5).complains("pennon dev");
    run("cluster status", &gone).exits(5);
    run("watch --env prod", &gone).exits(5);
    run("flag disable f --env prod", &gone).exits(5);
    let problem = run("flag list -o json", &gone).exits(5);
    assert_eq!(
        serde_json::from_str::<Value>(&problem.err).unwrap()["exit_code"],
        5
    );
    run("flag list --timeout 300ms", &url).exits(124);
    run("flag disable f --env prod --timeout 300ms", &url)
        .exits(9)
        .complains("may have happened");
}

#[test]
fn one_answer_of_several_nodes_is_enough() {
    let node = Single::with_flag();
    let nobody = Held::any();
    let gone = nobody.address.to_string();
    let urls = format!("{gone},{}", node.url);
    run(&["flag", "list", "--url", &urls], &[("PENNON_URL", &gone)])
        .exits(0)
        .prints("web/new:ui");
}

#[test]
fn an_evaluation_takes_attributes_of_every_type() {
    let node = Single::with_flag();
    node.run_with("policy put web/new:ui --env prod --value", &[r#"{"enabled":true,"rules":[
        {"id":"bool","when":[{"attribute":"a","op":"in","values":[true]}],"serve":{"variant":"on"}},
        {"id":"number","when":[{"attribute":"a","op":"gt","values":[41]}],"serve":{"variant":"on"}},
        {"id":"text","when":[{"attribute":"a","op":"in","values":["true","7"]}],"serve":{"variant":"on"}},
        {"id":"list","when":[{"attribute":"a","op":"in","values":["x"]}],"serve":{"variant":"on"}}],
        "default":{"variant":"off"}}"#])
        .exits(0);
    let eval = |more: &str| {
        node.run(&format!(
            "eval web/new:ui --env prod --subject u -o json {more}"
        ))
        .exits(0)
        .json()
    };
    for (more, rule) in [
        ("--attr a=true", json!("bool")),
        ("-a a=42.5", json!("number")),
        ("--attr-str a=true", json!("text")),
        ("--attr-str a=7", json!("text")),
        ("--attr-json a=[\"y\",\"x\"]", json!("list")),
        ("--attr a=7", Value::Null),
        ("", Value::Null),
    ] {
        let answer = eval(more);
        assert_eq!(answer["rule_id"], rule, "{more}: {answer}");
        assert_eq!(answer["value"], json!(rule.is_string()));
    }
    node.run("eval web/new:ui --env prod --subject u --attr a=true")
        .exits(0)
        .prints("RULE_MATCH bool");
    node.run("flag create second --type string --variant a=x")
        .exits(0);
    node.run("flag enable second --env prod").exits(0);
    let all = node
        .run("eval --all --env prod --subject u -o json")
        .exits(0)
        .json();
    assert_eq!(all["items"].as_array().unwrap().len(), 2);
    node.run("eval --all --env prod --subject u")
        .exits(0)
        .prints("second")
        .prints("web/new:ui");
}

#[test]
fn the_kill_switch_says_what_it_did_and_why_is_kept() {
    let node = Single::with_flag();
    let eval = || {
        node.run("eval web/new:ui --env prod --subject u --attr country=DE -o json")
            .json()["value"]
            .clone()
    };
    assert_eq!(eval(), json!(true));
    let said = node
        .run_with(
            "flag disable web/new:ui --env prod --reason",
            &["it burns: 50% & more"],
        )
        .exits(0);
    assert!(
        said.out
            .starts_with("web/new:ui: disabled in prod, version "),
        "{}",
        said.out
    );
    assert_eq!(eval(), json!(false));
    node.run("flag disable web/new:ui --env prod")
        .exits(0)
        .prints("already");
    let history = node
        .run("policy history web/new:ui --env prod -o json")
        .json();
    assert_eq!(history["items"][0]["reason"], "it burns: 50% & more");
    node.run("policy history web/new:ui --env prod")
        .prints("it burns: 50% & more");
    let on = node
        .run("flag enable web/new:ui --env prod -o json")
        .exits(0)
        .json();
    assert!(on["version"].as_u64() > on["previous_version"].as_u64());
    assert_eq!(eval(), json!(true));
}

#[test]
fn a_change_set_happens_as_a_whole_or_not_at_all() {
    let node = Single::with_flag();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("changes.json");
    let change = |changes: Value| {
        std::fs::write(&file, changes.to_string()).unwrap();
        node.run(&format!("change -f {}", file.display()))
    };
    let flag =
        json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
    let put =
        |key: &str, value: &Value| json!({"op": "put", "kind": "flag", "key": key, "value": value});
    change(json!([put("a", &flag), put("b", &flag)]))
        .exits(0)
        .prints("flag a: new -> ")
        .prints("all at version");
    let mut wrong = flag.clone();
    wrong["off_variant"] = json!("of");
    change(json!([put("c", &flag), put("d", &wrong)]))
        .exits(1)
        .complains("/1/value/off_variant");
    node.run("flag get c").exits(3);
    let mut unexpected = put("a", &flag);
    unexpected["expected_version"] = json!(0);
    change(json!([put("c", &flag), unexpected])).exits(4);
    node.run("flag get c").exits(3);
}

#[test]
fn watch_shows_changes_as_they_happen_also_after_a_reconnect() {
    let node = Single::with_flag();
    let variables = [("PENNON_URL", node.url.as_str())];
    let mut people = Process::start(&["watch", "--env", "prod"], &variables);
    let mut program = Process::start(&["watch", "--env", "prod", "-o", "json"], &variables);
    people.says("connected: prod, 1 flag");
    program.says("\"connected\"");
    let switch = "flag disable web/new:ui --env prod --ack delivered";
    let told = node.run(switch).exits(0).prints("delivered to all: 2");
    assert!(!told.out.contains("cannot name"), "{}", told.out);
    people.says("web/new:ui disabled");
    program.says("\"disabled\"");
    node.run("flag create second --type boolean").exits(0);
    node.run("flag enable second --env prod").exits(0);
    people.says("second added");
    // Both have asked what had changed, beside their streams.
    let told = node.run(switch).exits(0).prints("delivered to all: 2");
    assert!(!told.out.contains("cannot name"), "{}", told.out);
    let node = node.restart();
    people.says("disconnected");
    people.says("connected: again");
    node.run("policy delete second --env prod").exits(0);
    people.says("second removed");
    program.says("\"removed\"");
    assert_eq!(
        people.out().matches("disabled").count(),
        1,
        "nothing is shown twice: {}",
        people.out()
    );
    for line in program.out().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert!(
            event["event"].is_string() && event["version"].is_u64(),
            "{line}"
        );
    }
    people.signal("TERM");
    assert_eq!(people.ended(), Some(0), "{}", people.err());
    program.signal("INT");
    assert_eq!(program.ended(), Some(0));
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let node = Single::with_flag();
    let gone = "http://127.0.0.1:1";
    run(
        &["flag", "list", "--url", &node.url],
        &[("PENNON_URL", gone)],
    )
    .exits(0);
    let variables = [("PENNON_URL", node.url.as_str()), ("PENNON_ENV", "prdo")];
    run(&["policy", "list"], &variables).exits(3);
    run(&["policy", "list", "--env", "prod"], &variables).exits(0);
}

#[test]
fn a_long_list_is_shown_to_its_end() {
    const COUNT: usize = 1_003;
    let node = Single::with_flag();
    let flag =
        json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
    let policy = json!({"enabled": true, "default": {"variant": "on"}});
    let changes = (1..COUNT).flat_map(|n| {
        let key = format!("many/{n:04}");
        [
            json!({"op": "put", "kind": "flag", "key": key, "value": flag}),
            json!({"op": "put", "kind": "policy", "environment": "prod", "key": key, "value": policy}),
        ]
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(Value::from_iter(changes).to_string().as_bytes())
        .unwrap();
    node.run(&format!("change -f {}", file.path().display()))
        .exits(0);
    for line in [
        "flag list -o json",
        "policy list --env prod -o json",
        "eval --all --env prod --subject u -o json",
    ] {
        let body = node.run(line).exits(0).json();
        assert_eq!(
            (body["items"].as_array().map(Vec::len), &body["next"]),
            (Some(COUNT), &Value::Null),
            "{line}"
        );
    }
    assert_eq!(
        node.run("flag list").exits(0).out.lines().count(),
        COUNT + 1
    );
}

#[test]
fn a_kill_switch_says_who_has_it_and_who_has_not() {
    use std::io::Read as _;

    let node = Single::with_flag();
    let disable = "flag disable web/new:ui --env prod";
    node.run(&format!("{disable} --ack applied"))
        .exits(0)
        .prints("applied on");
    node.run(&format!("{disable} --ack delivered"))
        .exits(0)
        .prints("no application is connected");
    node.run("status --env prod")
        .exits(0)
        .prints("no application is connected");
    node.run("status web/new:ui --env prod")
        .exits(0)
        .prints("disabled in prod, since version");

    // An application that reads its stream and acknowledges nothing.
    let mut silent = std::net::TcpStream::connect(node.url.trim_start_matches("http://")).unwrap();
    let request = "GET /v1/environments/prod/stream?client=silent HTTP/1.1\r\nhost: n\r\naccept: text/event-stream\r\n\r\n";
    silent.write_all(request.as_bytes()).unwrap();
    let mut read = String::new();
    let mut buffer = [0; 4096];
    while !read.contains("event: snapshot") {
        let n = silent.read(&mut buffer).unwrap();
        read += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    let enable = "flag enable web/new:ui --env prod --ack delivered --timeout 1s";
    let told = node.run(enable).exits(7);
    let told = told
        .prints("enabled")
        .prints("delivered to 0 of 1 application")
        .prints("silent")
        .prints("nobody acts on an older state");
    assert!(told.err.is_empty(), "the write stands: {}", told.err);
    let json = node
        .run("status web/new:ui --env prod -o json")
        .exits(7)
        .json();
    assert_eq!(json["laggards"][0]["id"], "silent");
    while !read.contains("event: acknowledge") {
        let n = silent.read(&mut buffer).unwrap();
        read += std::str::from_utf8(&buffer[..n]).unwrap();
    }
    drop(silent);
    node.run("status none --env prod").exits(3);
    node.run(&format!("{disable} --ack everybody")).exits(2);
}
