//! Extractors for handlers. Each fails with a problem that names the field.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use serde::de::DeserializeOwned;

use super::problem::{Problem, ProblemKind};

/// A JSON body. Its content type must be JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        is_json(request.headers())?;
        let bytes = body(request, state).await?;
        from_json(&bytes).map(Self)
    }
}

/// A JSON object, as bytes and parsed, for handlers that read it field by field.
#[derive(Debug, Default)]
pub struct Object {
    /// As it came.
    pub bytes: Bytes,
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl<S: Send + Sync> FromRequest<S> for Object {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        is_json(request.headers())?;
        let bytes = body(request, state).await?;
        let fields = from_json(&bytes)?;
        Ok(Self { bytes, fields })
    }
}

/// The same, or no body at all.
#[derive(Debug, Default)]
pub struct OptionalObject(pub Object);

impl<S: Send + Sync> FromRequest<S> for OptionalObject {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let media_type = is_json(request.headers());
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        media_type?;
        let fields = from_json(&bytes)?;
        Ok(Self(Object { bytes, fields }))
    }
}

/// The bytes of a body, bounded by `API_BODY_BYTES_MAX`.
pub async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        match axum::response::IntoResponse::into_response(rejection).status() {
            axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                Problem::new(ProblemKind::TooLarge, "the body is larger than the limit")
            }
            _ => Problem::new(ProblemKind::Malformed, "the body ended before its announced length"),
        }
    })
}

/// Fails where a content type is given that is not JSON.
pub fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let kind = given.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind {
        None => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the Content-Type header is missing; send application/json",
        )),
        Some(kind)
            if kind == "application/json"
                || (kind.starts_with("application/") && kind.ends_with("+json")) =>
        {
            Ok(())
        }
        Some(kind) => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            format!("the Content-Type is `{kind}`; it must be application/json"),
        )),
    }
}

/// A value from JSON, or the problem that names the field.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Every body that is read so is an object; serde would also take an array with the fields in their order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| {
            Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON: {error}"))
        })?;
        return Err(Problem::field("body", "must be an object, not an array"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer);
    let value = value.map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() && path != "." {
            Problem::field(path, reason(&inner))
        } else if inner.is_data() {
            Problem::field("body", reason(&inner))
        } else {
            Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON: {inner}"))
        }
    })?;
    deserializer.end().map_err(|error| {
        Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON: {error}"))
    })?;
    Ok(value)
}

/// The message of serde, without the position, which the path already gives.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// The parameters behind the `?`. Lists are separated by commas.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let deserializer = serde_urlencoded::Deserializer::new(pairs);
        let value = serde_path_to_error::deserialize(deserializer);
        value.map(Self).map_err(|error| {
            let (path, inner) = (error.path().to_string(), error.inner().to_string());
            if path == "." { Problem::field("query", inner) } else { Problem::field(path, inner) }
        })
    }
}

/// An id in the path.
pub trait Named: std::str::FromStr {
    /// The detail if it does not exist, as in the guide.
    const NOT_FOUND: &'static str;
}

/// The id in the path. An invalid id gets the same response as an unknown one.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

impl<S: Send + Sync, T: Named> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let not_found = || Problem::not_found(T::NOT_FOUND);
        let text = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let axum::extract::Path(text) = text.map_err(|_| not_found())?;
        text.parse().map(Self).map_err(|_| not_found())
    }
}

impl Named for crate::model::WebhookId {
    const NOT_FOUND: &'static str = "Webhook not found";
}

impl Named for crate::model::EventId {
    const NOT_FOUND: &'static str = "Event not found";
}

impl Named for crate::model::DeliveryId {
    const NOT_FOUND: &'static str = "Delivery not found";
}

impl Named for crate::model::ReplayId {
    const NOT_FOUND: &'static str = "Replay not found";
}

impl Named for crate::model::CompanyId {
    const NOT_FOUND: &'static str = "Company not found";
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(rename = "list")]
        _list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(rename = "n")]
        _n: u8,
    }

    #[test]
    fn a_field_that_is_wrong_is_named_with_its_place() {
        let check = |body: &str, kind: ProblemKind, expected: &str| {
            let problem = from_json::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind(), kind, "{body}");
            assert!(format!("{problem:?}").contains(expected), "{problem:?}");
        };
        check(r#"{"list":[{"n":1},{"n":300}]}"#, ProblemKind::Invalid, "list[1].n");
        check("{}", ProblemKind::Invalid, "missing field `list`");
        check(r#"{"list":"#, ProblemKind::Malformed, "not valid JSON");
        check(r#"{"list":[]} 1"#, ProblemKind::Malformed, "trailing");
        check("", ProblemKind::Malformed, "not valid JSON");
        check(" [[]]", ProblemKind::Invalid, "must be an object");
        check("[[", ProblemKind::Malformed, "not valid JSON");
    }

    #[test]
    fn what_is_not_json_by_its_own_word_is_refused() {
        let check = |given: Option<&'static str>, taken: bool| {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            }
            assert_eq!(is_json(&headers).is_ok(), taken, "{given:?}");
        };
        check(Some("application/json"), true);
        check(Some("Application/JSON; charset=utf-8"), true);
        check(Some("application/problem+json"), true);
        check(Some("text/plain"), false);
        check(None, false);
    }
}
