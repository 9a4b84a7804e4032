//! The layers that every request and response passes, the outermost first.
//!
//! ```text
//! request id ─▶ security headers ─▶ counted ─▶ problems written ─▶ panics caught ─▶ CORS ─▶ compressed ─▶ body bound
//!     ─▶ time bound ─▶ access ─▶ handler
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
};
use uuid::Uuid;

use super::{
    access::{self, Operations},
    problem::{Problem, ProblemKind},
    state::Api,
};
use crate::telemetry::labels::StatusClass;

/// The header that names a request, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The largest body of a request without events or schemas, in bytes. Parsed JSON can take fifty times as much memory, so
/// the limit is low.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The longest id that a caller may give its request.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The additional time limit of a test delivery: the longest timeout of a webhook, and the wait for its turn.
pub const TEST_BESIDES: Duration = Duration::from_secs(65);

/// The id of a request, as in the log and in problems.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

/// Puts the layers around the routes.
pub(super) fn around(router: Router, api: &Api, document: &utoipa::openapi::OpenApi) -> Router {
    let operations = Operations::of(document);
    let fixed = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    let router = router
        .fallback(async || {
            Problem::not_found("nothing exists at this path; /v1/openapi.json lists all paths")
        })
        .layer(from_fn_with_state((Arc::clone(&api.access), operations), access::admit))
        .layer(from_fn_with_state(api.config.api_request_timeout, in_time))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CompressionLayer::new());
    // The layer answers every OPTIONS request as a preflight request. If no origin is allowed, the method does not exist.
    let router = if api.config.api_cors_origins.is_empty() { router } else { router.layer(cors(api)) };
    router
        .layer(CatchPanicLayer::custom(|_panic| {
            // The panic's own line is in the log.
            Problem::new(
                ProblemKind::Internal,
                "an internal error occurred; the service's log has the details under the request id",
            )
            .into_response()
        }))
        .layer(from_fn(write_problems))
        .layer(from_fn_with_state(api.clone(), count))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::X_FRAME_OPTIONS, "DENY"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(from_fn(name))
}

/// Gives the request its id: the caller's if it is valid, else a new one.
async fn name(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |id: &&str| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_BYTES_MAX
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
    };
    let id = given.filter(usable).map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = tracing::info_span!("request", request_id = id, method = %request.method(), path = request.uri().path());
    let mut response = tracing::Instrument::instrument(next.run(request), span).await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Counts responses by route and class of status, and their duration. Requests without a route are counted as `none`;
/// otherwise a stranger could create a series for any path.
async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let method = known(request.method());
    let began = Instant::now();
    let response = next.run(request).await;
    let class = StatusClass::of(response.status().as_u16());
    api.parts.metrics.api_request(route.as_deref().unwrap_or("none"), method, class, began.elapsed());
    response
}

/// A method as it is counted: an unknown one must not create a series of its own.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Writes problems with the id of the request, including those that no handler made.
async fn write_problems(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().map(|id| id.0.clone());
    let is_head = request.method() == Method::HEAD;
    let response = next.run(request).await;
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let problem = response.extensions().get::<Problem>().cloned().or_else(|| of_status(status));
    let Some(problem) = problem else { return response };
    let mut written = problem.write(id.as_deref());
    for (name, value) in response.headers() {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH, header::CONTENT_ENCODING].contains(name)
            && !written.headers().contains_key(name)
        {
            written.headers_mut().append(name.clone(), value.clone());
        }
    }
    if is_head {
        *written.body_mut() = Body::empty();
    }
    written
}

/// The problem for a status that axum or a layer responds with.
fn of_status(status: StatusCode) -> Option<Problem> {
    Some(match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(ProblemKind::MethodNotAllowed, "the path does not support this method")
        }
        StatusCode::NOT_FOUND => Problem::not_found("nothing exists at this path"),
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(ProblemKind::TooLarge, "the body is larger than the limit")
        }
        status if status.is_server_error() => {
            Problem::new(ProblemKind::Internal, "an internal error occurred")
        }
        _ => return None,
    })
}

/// Ends a request that takes too long, its body included.
async fn in_time(State(timeout): State<Duration>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let is_test = path.is_some_and(|path| path.as_str().ends_with("/test"));
    let timeout = if is_test { timeout + TEST_BESIDES } else { timeout };
    tokio::time::timeout(timeout, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("the request took longer than {}", humantime::format_duration(timeout));
        Problem::new(ProblemKind::Timeout, detail).into_response()
    })
}

/// Which origins may call from a browser: those of the setting, none by default. Cookies are not accepted, so a page can
/// only use its own credentials.
fn cors(api: &Api) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(api.config.api_cors_origins.iter().cloned()))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("x-company-id"),
            REQUEST_ID,
        ])
        .expose_headers([
            header::ETAG,
            header::LINK,
            header::RETRY_AFTER,
            HeaderName::from_static(super::pagination::TOTAL_COUNT),
            REQUEST_ID,
        ])
        .max_age(Duration::from_hours(1))
}
