//! `pennon explain` as a person reads it: the tree to the letter, and how it refuses.

use std::io::Write as _;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Held, Said, Single, run};

/// A flag with everything that can decide: a prerequisite, a target, rules with a segment that has a
/// share, an experiment in a layer with a holdout, a pattern, a date, networks.
fn rich() -> Single {
    let node = Single::with_flag();
    let clause = |attribute: &str, op: &str, values: Value| json!({"attribute": attribute, "op": op, "values": values});
    let put = |kind: &str, key: &str, value: Value| {
        let mut item = json!({"op": "put", "kind": kind, "key": key, "value": value});
        if kind != "flag" {
            item["environment"] = "prod".into();
        }
        item
    };
    let boolean =
        json!({"type": "boolean", "variants": {"on": true, "off": false}, "off_variant": "off"});
    let forms = json!({"type": "string", "variants": {"old": "a", "new": "b", "own": "c"}, "off_variant": "old"});
    let not_usa = json!({"attribute": "country", "op": "in", "values": ["US"], "negate": true});
    let codes: Vec<String> = (10..40).map(|n| format!("C{n}")).collect();
    let weights = json!([{"variant": "new", "weight": 1}, {"variant": "old", "weight": 3}]);
    let experiment = json!({"key": "form-test", "layer": {"key": "checkout", "range": [0, 9000]}, "holdout": "held"});
    let test = json!({"rollout": {"weights": weights, "experiment": experiment}});
    let rules = json!([
        {"id": "inside", "serve": {"variant": "own"},
            "when": [{"op": "in_segment", "values": ["early"]}, clause("app", "semver_gte", json!(["2.3.0"]))]},
        {"when": [clause("code", "in", json!(codes))], "serve": {"variant": "old"}},
        {"id": "test", "serve": test,
            "when": [not_usa, clause("signed_up", "after", json!(["2020-01-01T00:00:00Z"]))]},
    ]);
    let changes = json!([
        put(
            "segment",
            "staff",
            json!({"included": ["root"], "rules": [
            {"when": [clause("ip", "in_cidr", json!(["10.0.0.0/8", "2001:db8::/32"]))]}]})
        ),
        put(
            "segment",
            "early",
            json!({"excluded": ["mallory"], "rules": [
            {"when": [{"op": "in_segment", "values": ["staff"]}]},
            {"when": [clause("email", "matches", json!(["@pennon\\.example$"]))], "rollout": {"share": 60, "of": 100}}]})
        ),
        put(
            "segment",
            "held",
            json!({"rules": [{"when": [], "rollout": {"share": 5, "of": 100}}]})
        ),
        put("flag", "gate", boolean),
        put(
            "policy",
            "gate",
            json!({"enabled": true, "rules": [{"id": "gold", "serve": {"variant": "off"},
            "when": [clause("plan", "in", json!(["gold"]))]}], "default": {"variant": "on"}})
        ),
        put("flag", "form", forms),
        put(
            "policy",
            "form",
            json!({"enabled": true, "rules": rules, "default": {"variant": "old"},
            "prerequisites": [{"flag": "gate", "variants": ["on"]}],
            "targets": [{"variant": "own", "subjects": ["alice"]}]})
        ),
    ]);
    change(&node, &changes);
    node
}

fn change(node: &Single, changes: &Value) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(changes.to_string().as_bytes()).unwrap();
    node.run(&format!("change -f {}", file.path().display()))
        .exits(0);
}

/// Checks the tree below the answer, to the letter.
#[track_caller]
fn shows(said: &Said, tree: &str) {
    let (_, shown) = said.out.split_once("\n\n").expect("an answer, then a tree");
    assert_eq!(shown.trim_end(), tree.trim_start_matches('\n').trim_end());
}

#[test]
fn the_answer_comes_first_then_everything_on_the_way_to_it() {
    let node = rich();
    let version = node.run("flag get form -o json").json()["version"].clone();
    let said = node
        .run(
            "explain form --env prod --subject user-42 -a country=DE -a signed_up=2024-06-01T10:00:00Z \
             -a email=ann@pennon.example -a ip=10.1.2.3 -a app=2.1",
        )
        .exits(0);
    let answer = format!(
        "form = a  (variant old)\n  SPLIT test, experiment form-test; last changed at version {version}, \
         decided at version {version}, FRESH\n\n"
    );
    assert!(said.out.starts_with(&answer), "{}", said.out);
    shows(
        &said,
        r#"
  ✓ prerequisite gate at on  (it is at on)
    ✗ rule 1 gold
      ✗ plan in "gold"  (the subject has none)
    ✓ default serves on
  · target: none for this subject
  ✗ rule 1 inside
    ✓ in segment early  (by rule 1)
      ✓ rule 1
        ✓ in segment staff  (by rule 1)
          ✓ rule 1
            ✓ ip in_cidr "10.0.0.0/8", "2001:db8::/32"  (it is "10.1.2.3")
    ✗ app semver_gte "2.3.0"  (it is the number 2.1, wrong type: not a version as text)
  ✗ rule 2
    ✗ code in "C10", "C11", "C12", "C13", "C14", "C15", "C16", "C17", … and 22 more  (the subject has none)
  ✓ rule 3 test: serves old
    ✓ not country in "US"  (it is "DE")
    ✓ signed_up after "2020-01-01T00:00:00Z"  (it is "2024-06-01T10:00:00Z")
    ✓ experiment form-test  (takes part)
      ✓ not in the holdout held  (not listed there, and no rule takes it in)
        ✗ rule 1, without clauses
          ✗ share [0, 5): bucket 20 of 100 = murmur3-v1("helduser-42")
      ✓ layer checkout, slots [0, 9000): slot 3082 of 10000 = murmur3-v1("layer=checkoutuser-42")
    · bucket 2 of 4 = murmur3-v1("formuser-42")
      · new    25%  [0, 1)
      ✓ old    75%  [1, 4)
"#,
    );
    // The commonest slip with attributes, and what mends it.
    said.complains("--attr-str app=2.1");
    node.run("explain form -e prod -s user-42 -a ip=::1 -a email=a@pennon.example --attr-str app=2.4 -a code=7")
        .exits(0)
        .complains("--attr-str code=7");
}

#[test]
fn each_way_of_deciding_ends_the_tree() {
    let node = rich();
    let explain = |subject: &str, more: &str| {
        node.run(&format!("explain form --env prod -s {subject} {more}"))
            .exits(0)
    };
    shows(
        &explain("u", "-a plan=gold"),
        r#"
  ✗ prerequisite gate at on  (it is at off): serves the off variant
    ✓ rule 1 gold: serves off
      ✓ plan in "gold"  (it is "gold")
"#,
    );
    shows(
        &explain("alice", ""),
        "
  ✓ prerequisite gate at on  (it is at on)
    ✗ rule 1 gold
      ✗ plan in \"gold\"  (the subject has none)
    ✓ default serves on
  ✓ target: serves own to this subject
",
    );
    let default = explain("mallory", "-a country=US").out;
    for part in [
        "✗ in segment early  (excluded by its key)",
        "✗ not country in \"US\"  (it is \"US\")",
        "✓ default serves old",
    ] {
        assert!(default.contains(part), "{part:?} is not in {default}");
    }
    let missing = explain("u", "").out;
    let part =
        "✗ not country in \"US\"  (the subject has none, so neither this nor the opposite holds)";
    assert!(missing.contains(part), "{missing}");

    node.run("flag disable form --env prod").exits(0);
    explain("u", "")
        .prints("form = a  (variant old)\n  DISABLED; last changed at version ")
        .prints("pennon flag enable form --env prod");
    node.run("explain web/new:ui --env prod -s u -a country=DE")
        .exits(0)
        .prints("RULE_MATCH eu;")
        .prints("✓ rule 1 eu: serves on\n    ✓ country in \"DE\"  (it is \"DE\")");
}

#[test]
fn programs_get_the_answer_of_the_node() {
    let node = rich();
    let line = "form --env prod --subject user-42 -a country=DE -a signed_up=2024-06-01T10:00:00Z";
    let mut explained = node.run(&format!("explain {line} -o json")).exits(0).json();
    let trace = explained.as_object_mut().unwrap().remove("trace").unwrap();
    assert_eq!(
        explained,
        node.run(&format!("eval {line} -o json")).exits(0).json()
    );
    assert_eq!(trace["steps"].as_array().map(Vec::len), Some(5));
    node.run(&format!("explain {line} -o yaml"))
        .exits(0)
        .prints("takes_part: true");

    // An evaluation says the experiment as well.
    let reason = "SPLIT test, bucket 2, experiment form-test";
    node.run(&format!("eval {line}")).exits(0).prints(reason);
    node.run(
        "eval --all --env prod --subject user-42 -a country=DE -a signed_up=2024-06-01T10:00:00Z",
    )
    .exits(0)
    .prints("SPLIT test, experiment form-test");
}

#[test]
fn what_does_not_exist_is_3_and_what_was_meant_is_offered() {
    let node = rich();
    node.run("flag create bare --type boolean").exits(0);
    let archived =
        json!({"type": "boolean", "variants": {"on": true}, "off_variant": "on", "archived": true});
    node.run_with("flag put attic --create --value", &[&archived.to_string()])
        .exits(0);
    node.run("flag enable attic --env prod").exits(0);
    for command in ["explain", "eval"] {
        let refused = |line: &str| {
            let said = node.run(&format!("{command} {line} --subject u")).exits(3);
            assert_eq!(said.out, "", "{command} {line}");
            said.err
        };
        for (line, says) in [
            ("web/new:iu --env prod", "Did you mean web/new:ui?"),
            ("fomr --env prod", "Did you mean form?"),
            ("form --env prdo", "Did you mean --env prod?"),
            ("form --env elsewhere", "Environments here: prod"),
            ("bare --env prod", "no policy in prod"),
            ("attic --env prod", "attic is archived"),
            ("payments --env prod", "there is no flag payments"),
        ] {
            let said = refused(line);
            assert!(said.contains(says), "{says:?} is not in: {said}");
        }
        for exact in ["bare --env prod", "payments --env prod", "attic --env prod"] {
            let said = refused(exact);
            assert!(!said.contains("Did you mean"), "{exact}: {said}");
        }
        let json = node
            .run(&format!("{command} fomr --env prod --subject u -o json"))
            .exits(3);
        assert_eq!(json.json()["reason"], "FLAG_NOT_FOUND");
        assert_eq!(json.err, "");
    }
    for (line, says) in [
        ("web/new:iu --env prod", "Did you mean web/new:ui?"),
        ("form --env prdo", "Did you mean --env prod?"),
        ("--env prdo", "Did you mean --env prod?"),
        ("--env elsewhere", "Environments here: prod"),
    ] {
        let said = node.run(&format!("status {line}")).exits(3).err;
        assert!(said.contains(says), "{says:?} is not in: {said}");
    }
    for (line, says) in [
        (
            "flag disable web/new:iu --env prod",
            "Did you mean web/new:ui?",
        ),
        ("flag enable form --env prdo", "Did you mean --env prod?"),
        (
            "flag disable form --env elsewhere",
            "Environments here: prod",
        ),
        ("flag get fomr", "Did you mean form?"),
        ("policy get fomr --env prod", "Did you mean form?"),
        ("policy get form --env prdo", "Did you mean --env prod?"),
    ] {
        let said = node.run(line).exits(3).err;
        assert!(said.contains(says), "{says:?} is not in: {said}");
    }
    for exact in ["bare --env prod", "payments --env prod"] {
        let said = node.run(&format!("status {exact}")).exits(3).err;
        assert!(!said.contains("Did you mean"), "{exact}: {said}");
    }
}

#[test]
fn a_question_that_nobody_answers_is_never_an_unknown_outcome() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let nobody = Held::any();
    let gone = format!("http://{}", nobody.address);
    let explain = |url: &str| {
        let args = "explain f --env prod --subject u --timeout 300ms".split(' ');
        run(&args.collect::<Vec<_>>(), &[("PENNON_URL", url)])
    };
    let said = explain(&url).exits(124).complains("in time");
    assert!(!said.err.contains("happened"), "{}", said.err);
    explain(&gone).exits(5).complains("pennon dev");

    // A node that hangs up in the middle.
    let answering = TcpListener::bind("127.0.0.1:0").unwrap();
    let rude = format!("http://{}", answering.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in answering.incoming().flatten() {
            let mut read = [0; 16];
            let _ = std::io::Read::read(&mut &connection, &mut read);
        }
    });
    let args = "explain f --env prod --subject u --timeout 20s".split(' ');
    let said = run(&args.collect::<Vec<_>>(), &[("PENNON_URL", &rude)]).exits(5);
    assert!(!said.err.contains("happened"), "{}", said.err);
}

#[test]
fn what_people_wrote_cannot_steer_the_terminal() {
    let node = Single::with_flag();
    let policy = json!({"enabled": true, "rules": [{"id": "\u{202e}rule", "serve": {"variant": "on"},
        "when": [{"attribute": "a\u{202e}b", "op": "in", "values": ["\u{1b}[31mred\n\u{202e}line"]}]}], "default": {"variant": "off"}});
    node.run_with(
        "policy put web/new:ui --env prod --value",
        &[&policy.to_string()],
    )
    .exits(0);
    let said = node
        .run_with(
            "explain web/new:ui --env prod --subject u --attr",
            &["a\u{202e}b=\u{1b}[2Jx\n\u{202e}y"],
        )
        .exits(0);
    assert!(
        !said.out.contains(['\u{1b}', '\u{202e}']) && !said.err.contains(['\u{1b}', '\u{202e}']),
        "{said:?}"
    );
    let line =
        r#"    ✗ a\u{202e}b in "\u001b[31mred\n\u{202e}line"  (it is "\u001b[2Jx\n\u{202e}y")"#;
    assert!(said.out.lines().any(|found| found == line), "{}", said.out);
}
