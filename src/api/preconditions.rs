//! `ETag` and `If-Match`: a change that names a state is made only to that state (RFC 9110, section 13).

use std::fmt::Display;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, header, request::Parts},
};

use super::problem::{Problem, ProblemKind};

/// The header that names a state.
#[must_use]
pub fn etag(version: impl Display) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{version}\"")) {
        headers.insert(header::ETAG, value);
    }
    headers
}

/// The states that a change may be made to; any where the caller does not say.
#[derive(Clone, Debug, Default)]
pub struct IfMatch(Vec<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let given = head.headers.get_all(header::IF_MATCH).iter();
        // What is no text is no state of ours, and so matches none.
        let texts = given.flat_map(|value| value.to_str().unwrap_or("?").split(','));
        Ok(Self(texts.map(|text| text.trim().to_owned()).collect()))
    }
}

impl IfMatch {
    /// Fails where the state is none of those.
    ///
    /// # Errors
    /// [`ProblemKind::Changed`].
    pub fn holds(&self, version: impl Display) -> Result<(), Problem> {
        let version = version.to_string();
        // A proxy that compresses answers makes our strong tags weak ones; they name the same state.
        let named = |tag: &String| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag == "*" || tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(&version)
        };
        if self.0.is_empty() || self.0.iter().any(named) {
            Ok(())
        } else {
            Err(Problem::new(
                ProblemKind::Changed,
                "the resource has changed since the state named by If-Match; read it again",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_made_to_the_state_that_was_seen_and_to_no_other() {
        let check = async |given: &[&'static str], holds: bool| {
            let mut request = axum::http::Request::new(());
            for value in given {
                request.headers_mut().append(header::IF_MATCH, HeaderValue::from_static(value));
            }
            let (mut head, ()) = request.into_parts();
            let condition = IfMatch::from_request_parts(&mut head, &()).await.unwrap();
            assert_eq!(condition.holds("742").is_ok(), holds, "{given:?}");
        };
        check(&[], true).await;
        check(&["*"], true).await;
        check(&["\"742\""], true).await;
        check(&["W/\"742\""], true).await;
        check(&["\"1\", \"742\""], true).await;
        check(&["\"1\"", "\"742\""], true).await;
        check(&["\"741\""], false).await;
        check(&["742"], false).await;
        check(&[""], false).await;
        assert_eq!(etag("742")[header::ETAG], "\"742\"");
    }
}
