//! The OpenAPI document, made from the route table; and what each error means, for people.
//!
//! What must hold: a path, parameter, header or error is in the document because it is in the
//! table, never because somebody wrote it down a second time. Shapes of bodies are in `schemas`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::answer::{Answer, STAMPS};
use super::call::Call;
use super::problem::{Problem, Slug};
use super::route::{Conditions, Gives, Param, ParamKind, Permission, Route, Verb, template_names};
use super::routes::ROUTES;
use super::{schemas, write};
use pennon_evaluator::Setting;
use pennon_evaluator::wire::{
    HEADER_CLUSTER, HEADER_STALENESS_BOUND_MS, MEDIA_TYPE_EVENTS, MEDIA_TYPE_FRAMES,
    PROTOCOL_FRAMES,
};

const ABOUT: &str = "Feature flags that need no database, and prove what every process sees.\n\n\
    Any node takes any request; writes and linearizable reads go through the leader. Ground state (flags, environments, \
    policies, segments, applications, settings) and states are read linearizably unless ?consistency= says otherwise; snapshots and evaluations \
    are bounded: by this node alone, within the staleness bound.\n\n\
    Keys are percent-encoded in paths (`/` as %2F). Unknown query parameters are refused. Every answer, errors included, \
    carries Pennon-Version, Pennon-Staleness-Ms and Pennon-Node. HEAD works wherever GET does; OPTIONS answers with Allow.\n\n\
    While no tokens are configured the node listens on loopback alone, everybody may do everything, and a write says who \
    it is with Pennon-Actor (`anonymous` otherwise). Browsers may not write from a page of another site.";

/// The document.
pub(crate) async fn get(_call: Call) -> Result<Answer, Problem> {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| document(ROUTES).to_string());
    Ok(Answer::text(
        StatusCode::OK,
        "application/json",
        text.clone(),
    ))
}

/// What one error means.
pub(crate) async fn explain(call: Call) -> Result<Answer, Problem> {
    let word = call.segment("slug").unwrap_or_default();
    let Some(slug) = Slug::from_word(word) else {
        let known: Vec<_> = Slug::all().map(|slug| slug.as_str()).collect();
        return Err(Problem::new(
            Slug::NotFound,
            format!(
                "there is no problem {word:?}; known are {}",
                known.join(", ")
            ),
        ));
    };
    let status = slug.status().as_u16();
    let text = format!(
        "{} ({status}): {}\n\n{}\n",
        slug.as_str(),
        slug.title(),
        slug.explanation()
    );
    Ok(Answer::text(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        text,
    ))
}

/// Makes the document of a table.
pub(crate) fn document(table: &[Route]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in table {
        let operations = paths.entry(route.path).or_default();
        operations.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
    }
    let headers: Map<String, Value> = STAMPS
        .iter()
        .map(|(name, about)| {
            let schema = if name.ends_with("Node") {
                json!({ "type": "string" })
            } else {
                json!({ "type": "integer" })
            };
            (
                (*name).to_owned(),
                json!({ "description": about, "schema": schema, "required": true }),
            )
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Pennon", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "paths": paths,
        "components": { "schemas": schemas::all(), "headers": headers },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": route.operation,
        "summary": route.summary,
        "tags": [route.tag],
        "x-permission": route.permission.as_str(),
        "x-errors": errors(route).iter().map(|slug| slug.as_str()).collect::<Vec<_>>(),
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "description": format!("At most {} bytes.", body.max),
            "content": { "application/json": { "schema": reference(body.schema) } },
        });
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters: Vec<Value> = template_names(route.path).map(path_parameter).collect();
    parameters.extend(route.params().map(query_parameter));
    let mut header = |name: &str, required: bool, about: String| {
        let schema = json!({ "type": "string" });
        parameters.push(json!({ "name": name, "in": "header", "required": required, "description": about, "schema": schema }));
    };
    if route.min_version {
        header(
            "Pennon-Min-Version",
            false,
            "Answer at this version or a later one, after ?wait= at most.".into(),
        );
    }
    match route.conditions {
        Conditions::Read => {
            header(
                "If-None-Match",
                false,
                "Entity tags the caller has: 304 when nothing changed.".into(),
            );
        }
        Conditions::WriteRequired | Conditions::WriteOptional => {
            let need = match route.conditions {
                Conditions::WriteRequired => "One of If-Match and If-None-Match is required (428).",
                _ => "Optional here.",
            };
            header(
                "If-Match",
                false,
                format!("\"<version>\": exactly this version; *: any, but it must exist. {need}"),
            );
            header(
                "If-None-Match",
                false,
                format!("*: it must not exist. {need}"),
            );
        }
        Conditions::Nothing | Conditions::WriteInBody => {}
    }
    if route.conditions.is_write() {
        let max = write::KEY_LEN_MAX;
        let key = format!(
            "1 to {max} visible ASCII characters. The same key and request again gets the first outcome again."
        );
        header("Idempotency-Key", false, key);
        header(
            "Pennon-Reason",
            false,
            "Why, for the history; ?reason= goes before it.".into(),
        );
        header(
            "Pennon-Actor",
            false,
            "Who writes, for the history, while no tokens are configured.".into(),
        );
    }
    if matches!(route.gives, Gives::Stream) {
        header(
            "Accept",
            false,
            format!("{MEDIA_TYPE_EVENTS} (also for */*) or {MEDIA_TYPE_FRAMES}."),
        );
        header(
            "Last-Event-ID",
            false,
            "The id of the last event seen; the greater of this and ?since= counts.".into(),
        );
        header(
            "Upgrade",
            false,
            format!(
                "{PROTOCOL_FRAMES}, with Connection: upgrade: the answer is 101, and then the connection brings frames alone and takes receipts as frames."
            ),
        );
    }
    parameters
}

fn path_parameter(name: &str) -> Value {
    let schema = match name {
        "version" => json!({ "$ref": "#/components/schemas/Version" }),
        "slug" => json!({ "type": "string" }),
        "setting" => json!({ "enum": Setting::ALL.map(Setting::as_str) }),
        _ => reference("Key"),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn query_parameter(param: &Param) -> Value {
    let schema = match param.kind {
        ParamKind::Text { max } => json!({ "type": "string", "minLength": 1, "maxLength": max }),
        ParamKind::Version => reference("Version"),
        ParamKind::Integer { min, max } => {
            json!({ "type": "integer", "minimum": min, "maximum": max })
        }
        ParamKind::Duration { .. } => {
            json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$", "examples": ["5s", "250ms"] })
        }
        ParamKind::Word(words) => json!({ "type": "string", "enum": words }),
    };
    json!({ "name": param.name, "in": "query", "required": false, "description": param.about, "schema": schema })
}

/// The errors of a row: its own, and those that follow from what it takes.
fn errors(route: &Route) -> Vec<Slug> {
    let mut errors = route.errors.to_vec();
    errors.extend([Slug::Validation, Slug::MethodNotAllowed, Slug::Internal]);
    if route.body.is_some() {
        errors.push(Slug::UnsupportedMediaType);
    }
    if route.method != Verb::Get {
        errors.extend([Slug::TooLarge, Slug::RequestTimeout]);
    }
    if route.conditions == Conditions::WriteRequired {
        errors.push(Slug::PreconditionRequired);
    }
    if route.permission != Permission::Public {
        errors.push(Slug::NoQuorum);
    }
    errors.sort();
    errors.dedup();
    errors
}

/// What a snapshot says of itself beside its version.
fn snapshot_headers(newest: bool) -> Map<String, Value> {
    let cluster = json!({
        "description": "The cluster. A version of another one says nothing about this one's.",
        "schema": { "type": "string" }, "required": true,
    });
    let bound = json!({
        "description": "The staleness bound of the environment, in milliseconds.",
        "schema": { "type": "integer" }, "required": true,
    });
    let mut headers = Map::from_iter([(HEADER_CLUSTER.to_owned(), cluster)]);
    if newest {
        headers.insert(HEADER_STALENESS_BOUND_MS.to_owned(), bound);
    }
    headers
}

fn responses(route: &Route) -> Value {
    let stamps = || -> Map<String, Value> {
        let names = STAMPS.iter().map(|(name, _)| *name);
        names
            .map(|name| {
                (
                    name.to_owned(),
                    json!({ "$ref": format!("#/components/headers/{name}") }),
                )
            })
            .collect()
    };
    let mut good_headers = stamps();
    let mut named = Map::new();
    let content = match route.gives {
        Gives::Json { schema, etag } => {
            if etag {
                let tag = json!({ "description": "The version, in quotes.", "schema": { "type": "string" } });
                good_headers.insert("ETag".into(), tag);
            }
            json!({ "application/json": { "schema": reference(schema) } })
        }
        Gives::Snapshot { schema, newest } => {
            named = snapshot_headers(newest);
            let tag =
                json!({ "description": "The version, in quotes.", "schema": { "type": "string" } });
            good_headers.insert("ETag".into(), tag);
            good_headers.extend(named.clone());
            json!({ "application/json": { "schema": reference(schema) } })
        }
        Gives::Stream => {
            let text = json!({ "type": "string", "description": "Events hello, snapshot, delta, heartbeat, goodbye, reset, acknowledge." });
            let frames = json!({ "type": "string", "format": "binary", "description": "The same messages as frames." });
            json!({ MEDIA_TYPE_EVENTS: { "schema": text }, MEDIA_TYPE_FRAMES: { "schema": frames } })
        }
        Gives::Bytes(media_type) => {
            json!({ media_type: { "schema": { "type": "string", "format": "binary" } } })
        }
        Gives::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
        Gives::Nothing => Value::Null,
    };
    let mut responses = Map::new();
    let mut good = json!({ "description": route.summary, "headers": good_headers });
    let status = match content {
        Value::Null => "204",
        content => {
            good["content"] = content;
            "200"
        }
    };
    responses.insert(status.into(), good);
    if route.conditions == Conditions::Read {
        let mut headers = stamps();
        headers.extend(named);
        responses.insert(
            "304".into(),
            json!({ "description": "Nothing changed.", "headers": headers }),
        );
    }
    let mut by_status: BTreeMap<u16, Vec<Slug>> = BTreeMap::new();
    for slug in errors(route) {
        by_status
            .entry(slug.status().as_u16())
            .or_default()
            .push(slug);
    }
    for (status, slugs) in by_status {
        let words: Vec<_> = slugs
            .iter()
            .map(|slug| format!("{}: {}", slug.as_str(), slug.title()))
            .collect();
        let mut schemas: Vec<_> = slugs.iter().map(|slug| slug.schema()).collect();
        schemas.dedup();
        let schema = match schemas.as_slice() {
            [one] => reference(one),
            many => {
                json!({ "anyOf": many.iter().map(|schema| reference(schema)).collect::<Vec<_>>() })
            }
        };
        let content = json!({ "application/problem+json": { "schema": schema } });
        let response =
            json!({ "description": words.join("; "), "headers": stamps(), "content": content });
        responses.insert(status.to_string(), response);
    }
    Value::Object(responses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_resolves_and_every_schema_is_used() {
        let document = document(ROUTES);
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for name in document["components"]["schemas"]
            .as_object()
            .unwrap()
            .keys()
        {
            let reference = format!("#/components/schemas/{name}");
            assert!(
                found.contains(&reference.as_str()),
                "{name} is used nowhere"
            );
        }
    }

    #[test]
    fn the_document_has_the_rows_of_the_table() {
        let document = document(ROUTES);
        let paths = document["paths"].as_object().unwrap();
        let documented: usize = paths
            .values()
            .map(|operations| operations.as_object().unwrap().len())
            .sum();
        assert_eq!(documented, ROUTES.len());
        let put = &document["paths"]["/v1/flags/{flag}"]["put"];
        assert_eq!(put["x-permission"], "write");
        assert!(put["responses"]["428"].is_object() && put["responses"]["504"].is_object());
    }
}
