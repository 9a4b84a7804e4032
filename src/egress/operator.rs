//! The operator's own services: those that sign tokens and know users.
//!
//! Their addresses come from the settings and not from customers, so they are not guarded: they may well be private.
//! Everything else is bounded: the whole call in time, its answer in bytes. No redirect is followed, because a token
//! must not be sent on to an address that someone else chose.

use std::time::Duration;

use http::{HeaderValue, header};
use url::Url;

use super::{Config, Error, tls};

/// How long a call may take, from resolving the name to the last byte of the answer.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of it connecting may take.
const ASK_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer that is read, in bytes: thousands of companies, or hundreds of keys.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Idle connections kept to each service.
const IDLE_PER_SERVICE_MAX: usize = 8;

/// Why there is no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It answered with another status than 2xx.
    #[error("it answered {0}")]
    Status(u16),
    /// The answer is too large.
    #[error("its answer is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// It did not answer, or not completely, in time.
    #[error("it did not answer within {} s", ASK_TIMEOUT.as_secs())]
    TimedOut,
    /// It cannot be reached, or the connection broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
}

/// Calls the operator's own services; cheap to clone.
#[derive(Clone, Debug)]
pub struct OperatorClient {
    http: reqwest::Client,
}

impl OperatorClient {
    /// A client that trusts the same authorities as for receivers.
    ///
    /// # Errors
    /// When the file of additional authorities cannot be read.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(config)?.as_ref().clone())
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ASK_TIMEOUT)
            .connect_timeout(ASK_CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_SERVICE_MAX)
            .user_agent(concat!("xtwebhooks/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Operator(innermost(&error)))?;
        Ok(Self { http })
    }

    /// Gets a URL, on behalf of the owner of the token.
    ///
    /// # Errors
    /// When the answer is not 2xx, too large, too late, or missing.
    pub async fn get(&self, url: &Url, token: Option<&str>) -> Result<Vec<u8>, AskError> {
        let mut request = self.http.get(url.clone()).header(header::ACCEPT, "application/json");
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|error| AskError::Unreachable(error.to_string()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let mut response = request.send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(AskError::Status(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(failed)? {
            if answer.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(AskError::TooLarge);
            }
            answer.extend_from_slice(&part);
        }
        Ok(answer)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
fn failed(error: reqwest::Error) -> AskError {
    if error.is_timeout() { AskError::TimedOut } else { AskError::Unreachable(innermost(&error)) }
}

/// The innermost reason; the outer ones only say that something failed, and name an address that may hold a password.
fn innermost(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    match reason.downcast_ref::<reqwest::Error>() {
        Some(_) => "the request failed".to_owned(),
        None => reason.to_string(),
    }
}
