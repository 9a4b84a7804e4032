//! The commands' client of the API, so that operating webhooks needs no access to the database.
//!
//! `XTWEBHOOKS_URL` is the address of the service, `XTWEBHOOKS_API_KEY` the caller's key. Responses are read into the
//! types that the API writes them from; a problem becomes a [`CommandFailure`] with the API's message.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use url::Url;

use super::failure::CommandFailure;
use crate::model::CompanyId;

/// How long a response may take; a test delivery has its webhook's timeout and its wait in the queue in addition.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);
/// How long connecting to the service may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most pages that a command asks for; beyond that, the list must be narrowed.
const PAGES_MAX: usize = 200;

/// The API's address and the caller's credentials.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Remote {
    /// Base URL of the service's API
    #[arg(long, env = "XTWEBHOOKS_URL", value_name = "URL", default_value = "http://127.0.0.1:20437")]
    api_url: Url,
    /// API key of the service; `xtwebhooks keys create` creates the first one
    #[arg(long, env = "XTWEBHOOKS_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: SecretString,
    /// Id of the company, for a key that is valid for several companies
    #[arg(long, value_name = "ID")]
    company: Option<CompanyId>,
}

impl Remote {
    /// A client with these credentials.
    pub(super) fn client(&self) -> Result<ApiClient, CommandFailure> {
        let http = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would send the key to another place.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("xtwebhooks/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CommandFailure::Failed(error.into()))?;
        Ok(ApiClient { http, remote: self.clone() })
    }
}

#[derive(Clone, Debug)]
pub(super) struct ApiClient {
    http: reqwest::Client,
    remote: Remote,
}

/// A successful response.
#[derive(Debug)]
pub(super) struct ApiAnswer<T> {
    pub(super) body: T,
    pub(super) headers: HeaderMap,
}

impl<T> ApiAnswer<T> {
    /// The path of the next page.
    fn next(&self) -> Option<String> {
        let link = self.headers.get(header::LINK)?.to_str().ok()?;
        let (target, _) = link.strip_prefix('<')?.split_once(">; rel=\"next\"")?;
        Some(target.to_owned())
    }
}

impl<T> ApiAnswer<T> {
    /// The cursor of the next page, to be given by hand.
    pub(super) fn cursor(&self) -> Option<String> {
        let next = self.next()?;
        let (_, query) = next.split_once('?')?;
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(name, value)| (name == "cursor").then(|| value.into_owned()))
    }
}

/// What a command reads of a problem.
#[derive(Debug, Deserialize)]
struct ReportedProblem {
    detail: String,
    #[serde(default)]
    errors: Vec<ToldField>,
}

#[derive(Debug, Deserialize)]
struct ToldField {
    field: String,
    message: String,
}

impl ApiClient {
    /// Reads something; `query` holds the parameters after the `?`, and those that are `None` are left out.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<ApiAnswer<T>, CommandFailure> {
        self.ask(Method::GET, &with_query(path, query), None::<&()>, &[]).await
    }

    /// Reads a list to its end, or until it has `rows_max` rows.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<String>)],
        rows_max: usize,
    ) -> Result<Vec<T>, CommandFailure> {
        let mut rows = Vec::new();
        let mut next = Some(with_query(path, query));
        for _ in 0..PAGES_MAX {
            let Some(path) = next else { break };
            let page: ApiAnswer<Vec<T>> = self.ask(Method::GET, &path, None::<&()>, &[]).await?;
            next = page.next();
            rows.extend(page.body);
            if rows.len() >= rows_max {
                rows.truncate(rows_max);
                break;
            }
        }
        Ok(rows)
    }

    /// Creates something, or starts an action.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<ApiAnswer<T>, CommandFailure> {
        self.ask(Method::POST, path, Some(body), &[]).await
    }

    /// Changes something.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<ApiAnswer<T>, CommandFailure> {
        self.ask(Method::PUT, path, Some(body), &[]).await
    }

    /// Deletes something.
    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<ApiAnswer<T>, CommandFailure> {
        self.ask(Method::DELETE, path, None::<&()>, &[]).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        headers: &[(&'static str, String)],
    ) -> Result<ApiAnswer<T>, CommandFailure> {
        let base = self.remote.api_url.as_str().trim_end_matches('/');
        let mut request = self
            .http
            .request(method, format!("{base}{path}"))
            .bearer_auth(self.remote.api_key.expose_secret());
        if let Some(company) = self.remote.company {
            request = request.header(crate::api::access::COMPANY, company.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(error))?;
        if !status.is_success() {
            return Err(failure(status, &bytes));
        }
        let body = serde_json::from_slice(&bytes).map_err(|error| {
            anyhow::Error::from(error).context(
                "the API's response cannot be read; the service may have another version than this command",
            )
        })?;
        Ok(ApiAnswer { body, headers })
    }

    fn unreachable(&self, error: reqwest::Error) -> CommandFailure {
        let url = self.remote.api_url.clone();
        let error = anyhow::Error::from(error.without_url());
        CommandFailure::Unreachable(
            error.context(format!("the API does not answer at {url}; check XTWEBHOOKS_URL")),
        )
    }
}

/// A path followed by its parameters.
fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in query {
        if let Some(value) = value {
            pairs.append_pair(name, value);
        }
    }
    let pairs = pairs.finish();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{pairs}") }
}

/// The API's error as the failure that ends the command.
fn failure(status: StatusCode, body: &[u8]) -> CommandFailure {
    let text = match serde_json::from_slice::<ReportedProblem>(body) {
        Ok(problem) if problem.errors.len() > 1 => problem
            .errors
            .iter()
            .map(|error| format!("`{}`: {}", error.field, error.message))
            .collect::<Vec<_>>()
            .join("; "),
        Ok(problem) => problem.detail,
        Err(_) => format!("the API answered {status}"),
    };
    match status.as_u16() {
        404 => CommandFailure::NotFound(text),
        503 => CommandFailure::Unreachable(anyhow::anyhow!(text)),
        400..500 => CommandFailure::Refused(text),
        _ => CommandFailure::Failed(anyhow::anyhow!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_the_failure_that_says_what_it_said() {
        let check = |status: u16, body: &str, code: &str, text: &str| {
            let failure = failure(StatusCode::from_u16(status).unwrap(), body.as_bytes());
            assert!(format!("{failure:?}").starts_with(code), "{failure:?}");
            assert_eq!(failure.to_string(), text);
        };
        check(404, r#"{"detail":"Webhook not found"}"#, "NotFound", "Webhook not found");
        check(403, r#"{"detail":"this needs the scope admin"}"#, "Refused", "this needs the scope admin");
        let two = r#"{"detail":"x","errors":[{"field":"url","message":"is none"},{"field":"name","message":"is taken"}]}"#;
        check(422, two, "Refused", "`url`: is none; `name`: is taken");
        check(503, r#"{"detail":"the broker is away"}"#, "Unreachable", "the broker is away");
        check(502, "<html>", "Failed", "the API answered 502 Bad Gateway");
    }

    #[test]
    fn what_is_not_asked_for_is_not_in_the_query() {
        let query =
            [("status", Some("dead".to_owned())), ("limit", None), ("event_type", Some("a.*".to_owned()))];
        assert_eq!(with_query("/v1/deliveries", &query), "/v1/deliveries?status=dead&event_type=a.*");
        assert_eq!(with_query("/v1/deliveries", &[("limit", None)]), "/v1/deliveries");
    }
}
