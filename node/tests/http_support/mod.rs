//! A node in memory, a client for it, and checks that hold for every answer: the three headers,
//! problem documents for errors, and the shapes that `/openapi.json` promises.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use pennon_node::clock::SystemClock;
use pennon_node::net::{Connect, MemoryNetwork};
use pennon_node::server::{Node, NodeOptions, Storage, Surroundings};
use pennon_raft_store::disk::MemoryDisk;
use pennon_raft_store::raft::RaftOptions;
use serde_json::{Value, json};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Options with times short enough for tests.
pub(crate) fn options(name: &str) -> NodeOptions {
    NodeOptions {
        raft: RaftOptions {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            ..RaftOptions::default()
        },
        confirm_interval: Duration::from_millis(50),
        drain: Duration::from_secs(2),
        ..NodeOptions::single(name)
    }
}

/// Starts a node that listens at `<name>:api` and `<name>:peer` of the network.
pub(crate) async fn start(network: &MemoryNetwork, options: NodeOptions, seed: u64) -> Node {
    let surroundings = Surroundings {
        storage: Storage::Memory(Arc::new(MemoryDisk::new())),
        clock: Arc::new(SystemClock),
        connect: Arc::new(network.clone()),
        seed,
        api: Box::new(network.listen(&format!("{}:api", options.name))),
        peer: Box::new(network.listen(&format!("{}:peer", options.name))),
    };
    Node::start(options, surroundings).await.unwrap()
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
    /// The same as text, as far as it is any.
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn version(&self) -> u64 {
        self.header("pennon-version").parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self
    }

    /// The slug of an error with this status.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, slug: &str) -> Self {
        let kind = self.json["type"].as_str().unwrap_or_default();
        assert_eq!(
            (self.status.as_u16(), kind),
            (status, format!("/problems/{slug}").as_str()),
            "{}",
            self.text
        );
        self
    }

    pub(crate) fn pointers(&self) -> Vec<&str> {
        let faults = self.json["faults"].as_array().unwrap();
        faults
            .iter()
            .map(|fault| fault["pointer"].as_str().unwrap())
            .collect()
    }
}

/// Talks to one node and checks every answer against what the document promises.
pub(crate) struct Api {
    network: MemoryNetwork,
    address: String,
    node: String,
    document: Mutex<Value>,
    exercised: Mutex<BTreeSet<String>>,
}

impl Api {
    pub(crate) fn new(network: &MemoryNetwork, name: &str) -> Self {
        Self {
            network: network.clone(),
            address: format!("{name}:api"),
            node: name.into(),
            document: Mutex::default(),
            exercised: Mutex::default(),
        }
    }

    /// A single node that serves, and its document.
    pub(crate) async fn single() -> (Node, Self) {
        let network = MemoryNetwork::new();
        let node = start(&network, options("n1"), 7).await;
        let api = Self::new(&network, "n1");
        api.ready().await;
        (node, api)
    }

    /// Waits until the node is ready, and takes its document.
    pub(crate) async fn ready(&self) {
        let readies = async {
            loop {
                let reply = self.send("GET", "/readyz", &[], None).await;
                if reply.status == StatusCode::OK {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, readies)
            .await
            .expect("the node is ready in time");
        let document = self.send("GET", "/openapi.json", &[], None).await.ok();
        *self.document.lock().unwrap() = document.json;
    }

    pub(crate) fn network(&self) -> &MemoryNetwork {
        &self.network
    }

    pub(crate) fn document(&self) -> Value {
        self.document.lock().unwrap().clone()
    }

    /// Every `METHOD path` that was answered with success since the document is known.
    pub(crate) fn exercised(&self) -> BTreeSet<String> {
        self.exercised.lock().unwrap().clone()
    }

    /// Sends a request and returns its head and body as they come.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> http::Response<Incoming> {
        let io = self.network.connect(&self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "n1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = sender.send_request(request.body(Full::new(body)).unwrap());
        tokio::time::timeout(PATIENCE, sent)
            .await
            .expect("an answer in time")
            .unwrap()
    }

    /// Sends a request with any bytes as its body.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let response = self.open(method, path, headers, body.into()).await;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .expect("a body in time")
            .unwrap();
        let bytes = body.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let reply = Reply {
            status: head.status,
            headers: head.headers,
            bytes,
            text,
            json,
        };
        self.check(method, path, &reply);
        reply
    }

    /// Sends a request with a JSON body, if any.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Value>,
    ) -> Reply {
        match body {
            None => self.raw(method, path, headers, Bytes::new()).await,
            Some(body) => {
                let json = [headers, &[("content-type", "application/json")]].concat();
                self.raw(method, path, &json, body.to_string()).await
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, &[], Some(body)).await
    }

    pub(crate) async fn create(&self, path: &str, value: Value) -> Reply {
        self.send("PUT", path, &[("if-none-match", "*")], Some(value))
            .await
            .ok()
    }

    pub(crate) async fn replace(&self, path: &str, value: Value) -> Reply {
        self.send("PUT", path, &[("if-match", "*")], Some(value))
            .await
    }

    fn check(&self, method: &str, path: &str, reply: &Reply) {
        let at = format!("{method} {path}: {} {}", reply.status, reply.text);
        assert!(
            reply.header("pennon-version").parse::<u64>().is_ok(),
            "Pennon-Version of {at}"
        );
        assert!(
            reply.header("pennon-staleness-ms").parse::<u64>().is_ok(),
            "Pennon-Staleness-Ms of {at}"
        );
        assert_eq!(
            reply.header("pennon-node"),
            self.node,
            "Pennon-Node of {at}"
        );
        if method == "HEAD" || method == "OPTIONS" {
            return;
        }
        if reply.status.as_u16() >= 400 {
            check_problem(reply, &at);
        }
        let document = self.document.lock().unwrap();
        if document.is_null() {
            return;
        }
        let Some((template, operation)) = operation(&document, method, path) else {
            assert!(
                matches!(reply.status.as_u16(), 404 | 405),
                "not in the document: {at}"
            );
            return;
        };
        let status = reply.status.as_str();
        let response = &operation["responses"][status];
        assert!(
            response.is_object(),
            "this status is not documented for {template}: {at}"
        );
        if reply.status.is_success() {
            self.exercised
                .lock()
                .unwrap()
                .insert(format!("{method} {template}"));
        }
        if let Some(content) = response["content"].as_object() {
            let kind = reply
                .header("content-type")
                .split(';')
                .next()
                .unwrap()
                .to_owned();
            assert!(
                content.contains_key(&kind),
                "{kind} is not documented for {at}"
            );
            if kind.ends_with("json") {
                // `?at=` answers an object where the document says a history; both are checked.
                let faults = check_schema(&document, &content[&kind]["schema"], &reply.json, "");
                assert!(faults.is_empty(), "{faults:?} in {at}");
            }
        }
    }
}

fn check_problem(reply: &Reply, at: &str) {
    assert_eq!(
        reply.header("content-type"),
        "application/problem+json",
        "{at}"
    );
    let slug = reply.json["type"]
        .as_str()
        .and_then(|kind| kind.strip_prefix("/problems/"));
    assert!(slug.is_some_and(|slug| !slug.is_empty()), "{at}");
    assert_eq!(reply.json["status"], json!(reply.status.as_u16()), "{at}");
    for field in ["title", "detail"] {
        assert!(
            reply.json[field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field} of {at}"
        );
    }
}

/// The documented operation that a request belongs to, and its template.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<(&'a str, &'a Value)> {
    let path = path.split('?').next().unwrap();
    let method = method.to_ascii_lowercase();
    let fits = |template: &str| {
        let (template, path) = match template.rsplit_once("}:") {
            Some((stem, action)) => match path.rsplit_once(':') {
                Some((path, given)) if given == action => (format!("{stem}}}"), path),
                _ => return false,
            },
            None => (template.to_owned(), path),
        };
        let (parts, given): (Vec<_>, Vec<_>) =
            (template.split('/').collect(), path.split('/').collect());
        parts.len() == given.len()
            && parts
                .iter()
                .zip(given)
                .all(|(part, given)| part.starts_with('{') || *part == given)
    };
    let paths = document["paths"].as_object()?;
    let mut fitting = paths.iter().filter(|(template, _)| fits(template));
    // `{member}:promote` fits `{member}` too.
    let found = fitting
        .clone()
        .find(|(template, _)| template.contains("}:"));
    let (template, operations) = found.or_else(|| fitting.next())?;
    Some((template, operations.get(&method)?))
}

/// Checks a value against a schema: references, types, enumerations, required and known fields.
pub(crate) fn check_schema(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{reference} at {at}"));
        faults.extend(check_schema(document, target, value, at));
    }
    for word in ["anyOf", "oneOf"] {
        if let Some(schemas) = schema[word].as_array()
            && schemas
                .iter()
                .all(|schema| !check_schema(document, schema, value, at).is_empty())
        {
            faults.push(format!("{at} fits none of {word}"));
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let fits = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    if !types.is_empty() && !types.iter().any(fits) {
        faults.push(format!("{at} is not {types:?}: {value}"));
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|allowed| !allowed.contains(value))
    {
        faults.push(format!("{at} is not one of the enumerated: {value}"));
    }
    if schema.get("const").is_some_and(|wanted| wanted != value) {
        faults.push(format!("{at} is not the constant: {value}"));
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if value.get(name).is_none() {
            faults.push(format!("{at}/{name} is required"));
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            faults.extend(check_schema(
                document,
                schema,
                value,
                &format!("{at}/{name}"),
            ));
        }
    }
    if let Some(items) = value.as_array().filter(|_| schema["items"].is_object()) {
        for (n, item) in items.iter().enumerate() {
            faults.extend(check_schema(
                document,
                &schema["items"],
                item,
                &format!("{at}/{n}"),
            ));
        }
    }
    faults
}

/// Finds the fields of a value that its schema does not know.
pub(crate) fn undocumented(
    document: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{reference} at {at}"));
        return undocumented(document, target, value, at);
    }
    for word in ["anyOf", "oneOf"] {
        let fitting = schema[word].as_array().into_iter().flatten();
        let mut fitting =
            fitting.filter(|schema| check_schema(document, schema, value, at).is_empty());
        if let Some(schema) = fitting.next() {
            return undocumented(document, schema, value, at);
        }
    }
    let mut found = Vec::new();
    if let (Some(known), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, value) in fields {
            let at = format!("{at}/{name}");
            match known.get(name) {
                Some(schema) => found.extend(undocumented(document, schema, value, &at)),
                None => found.push(at),
            }
        }
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}/{n}");
        found.extend(undocumented(document, &schema["items"], item, &at));
    }
    found
}

/// A boolean flag, off by default.
pub(crate) fn flag() -> Value {
    json!({ "type": "boolean", "variants": { "on": true, "off": false }, "off_variant": "off" })
}

/// A policy that serves one variant.
pub(crate) fn serving(variant: &str) -> Value {
    json!({ "enabled": true, "default": { "variant": variant } })
}

/// A single node with an environment `prod`, flags `a` and `b/x:y` (served `on`), a segment `beta`.
pub(crate) async fn furnished() -> (Node, Api) {
    let (node, api) = Api::single().await;
    api.create(
        "/v1/environments/prod",
        json!({"name": "Production", "staleness_bound_ms": 5_000}),
    )
    .await;
    for key in ["a", "b%2Fx:y"] {
        api.create(&format!("/v1/flags/{key}"), flag()).await;
        api.create(
            &format!("/v1/environments/prod/policies/{key}"),
            serving("on"),
        )
        .await;
    }
    api.create(
        "/v1/environments/prod/segments/beta",
        json!({"included": ["alice"]}),
    )
    .await;
    (node, api)
}
