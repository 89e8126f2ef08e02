//! Explanations: the decision of evaluate, by the same rules of freshness, and the way to it.
//! `http_support` holds every answer against `/openapi.json`; here also that nothing is in an
//! explanation which is not in there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod http_support;

use std::collections::BTreeSet;

use http_support::{Api, Reply, flag, furnished, serving, undocumented};
use pennon_node::server::Node;
use serde_json::{Value, json};

fn clause(attribute: &str, op: &str, values: Value) -> Value {
    json!({"attribute": attribute, "op": op, "values": values})
}

fn policy(rules: Value, default: Value) -> Value {
    json!({"enabled": true, "rules": rules, "default": default})
}

/// A rule for each operator, tried in this order.
fn rule_of_each_operator() -> Value {
    let clauses = [
        clause("plan", "in", json!(["gold", 7, true])),
        clause("email", "contains", json!(["@pennon"])),
        clause("email", "starts_with", json!(["ann"])),
        clause("email", "ends_with", json!([".example"])),
        clause("email", "matches", json!(["^bob@.*$"])),
        clause("orders", "gt", json!([100])),
        clause("app", "semver_lt", json!(["1.0"])),
        clause("signed_up", "before", json!(["2020-01-01T00:00:00Z"])),
        clause("ip", "in_cidr", json!(["10.0.0.0/8", "2001:db8::/32"])),
        json!({"attribute": "nothing", "op": "exists"}),
        json!({"op": "in_segment", "values": ["staff", "early"], "negate": true}),
        json!({"attribute": "plan", "op": "in", "values": ["gold"], "negate": true}),
    ];
    let rules = clauses.map(|clause| json!({"when": [clause], "serve": {"variant": "on"}}));
    Value::from_iter(rules)
}

/// Policies by the key of their flag: one for each kind of decision.
fn policies() -> Vec<(&'static str, Value)> {
    let (on, off) = (json!({"variant": "on"}), json!({"variant": "off"}));
    let weights = json!([{"variant": "on", "weight": 1}, {"variant": "off", "weight": 3}]);
    let test = |key: &str, more: Value| {
        let mut experiment = json!({ "key": key });
        for (name, value) in more.as_object().unwrap() {
            experiment[name] = value.clone();
        }
        let serve = json!({"rollout": {"weights": weights, "experiment": experiment}});
        policy(
            json!([{"id": key, "when": [], "serve": serve}]),
            off.clone(),
        )
    };
    let split = |by: &str| {
        let default = json!({"rollout": {"bucket_by": by, "weights": weights}});
        policy(json!([]), default)
    };
    let mut prerequisite = serving("on");
    prerequisite["prerequisites"] =
        json!([{"flag": "split", "variants": ["on"]}, {"flag": "rules", "variants": ["on"]}]);
    let mut targets = serving("off");
    targets["targets"] = json!([{"variant": "on", "subjects": ["alice", "user-1"]}]);
    let mut disabled = serving("on");
    disabled["enabled"] = false.into();
    let (low, high) = (
        json!({"key": "l", "range": [0, 5_000]}),
        json!({"key": "l", "range": [5_000, 10_000]}),
    );
    vec![
        ("static", serving("on")),
        ("disabled", disabled),
        ("archived", serving("on")),
        ("targets", targets),
        ("split", split("subject_key")),
        ("by-team", split("team")),
        ("rules", policy(rule_of_each_operator(), off.clone())),
        (
            "everybody",
            policy(json!([{"when": [], "serve": on}]), off.clone()),
        ),
        ("prerequisite", prerequisite),
        ("free-test", test("free", json!({}))),
        ("layer-test", test("layered", json!({"layer": low}))),
        (
            "held-test",
            test("held", json!({"layer": high, "holdout": "early"})),
        ),
    ]
}

/// All of these and what they use, as a change set.
fn catalogue() -> Value {
    let put = |kind: &str, key: &str, value: Value| {
        let mut item = json!({"op": "put", "kind": kind, "key": key, "value": value});
        if kind == "policy" || kind == "segment" {
            item["environment"] = "prod".into();
        }
        item
    };
    let office = clause("ip", "in_cidr", json!(["10.0.0.0/8"]));
    let staff =
        json!({"included": ["user-1"], "excluded": ["user-2"], "rules": [{"when": [office]}]});
    let early = json!({"rules": [
        {"when": [{"op": "in_segment", "values": ["staff"]}]},
        {"when": [clause("orders", "gte", json!([3]))], "rollout": {"share": 50, "of": 100}},
    ]});
    let mut all = vec![
        put("segment", "staff", staff),
        put("segment", "early", early),
        put("flag", "bare", flag()),
    ];
    for (key, policy) in policies() {
        let mut config = flag();
        config["archived"] = (key == "archived").into();
        all.extend([put("flag", key, config), put("policy", key, policy)]);
    }
    Value::Array(all)
}

async fn with_catalogue() -> (Node, Api) {
    let (node, api) = furnished().await;
    api.post("/v1/changes", catalogue()).await.ok();
    (node, api)
}

fn subjects() -> Vec<Value> {
    let attributes = json!({"plan": "silver", "email": "ann@other", "orders": 5, "app": "2.0", "team": 7,
        "signed_up": "2024-01-01T00:00:00Z", "ip": "192.168.0.1"});
    let with = |name: &str, value: Value| {
        let mut changed = attributes.clone();
        changed[name] = value;
        changed
    };
    let mut all: Vec<Value> = (1..12)
        .map(|n| json!({"subject_key": format!("user-{n}"), "attributes": attributes}))
        .collect();
    for (name, value) in [
        ("plan", json!("gold")),
        ("plan", json!(["bronze", "gold"])),
        ("plan", json!([])),
        ("plan", Value::Null),
        ("email", json!("ann@pennon.example")),
        ("email", json!("bob@x")),
        ("email", json!(7)),
        ("orders", json!(101)),
        ("orders", json!("many")),
        ("app", json!("0.9")),
        ("app", json!(0.9)),
        ("signed_up", json!(1_000)),
        ("signed_up", json!("once")),
        ("ip", json!("2001:db8::1")),
        ("ip", json!("10.1.2.3")),
        ("ip", json!("10.1.2.3:80")),
        ("team", json!("red")),
        ("team", json!(1.5)),
        ("nothing", json!(false)),
    ] {
        all.push(json!({"subject_key": "someone", "attributes": with(name, value)}));
    }
    all.push(json!({"subject_key": ""}));
    all.push(json!({"subject_key": "alice"}));
    all
}

async fn explain(api: &Api, flag: &str, subject: &Value) -> Reply {
    let path = format!("/v1/environments/prod/explain/{flag}");
    api.post(&path, subject.clone()).await
}

/// Every bucket in a trace is that of the text that it says was hashed.
fn check_buckets(value: &Value) -> usize {
    let mut count = 0;
    if let (Some(input), Some(total)) = (value["input"].as_str(), value["total"].as_u64()) {
        let bucket = pennon_evaluator::bucket("", input, u32::try_from(total).unwrap());
        assert_eq!(value["bucket"], bucket, "{value}");
        count += 1;
    }
    let fields = value.as_object().into_iter().flat_map(|map| map.values());
    let items = value.as_array().into_iter().flatten();
    count + fields.chain(items).map(check_buckets).sum::<usize>()
}

/// The last step of a trace is the one that decided as the evaluation says.
fn check_last_step(answer: &Value) {
    let steps = answer["trace"]["steps"].as_array().unwrap();
    let last = steps.last().unwrap_or(&Value::Null);
    let is_experiment = last["experiment"]["takes_part"] == true;
    match answer["reason"].as_str().unwrap() {
        "FLAG_NOT_FOUND" | "DISABLED" => assert_eq!(steps.len(), 0, "{answer}"),
        "PREREQUISITE_FAILED" => assert_eq!(
            (&last["step"], &last["holds"]),
            (&json!("prerequisite"), &json!(false))
        ),
        "TARGET_MATCH" => assert_eq!(last["variant"], answer["variant"], "{answer}"),
        "DEFAULT" | "STATIC" => assert_eq!(last["step"], "default", "{answer}"),
        "RULE_MATCH" => assert_eq!(last["rule_id"], answer["rule_id"], "{answer}"),
        "SPLIT" => {
            let rollout = &last["rollout"];
            assert_eq!(last["rule_id"], answer["rule_id"], "{answer}");
            assert_eq!(rollout["bucket"], answer["bucket"], "{answer}");
            let shares = rollout["shares"].as_array().unwrap();
            let hit = match rollout["bucket"].as_u64() {
                Some(bucket) => shares
                    .iter()
                    .find(|share| bucket < share["to"].as_u64().unwrap()),
                None => shares.last(),
            };
            assert_eq!(hit.unwrap()["variant"], answer["variant"], "{answer}");
        }
        other => panic!("{other}"),
    }
    let experiment = match is_experiment {
        true => &last["experiment"]["key"],
        false => &Value::Null,
    };
    assert_eq!(experiment, &answer["experiment"], "{answer}");
}

/// The keys as they stand in a path.
fn keys() -> Vec<&'static str> {
    let known = policies().into_iter().map(|(key, _)| key);
    known.chain(["bare", "a", "b%2Fx:y", "unknown"]).collect()
}

#[tokio::test]
async fn an_explanation_is_the_evaluation_with_its_trace() {
    let (node, api) = with_catalogue().await;
    let document = api.document();
    let schema = json!({"$ref": "#/components/schemas/Explanation"});
    let mut reasons = BTreeSet::new();
    let mut buckets = 0;
    for subject in subjects() {
        for key in keys() {
            let path = format!("/v1/environments/prod/evaluate/{key}");
            let evaluated = api.post(&path, subject.clone()).await.ok();
            let explained = explain(&api, key, &subject).await.ok();
            let mut json = explained.json.clone();
            let trace = json.as_object_mut().unwrap().remove("trace").unwrap();
            assert_eq!(json, evaluated.json, "{key} for {subject}");
            assert_eq!(explained.version(), evaluated.version());
            assert_eq!(trace["truncated"], false);
            check_last_step(&explained.json);
            buckets += check_buckets(&trace);
            let unknown = undocumented(&document, &schema, &explained.json, "");
            assert!(unknown.is_empty(), "{unknown:?} in {}", explained.text);
            reasons.insert(json["reason"].as_str().unwrap().to_owned());
        }
    }
    // It would prove little if some way of deciding did not occur.
    let all = [
        "DEFAULT",
        "DISABLED",
        "FLAG_NOT_FOUND",
        "PREREQUISITE_FAILED",
        "RULE_MATCH",
        "SPLIT",
        "STATIC",
        "TARGET_MATCH",
    ];
    assert_eq!(reasons, all.map(str::to_owned).into());
    assert!(buckets > 100, "{buckets}");
    node.shutdown().await;
}

#[tokio::test]
async fn a_trace_shows_segments_shares_and_layers() {
    let (node, api) = with_catalogue().await;
    let attributes = json!({"orders": 5, "ip": "10.0.0.1"});
    let subject = json!({"subject_key": "user-2", "attributes": attributes});
    let held = explain(&api, "held-test", &subject).await.ok().json;
    let holdout = &held["trace"]["steps"][0]["experiment"]["holdout"];
    let bucket = pennon_evaluator::bucket("early", "user-2", 100);
    assert_eq!(holdout["held_out"], bucket < 50);
    // A segment within the segment excludes the subject by its key, whatever its rules say.
    let rules = &holdout["segment"]["rules"];
    assert_eq!(
        rules[0]["clauses"][0]["segments"],
        json!([{"segment": "staff", "within": false, "by": "excluded"}])
    );
    let clause = json!({"clause": {"attribute": "orders", "op": "gte", "values": [3.0]}, "found": 5.0,
        "outcome": "match", "holds": true});
    let share = json!({"algorithm": "murmur3-v1", "bucket_by": "subject_key", "input": "earlyuser-2",
        "total": 100, "bucket": bucket, "shares": [{"from": 0, "to": 50}]});
    assert_eq!(
        rules[1],
        json!({"place": 1, "clauses": [clause], "rollout": share, "holds": bucket < 50})
    );

    let layered = explain(&api, "layer-test", &subject).await.ok().json;
    let number = pennon_evaluator::bucket("layer=l", "user-2", 10_000);
    let slot = json!({"algorithm": "murmur3-v1", "bucket_by": "subject_key", "input": "layer=luser-2",
        "total": 10_000, "bucket": number});
    let within = number < 5_000;
    let layer = json!({"layer": "l", "range": [0, 5_000], "slot": slot, "within": within});
    assert_eq!(
        layered["trace"]["steps"][0]["experiment"],
        json!({"key": "layered", "takes_part": within, "layer": layer})
    );
    let expected = if within { "layered" } else { "" };
    assert_eq!(layered["experiment"].as_str().unwrap_or(""), expected);
    assert_eq!(layered["rule_id"].as_str().unwrap_or(""), expected);
    node.shutdown().await;
}

#[tokio::test]
async fn a_trace_shows_what_comparisons_came_to() {
    let (node, api) = with_catalogue().await;
    let attributes = json!({"email": 7, "orders": "x", "app": 2, "signed_up": "x", "ip": "x"});
    let subject = json!({"subject_key": "user-1", "attributes": attributes});
    let rules = explain(&api, "rules", &subject).await.ok().json;
    let steps = rules["trace"]["steps"].as_array().unwrap();
    let outcomes = steps.iter().map(|step| &step["clauses"][0]["outcome"]);
    let outcomes: Vec<&str> = outcomes.filter_map(Value::as_str).collect();
    let wrong = ["wrong_type"; 8];
    let expected = [&["missing"][..], &wrong, &["no_match", "match", "missing"]].concat();
    assert_eq!(outcomes, expected, "{rules}");
    assert!(steps[..12].iter().all(|step| step["holds"] == false));
    assert_eq!(steps[1]["clauses"][0]["found"], 7.0);
    let early = &steps[10]["clauses"][0]["segments"][0];
    assert_eq!(
        (&early["segment"], &early["by"]),
        (&json!("early"), &json!("rule"))
    );
    let staff = &early["rules"][0]["clauses"][0]["segments"][0];
    assert_eq!(
        (&staff["segment"], &staff["by"]),
        (&json!("staff"), &json!("included"))
    );
    assert_eq!(steps[12..], [json!({"step": "default"})]);

    // A long list of values is cut, and what was cut is counted.
    let values: Vec<String> = (0..1_000).map(|n| format!("v{n:03}")).collect();
    let when = [clause("v", "in", json!(values))];
    let rule = json!([{"when": when, "serve": {"variant": "on"}}]);
    let path = "/v1/environments/prod/policies/a";
    api.replace(path, policy(rule, json!({"variant": "off"})))
        .await
        .ok();
    let subject = json!({"subject_key": "u", "attributes": {"v": "v999"}});
    let clause = explain(&api, "a", &subject).await.ok().json;
    let clause = &clause["trace"]["steps"][0]["clauses"][0];
    assert_eq!(clause["clause"]["values"].as_array().unwrap().len(), 20);
    assert_eq!(
        (&clause["values_more"], &clause["outcome"]),
        (&json!(980), &json!("match"))
    );
    node.shutdown().await;
}

#[tokio::test]
async fn a_trace_shows_how_prerequisites_were_decided() {
    let (node, api) = with_catalogue().await;
    let mut found = BTreeSet::new();
    for n in 0..20 {
        let key = format!("user-{n}");
        let subject = json!({"subject_key": key, "attributes": {"plan": "gold"}});
        let answer = explain(&api, "prerequisite", &subject).await.ok().json;
        let bucket = pennon_evaluator::bucket("split", &key, 4);
        let variant = if bucket < 1 { "on" } else { "off" };
        let steps = answer["trace"]["steps"].as_array().unwrap();
        assert_eq!(
            (&steps[0]["flag"], &steps[0]["accepts"], &steps[0]["found"]),
            (&json!("split"), &json!(["on"]), &json!(variant))
        );
        assert_eq!(steps[0]["holds"], variant == "on");
        assert_eq!(steps[0]["steps"][0]["rollout"]["bucket"], bucket);
        // The first that fails is the last that is looked at.
        let count = if variant == "on" { 3 } else { 1 };
        assert_eq!(steps.len(), count, "{answer}");
        found.insert(variant);
    }
    assert_eq!(found.len(), 2);
    node.shutdown().await;
}

#[tokio::test]
async fn what_is_not_there_is_answered_as_evaluate_does() {
    let (node, api) = with_catalogue().await;
    let subject = json!({"subject_key": "u"});
    let unknown = explain(&api, "nobody", &subject).await.ok().json;
    assert_eq!(
        (&unknown["reason"], &unknown["detail"], &unknown["trace"]),
        (
            &json!("FLAG_NOT_FOUND"),
            &json!("there is no flag nobody"),
            &json!({"steps": [], "truncated": false})
        )
    );
    let bare = explain(&api, "bare", &subject).await.ok().json;
    let detail = bare["detail"].as_str().unwrap();
    assert!(detail.contains("no policy in prod"), "{detail}");
    let archived = explain(&api, "archived", &subject).await.ok().json;
    assert_eq!(archived["detail"], "ARCHIVED");
    let nowhere = api.post("/v1/environments/none/explain/a", subject).await;
    assert_eq!(
        nowhere.problem(404, "not-found").json["missing"],
        json!({"kind": "environment", "key": "none"})
    );
    node.shutdown().await;
}

#[tokio::test]
async fn requests_are_refused_as_evaluate_does() {
    let (node, api) = furnished().await;
    let path = "/v1/environments/prod/explain/a";
    let subject = json!({"subject_key": "u"});
    let wrong = json!({"attributes": {"o": {}, "l": [1, [2]], "": 1}, "who": 1, "trace": true});
    let refused = api.post(path, wrong.clone()).await;
    let refused = refused.problem(400, "validation");
    let same = api.post("/v1/environments/prod/evaluate/a", wrong).await;
    assert_eq!(refused.pointers(), same.pointers());
    assert_eq!(
        refused.pointers()[..4],
        ["/subject_key", "/trace", "/who", "/attributes/o"]
    );
    api.post(path, json!([])).await.problem(400, "validation");
    let json_type = [("content-type", "application/json")];
    let malformed = api.raw("POST", path, &json_type, "{\"subject_key\":").await;
    assert_eq!(malformed.problem(400, "validation").json["line"], 1);
    api.raw("POST", path, &[("content-type", "text/plain")], "{}")
        .await
        .problem(415, "unsupported-media-type");
    for query in ["limit=1", "after=a", "consistency=sometimes", "wait=5"] {
        api.post(&format!("{path}?{query}"), subject.clone())
            .await
            .problem(400, "validation");
    }
    api.post(&format!("{path}%20b"), subject.clone())
        .await
        .problem(400, "validation");
    let ahead = format!("{path}?min_version=9999&wait=10ms");
    api.post(&ahead, subject.clone())
        .await
        .problem(503, "not-fresh-enough");
    let get = api.get(path).await.problem(405, "method-not-allowed");
    assert_eq!(get.header("allow"), "POST, OPTIONS");
    api.post("/v1/environments/prod/explain", subject)
        .await
        .problem(404, "not-found");

    // Rules are shown, so being allowed to evaluate is not enough.
    let document = api.document();
    let permission = |of: &str| {
        let path = format!("/v1/environments/{{environment}}/{of}/{{flag}}");
        document["paths"][path]["post"]["x-permission"].clone()
    };
    assert_eq!(
        (permission("evaluate"), permission("explain")),
        (json!("evaluate"), json!("read"))
    );
    node.shutdown().await;
}
