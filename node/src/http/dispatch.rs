//! From the route table to an axum router, and one request from its head to its answer.
//!
//! Order: find the row (path, action, method); read path and query; read the body within its bound;
//! run the handler; stamp the answer. A panic in a handler becomes a 500 and ends nothing else.
//!
//! What must hold: whatever comes in, what goes out is an answer of this surface: axum only
//! matches paths, and none of its own rejections is ever sent.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;

use super::App;
use super::answer::Answer;
use super::bare::Switch;
use super::call::Call;
use super::parse;
use super::problem::{Problem, Slug};
use super::route::{Route, Verb};

/// Longest wait for a whole request body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a body that is not wanted, at most.
const UNWANTED_BODY_LEN_MAX: usize = 1024;

/// Bytes of a body beyond its limit that are read and forgotten, so that the answer is heard.
const DISCARDED_LEN_MAX: usize = 64 << 20;

/// The rows of one path.
type Rows = Arc<[&'static Route]>;

/// Makes the router of a table.
pub(crate) fn router(table: &'static [Route], app: Arc<App>) -> axum::Router {
    let mut paths: BTreeMap<String, Vec<&'static Route>> = BTreeMap::new();
    for route in table {
        paths
            .entry(pattern(route.action().0))
            .or_default()
            .push(route);
    }
    let mut router = axum::Router::new();
    for (pattern, rows) in paths {
        let (app, rows): (_, Rows) = (app.clone(), rows.into());
        router = router.route(
            &pattern,
            any(move |request| serve(app.clone(), rows.clone(), request)),
        );
    }
    router.fallback(move |request: Request| {
        let app = app.clone();
        async move {
            Problem::unknown_path(request.uri().path())
                .into_answer()
                .into_response(&app)
        }
    })
}

/// The template with the same name at the same place of every path, as axum wants it.
fn pattern(template: &str) -> String {
    let parts = template
        .split('/')
        .enumerate()
        .map(|(at, part)| match part.starts_with('{') {
            true => format!("{{p{at}}}"),
            false => part.to_owned(),
        });
    parts.collect::<Vec<_>>().join("/")
}

async fn serve(app: Arc<App>, rows: Rows, request: Request) -> Response {
    let head = request.method() == Method::HEAD;
    let answered = AssertUnwindSafe(answer(app.clone(), &rows, request))
        .catch_unwind()
        .await;
    let answer = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(problem)) => problem.into_answer(),
        Err(panic) => Problem::internal(&format!(
            "a handler panicked: {}",
            panic_text(panic.as_ref())
        ))
        .into_answer(),
    };
    let mut response = answer.into_response(&app);
    if head {
        // The headers of a GET without its body; a stream that was opened for it ends here.
        let length = http_body::Body::size_hint(response.body()).exact();
        if let Some(length) = length {
            response
                .headers_mut()
                .insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = Body::empty();
    }
    response
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

async fn answer(
    app: Arc<App>,
    rows: &[&'static Route],
    request: Request,
) -> Result<Answer, Problem> {
    let (mut parts, body) = request.into_parts();
    let switch = parts.extensions.remove::<Switch>();
    let path = parts.uri.path();
    let (rows, segments) = rows_of(rows, path).ok_or_else(|| Problem::unknown_path(path))?;
    let allow = allowed(&rows);
    if parts.method == Method::OPTIONS {
        let allow =
            HeaderValue::from_str(&allow).map_err(|why| Problem::internal(&why.to_string()))?;
        return Ok(Answer::empty(StatusCode::NO_CONTENT).header(ALLOW, allow));
    }
    let wanted = if parts.method == Method::HEAD {
        "GET"
    } else {
        parts.method.as_str()
    };
    let Some(route) = rows.iter().find(|route| route.method.as_str() == wanted) else {
        return Err(Problem::method_not_allowed(parts.method.as_str(), &allow));
    };
    check_site(route, &parts.headers)?;
    let query = parts.uri.query().unwrap_or_default();
    let mut call = Call::read(app, route, &segments, query, parts.headers.clone())?;
    call.switch = switch.filter(|_| parts.method == Method::GET);
    if route.method != Verb::Get {
        call.body = read_body(route, &parts.headers, body).await?;
    }
    (route.handler)(call).await
}

/// The rows that a path fits, and what stands for the template's names. The action of
/// `…/{flag}:enable` is what follows the last colon.
fn rows_of<'a>(
    rows: &[&'static Route],
    path: &'a str,
) -> Option<(Vec<&'static Route>, Vec<&'a str>)> {
    let action = |route: &Route| route.action().1;
    let (stem, given) = match path.rsplit_once(':') {
        Some((stem, given)) if rows.iter().any(|route| action(route) == Some(given)) => {
            (stem, Some(given))
        }
        _ => (path, None),
    };
    let rows: Vec<_> = rows
        .iter()
        .copied()
        .filter(|route| action(route) == given)
        .collect();
    let template = rows.first()?.action().0;
    let pairs = template.split('/').zip(stem.split('/'));
    let segments: Vec<_> = pairs
        .filter(|(part, _)| part.starts_with('{'))
        .map(|(_, segment)| segment)
        .collect();
    // An action alone leaves no key.
    (!segments.iter().any(|segment| segment.is_empty())).then_some((rows, segments))
}

fn allowed(rows: &[&'static Route]) -> String {
    let mut methods: Vec<&str> = rows.iter().map(|route| route.method.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.push("OPTIONS");
    methods.join(", ")
}

/// Browsers say when a page of another site makes a request. Such a page must not change anything
/// through the browser of somebody who reaches this node, which may ask for no token (I12).
fn check_site(route: &Route, headers: &HeaderMap) -> Result<(), Problem> {
    let cross_site = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if cross_site && route.is_change() {
        return Err(Problem::new(
            Slug::Forbidden,
            "a page of another site may not write; write from the command line, a program, or a page of this node",
        ));
    }
    Ok(())
}

async fn read_body(route: &Route, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let max = route.body.map_or(UNWANTED_BODY_LEN_MAX, |body| body.max);
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    // Who asks before sending is told before sending.
    if announced.is_some_and(|length| length > max as u64) && headers.contains_key(EXPECT) {
        return Err(Problem::too_large(max));
    }
    let body = tokio::time::timeout(BODY_WAIT_MAX, take_body(body, max))
        .await
        .map_err(|_| {
            Problem::new(
                Slug::RequestTimeout,
                "the request body did not arrive in time; send the request again",
            )
        })??;
    match route.body {
        Some(_) => check_content_type(headers)?,
        None if !matches!(body.trim_ascii(), b"" | b"{}") => {
            let fault = pennon_evaluator::Fault::new("", "this path takes no body; send none");
            return Err(Problem::faults(&[fault]));
        }
        None => {}
    }
    Ok(body)
}

/// Takes a body up to its limit. A longer one is read on without being kept, as far as
/// [`DISCARDED_LEN_MAX`]: many callers look for an answer only after they have sent everything.
async fn take_body(mut body: Body, max: usize) -> Result<Bytes, Problem> {
    let mut taken = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|why| {
            let detail = format!("the request body broke off ({why}); send the request again");
            Problem::new(Slug::RequestTimeout, detail)
        })?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length += piece.len();
        if length <= max {
            taken.extend_from_slice(&piece);
        } else if length > max.saturating_add(DISCARDED_LEN_MAX) {
            break;
        }
    }
    if length > max {
        return Err(Problem::too_large(max));
    }
    Ok(taken.freeze())
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    match given {
        Some(given) if !parse::is_json(given) => {
            let detail =
                format!("the body is declared as {given:?}; send Content-Type: application/json");
            Err(Problem::new(Slug::UnsupportedMediaType, detail))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::route::{self, Conditions, Gives, Permission};
    use tower::ServiceExt;

    const fn row(method: Verb, path: &'static str, handler: route::Handler) -> Route {
        Route {
            method,
            path,
            permission: Permission::Public,
            operation: "test",
            tag: "test",
            summary: "test",
            body: Some(route::Body {
                schema: "Test",
                max: 10,
            }),
            query: &[],
            min_version: false,
            conditions: Conditions::Nothing,
            gives: Gives::Text,
            errors: &[],
            handler,
        }
    }

    static TABLE: &[Route] = &[
        row(Verb::Get, "/panic", |_| {
            Box::pin(async { panic!("on purpose") })
        }),
        row(Verb::Post, "/echo/{key}", |call| {
            let text = format!(
                "{} {}",
                call.segment("key").unwrap_or_default(),
                String::from_utf8_lossy(&call.body)
            );
            Box::pin(async move { Ok(Answer::text(StatusCode::OK, "text/plain", text)) })
        }),
        row(Verb::Post, "/echo/{key}:shout", |_| {
            Box::pin(async { Ok(Answer::empty(StatusCode::ACCEPTED)) })
        }),
    ];

    async fn send(method: Method, path: &str, body: Body) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(body)
            .unwrap();
        let response = router(TABLE, Arc::new(App::new("n".into())))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.headers()["pennon-node"], "n");
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_answered() {
        let (status, body) = send(Method::GET, "/panic", Body::empty()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(
            body.contains("/problems/internal") && !body.contains("on purpose"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_bounded_too() {
        let chunks = |count: usize| {
            let chunk = |_| Ok::<_, std::io::Error>(Bytes::from_static(b"12345"));
            Body::from_stream(futures_util::stream::iter((0..count).map(chunk)))
        };
        assert_eq!(
            send(Method::POST, "/echo/k", chunks(2)).await,
            (StatusCode::OK, "k 1234512345".into())
        );
        let (status, body) = send(Method::POST, "/echo/k", chunks(3)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
        let broken = Body::from_stream(futures_util::stream::iter([Err::<Bytes, _>(
            std::io::Error::other("cut"),
        )]));
        assert_eq!(
            send(Method::POST, "/echo/k", broken).await.0,
            StatusCode::REQUEST_TIMEOUT
        );
    }

    #[tokio::test]
    async fn keys_and_actions_are_told_apart_at_the_last_colon() {
        let post = async |path: &str| send(Method::POST, path, Body::empty()).await;
        assert_eq!(
            post("/echo/a:b%2Fc").await,
            (StatusCode::OK, "a:b/c ".into())
        );
        assert_eq!(post("/echo/a:b:shout").await.0, StatusCode::ACCEPTED);
        assert_eq!(
            post("/echo/a%3Ashout").await,
            (StatusCode::OK, "a:shout ".into())
        );
        assert_eq!(post("/echo/:shout").await.0, StatusCode::NOT_FOUND);
        assert_eq!(post("/echo/a%zz").await.0, StatusCode::BAD_REQUEST);
    }
}
