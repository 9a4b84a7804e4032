//! Errors as callers see them: problems of a closed list of kinds (RFC 9457).
//!
//! A handler returns a [`Problem`]; `layers` writes it with the id of the request. Internal errors are logged and never
//! disclosed. `type` links to the page that explains the kind.

use std::{borrow::Cow, fmt, time::Duration};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub(crate) use crate::model::fields::FieldError;
use crate::{model::fields::Invalid, store};

/// The kinds of problems: the last part of the URL, the status, the title, and advice for the caller.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $word:literal, $status:ident, $title:literal, $advice:literal;)+) => {
        /// A kind of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $($(#[$doc])* $kind),+ }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind),+];

            /// The last part of its URL.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$kind => $word),+ }
            }

            /// The status that it is answered with.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status),+ }
            }

            /// The same for every problem of the kind.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title),+ }
            }

            /// Advice for the caller.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$kind => $advice),+ }
            }
        }
    };
}

kinds! {
    /// The request cannot be read at all.
    Malformed = "malformed", BAD_REQUEST, "Malformed request",
        "Send a body of valid JSON, and headers and parameters as the operation describes them.";
    /// The request does not say which company is meant.
    CompanyRequired = "company-required", BAD_REQUEST, "Company required",
        "The credentials are valid for several companies. Name one in the header X-Company-Id.";
    /// No credentials, or invalid ones.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "Authentication required",
        "Send `Authorization: Bearer` with an API key of this service or a token that it accepts. The key may have expired or been revoked.";
    /// The caller is known but lacks the permission.
    Forbidden = "forbidden", FORBIDDEN, "Forbidden",
        "The detail names the missing scope, or says that the credentials are not valid for the company. Ask the person who issued them.";
    /// It does not exist, or not in this company; callers cannot tell the two apart.
    NotFound = "not-found", NOT_FOUND, "Not found",
        "Check that the id is correct and belongs to your company.";
    /// The path does not support the method.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed",
        "The header Allow lists the methods of this path.";
    /// The caller was too slow, or the request took too long.
    Timeout = "timeout", REQUEST_TIMEOUT, "Request timeout",
        "Try again. Ask for less, or send the request faster.";
    /// The name is taken, or the state of the object does not allow the request.
    Conflict = "conflict", CONFLICT, "Conflict",
        "The detail says what the request conflicts with.";
    /// The object was changed since the state named by `If-Match`.
    Changed = "changed", PRECONDITION_FAILED, "Precondition failed",
        "Read the resource again, and send the change with its current ETag in If-Match.";
    /// The body is larger than the limit.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "Payload too large",
        "Send less in one request. The setting API_BODY_BYTES_MAX limits the size.";
    /// The content type of the body is not JSON.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type",
        "Send JSON with the header Content-Type: application/json.";
    /// The request is well-formed, but some fields are not valid.
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "Validation failed",
        "`errors` lists every invalid field and says what it must be.";
    /// Too many requests, or too many failures.
    TooManyRequests = "too-many-requests", TOO_MANY_REQUESTS, "Too many requests",
        "Wait for the time that Retry-After gives, then try again.";
    /// An error of the service.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal server error",
        "Report the request id to the operator of the service. The log has the details under this id.";
    /// The database or the broker cannot be reached.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Service unavailable",
        "Try again after the time that Retry-After gives. Unless the detail says otherwise, nothing was changed.";
}

/// Where the pages that explain the kinds are.
pub const PROBLEMS_PATH: &str = "/v1/problems";

/// The media type of problems.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// How long a caller waits after a 503 by default.
pub const UNAVAILABLE_FOR: Duration = Duration::from_secs(5);

/// A problem, on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    extensions: Map<String, Value>,
    retry_after: Option<Duration>,
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody<'a> {
    /// A page that explains this kind of problem.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/v1/problems/not-found")]
    pub uri: String,
    /// The title of the kind; the same for every problem of this kind.
    pub title: &'a str,
    /// The HTTP status of the response.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What went wrong with this request, for a human reader.
    pub detail: &'a str,
    /// The id of the request. The service's log has the same id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// Every invalid field.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    pub errors: &'a [FieldError],
}

/// A body with the extension members (section 3.2) of an operation, which the operation's file describes.
#[derive(Debug, Serialize)]
struct Extended<'a> {
    #[serde(flatten)]
    body: ProblemBody<'a>,
    #[serde(flatten)]
    extensions: &'a Map<String, Value>,
}

impl Problem {
    /// A problem of a kind, with what went wrong this time.
    pub fn new(kind: ProblemKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), extensions: Map::new(), retry_after: None }
    }

    /// It does not exist: `Webhook not found`, as in the guide.
    pub fn not_found(detail: &'static str) -> Self {
        Self::new(ProblemKind::NotFound, detail)
    }

    /// Invalid fields. The detail describes the first, for callers that read only the detail.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => "the request is not valid".to_owned(),
            [one] => format!("`{}`: {}", one.field, one.message),
            [first, rest @ ..] => format!("`{}`: {} (and {} more)", first.field, first.message, rest.len()),
        };
        Self { errors, ..Self::new(ProblemKind::Invalid, detail) }
    }

    /// One field that is wrong.
    pub fn field(field: impl Into<Cow<'static, str>>, message: impl fmt::Display) -> Self {
        Self::invalid(vec![FieldError::new(field, message)])
    }

    /// Something that this service depends on cannot be reached.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ProblemKind::Unavailable, detail).after(UNAVAILABLE_FOR)
    }

    /// An internal error. The caller learns that it occurred; the log has the details.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        let sources = std::iter::successors(error.source(), |error| error.source());
        let chain: Vec<String> = sources.map(ToString::to_string).collect();
        tracing::error!(%error, sources = chain.join(": "), "a request could not be answered");
        Self::new(
            ProblemKind::Internal,
            "an internal error occurred; the service's log has the details under the request id",
        )
    }

    /// When to try again.
    #[must_use]
    pub fn after(self, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..self }
    }

    /// With an extension: an additional member of this name.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.extensions.insert(name.to_owned(), value);
        self
    }

    #[must_use]
    pub const fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What happened this time.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The answer, with the id of the request.
    pub(super) fn write(&self, request_id: Option<&str>) -> Response {
        let body = ProblemBody {
            uri: format!("{PROBLEMS_PATH}/{}", self.kind.word()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
        };
        let text = serde_json::to_string(&Extended { body, extensions: &self.extensions })
            .expect("texts and numbers always make JSON");
        let mut response = (self.kind.status(), [(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response();
        let headers = response.headers_mut();
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up.
            let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == ProblemKind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.write(None);
        // `layers` writes it again, with the id of the request.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Invalid> for Problem {
    fn from(Invalid(errors): Invalid) -> Self {
        Self::invalid(errors)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        match &error {
            E::NameTaken => Self {
                errors: vec![FieldError::new("name", "is taken by another webhook of this company")],
                ..Self::new(ProblemKind::Conflict, error.to_string())
            },
            E::Refused { field, reason } => Self::field(*field, reason),
            E::Unreachable(_) | E::NotLetIn(_) => {
                tracing::warn!(%error, "a request could not be answered");
                Self::unavailable("the database cannot be reached at the moment")
            }
            E::Database(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("57014") => {
                Self::new(ProblemKind::Timeout, "the query took too long; narrow it")
            }
            // A text with a NUL: JSON can hold one, PostgreSQL cannot.
            E::Database(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("22021") => {
                Self::new(
                    ProblemKind::Malformed,
                    "a string in the request has a character that cannot be stored, such as U+0000",
                )
            }
            // A time that the parser accepts and PostgreSQL does not, for example in a forged cursor.
            E::Database(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some("22008") => {
                Self::new(
                    ProblemKind::Malformed,
                    "a time in the request is out of the range that can be stored",
                )
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        store::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_kinds_has_every_address_once() {
        let words: std::collections::HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), ProblemKind::ALL.len());
        assert!(
            ProblemKind::ALL.iter().all(|kind| kind.status().as_u16() >= 400 && !kind.advice().is_empty())
        );
    }

    #[test]
    fn the_detail_names_the_first_field_and_says_how_many_more_there_are() {
        let check = |errors: &[&str], expected: &str| {
            let errors = errors.iter().map(|&field| FieldError::new(field.to_owned(), "is odd")).collect();
            assert_eq!(Problem::invalid(errors).detail, expected);
        };
        check(&["url"], "`url`: is odd");
        check(&["url", "name", "events"], "`url`: is odd (and 2 more)");
    }

    #[test]
    fn what_broke_inside_is_not_told() {
        let error = store::Error::Database(sqlx::Error::Protocol("password of the ledger".to_owned()));
        let problem = Problem::from(error);
        assert_eq!(problem.kind(), ProblemKind::Internal);
        assert!(!problem.detail.contains("password"), "{}", problem.detail);
    }
}
