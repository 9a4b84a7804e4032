//! `Idempotency-Key`: a repeated request takes effect once and gets the same response.
//!
//! ```text
//! let mut tx = api.parts.changes.begin().await?;
//! let claim = match key.claim(&mut tx, &caller, company, &body).await? {
//!     Claimed::Again(answer) => return Ok(answer),
//!     Claimed::First(claim) => claim,
//! };
//! let made = …;                                        // in the same transaction
//! let answer = claim.keep(&mut tx, StatusCode::OK, &made).await?;
//! tx.commit().await?;
//! Ok(answer)
//! ```
//!
//! Key, change and response are one transaction: a second request with the key waits until the first has ended. A failed
//! request is not remembered, so it can be tried again with the same key. Two requests are the same if the caller, the
//! operation and the bytes of the body are the same. A key is kept for 24 hours ([`idempotency_keys::KEPT`]).

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{access::Caller, problem::Problem};
use crate::{model::CompanyId, store::idempotency_keys};

pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// The key of a request, if it has one.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    key: Option<String>,
    /// Method and path.
    operation: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let key = head.headers.get(&IDEMPOTENCY_KEY).map(read).transpose()?;
        Ok(Self { key, operation: format!("{} {}", head.method, head.uri.path()) })
    }
}

fn read(value: &HeaderValue) -> Result<String, Problem> {
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(key.to_owned()),
        _ => Err(Problem::field(
            "Idempotency-Key",
            format!("must have 1 to {KEY_BYTES_MAX} visible ASCII characters"),
        )),
    }
}

impl IdempotencyKey {
    /// The key, if the request has one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// The content of a request whose bytes are no longer available.
///
/// # Errors
/// Never: a value read from JSON can be written as JSON.
pub fn request_bytes(body: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(body).map_err(|error| Problem::internal(&error))
}

/// What a key is used for.
#[derive(Debug)]
pub enum KeyClaim {
    /// Nothing yet: the request must be executed.
    First(Claim),
    /// A request that was already executed, with its response.
    Again(Response),
}

/// The key of the current request, if it has one.
#[derive(Debug)]
pub struct Claim(Option<(Uuid, String)>);

impl IdempotencyKey {
    /// Claims the key for this request with this body.
    ///
    /// # Errors
    /// If the key was used for a different request.
    pub async fn claim(
        self,
        tx: &mut PgConnection,
        caller: &Caller,
        company: Option<CompanyId>,
        body: &[u8],
    ) -> Result<KeyClaim, Problem> {
        let Some(key) = self.key else { return Ok(KeyClaim::First(Claim(None))) };
        // A request for no company uses the nil id.
        let company = company.map_or(Uuid::nil(), CompanyId::uuid);
        let mut hash = Sha256::new();
        for part in [caller.actor.as_bytes(), self.operation.as_bytes(), body] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hash = hash.finalize();
        let Some(known) = idempotency_keys::claim(tx, company, &key, &hash).await? else {
            return Ok(KeyClaim::First(Claim(Some((company, key)))));
        };
        if known.request_sha256.as_slice() != &hash[..] {
            return Err(Problem::field(
                "Idempotency-Key",
                "was already used for a different request; use a new key",
            ));
        }
        let status = known.status.and_then(|status| StatusCode::from_u16(u16::try_from(status).ok()?).ok());
        Ok(KeyClaim::Again(answer(status.unwrap_or(StatusCode::OK), known.body.unwrap_or_default())))
    }
}

impl Claim {
    /// Stores the response under the key, and returns it.
    ///
    /// # Errors
    /// If the ledger does not accept it.
    pub async fn keep(
        self,
        tx: &mut PgConnection,
        status: StatusCode,
        shape: &impl Serialize,
    ) -> Result<Response, Problem> {
        let body = serde_json::to_string(shape).map_err(|error| Problem::internal(&error))?;
        if let Some((company, key)) = self.0 {
            idempotency_keys::keep(tx, company, &key, status.as_u16().into(), &body).await?;
        }
        Ok(answer(status, body))
    }
}

fn answer(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response()
}
