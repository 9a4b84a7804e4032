//! API keys of this service: `xtwh_` + 8 characters that name the key + `_` + 43 characters of its secret.
//!
//! The secret is 256 bits of the system's randomness, so storing its SHA-256 is enough: it cannot be guessed, and a slow
//! hash would only slow down each call. The name is looked up, the digest is compared in constant time.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use moka::future::Cache;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq;

use super::{Grant, Principal, Scopes};
use crate::{
    api::problem::{Problem, ProblemKind},
    clock::SystemClock,
    model::CompanyId,
    store::api_keys,
};

/// The prefix of every key, by which scanners for leaked secrets recognize it.
pub const KEY_PREFIX: &str = "xtwh_";

const SECRET_BYTES: usize = 32;
/// Characters that name a key.
const NAME_CHARS: usize = 8;

/// How long after a recorded use of a key the next one is not recorded.
const USED_FOR: Duration = Duration::from_mins(1);
/// The maximum number of keys whose last use is remembered; for others, each use a minute after the last is recorded.
const USED_MAX: u64 = 10_000;

/// A new key: shown once, and stored as a digest.
pub struct ApiKey {
    /// The characters that name it.
    pub id: String,
    /// The whole text.
    pub text: SecretString,
    /// What is kept.
    pub sha256: [u8; 32],
}

impl ApiKey {
    /// A new key.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give, which no system we run on does.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).expect("the operating system has a source of randomness");
        let mut name = [0; NAME_CHARS / 2];
        getrandom::fill(&mut name).expect("the operating system has a source of randomness");
        let id = format!("{:0width$x}", u32::from_be_bytes(name), width = NAME_CHARS);
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let sha256 = Sha256::digest(secret.as_bytes()).into();
        Self { text: format!("{KEY_PREFIX}{id}_{secret}").into(), id, sha256 }
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Identifies the caller of a key.
pub struct Keys {
    /// Where keys are looked up: no list that takes long keeps anybody out.
    lookups: PgPool,
    /// Where their uses are written down.
    changes: PgPool,
    clock: SystemClock,
    used: Used,
}

impl Keys {
    pub(in crate::api) fn new(lookups: PgPool, changes: PgPool, clock: SystemClock) -> Self {
        Self { lookups, changes, clock, used: Used::default() }
    }

    /// The caller of a key. It is looked up for each request, so a revoked key is refused from then on.
    pub(super) async fn identify(&self, token: &str) -> Result<Principal, Problem> {
        // The same text for every reason, so that callers cannot find out which keys exist.
        let unknown =
            || Problem::new(ProblemKind::Unauthenticated, "the key is unknown, has expired or was revoked");
        let (id, secret) = parts(token).ok_or_else(unknown)?;
        let key = api_keys::find(&self.lookups, id).await?.ok_or_else(unknown)?;
        let digest: [u8; 32] = Sha256::digest(secret.expose_secret().as_bytes()).into();
        let now = self.clock.now();
        if !bool::from(digest.as_slice().ct_eq(&key.secret_sha256))
            || key.revoked_at.is_some()
            || key.expires_at.is_some_and(|at| at <= now)
        {
            return Err(unknown());
        }
        self.note(&key).await;
        let scopes: Scopes = key.scopes.iter().filter_map(|word| word.parse().ok()).collect();
        Ok(Principal {
            actor: format!("key {KEY_PREFIX}{id}"),
            grant: match key.company_id {
                Some(company) => Grant::Companies(vec![(CompanyId(company), scopes)]),
                None => Grant::All(scopes),
            },
            limited_by: format!("key {id}"),
        })
    }

    /// Records a use in the background, not within the request.
    async fn note(&self, key: &api_keys::KeyRow) {
        let now = self.clock.now();
        let is_noted = key.last_used_at.is_some_and(|at| (now - at).to_std().is_ok_and(|ago| ago < USED_FOR));
        if is_noted || !self.used.0.entry_by_ref(&key.id).or_insert(()).await.is_fresh() {
            return;
        }
        let (pool, id) = (self.changes.clone(), key.id.clone());
        tokio::spawn(async move {
            if let Err(error) = api_keys::used(&pool, &id).await {
                tracing::debug!(%error, "the use of a key could not be recorded");
            }
        });
    }
}

/// The keys whose use this process recorded within the last minute.
struct Used(Cache<String, ()>);

impl Default for Used {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(USED_MAX).time_to_live(USED_FOR).build())
    }
}

/// The two parts of a key; none if it does not have the form of one.
fn parts(token: &str) -> Option<(&str, SecretString)> {
    let (id, secret) = token.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    (id.len() == NAME_CHARS && !secret.is_empty()).then(|| (id, secret.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_keys_are_remembered_than_may_be() {
        let used = Used::default();
        for n in 0..USED_MAX + 1_000 {
            used.0.insert(n.to_string(), ()).await;
        }
        used.0.run_pending_tasks().await;
        assert!((1..=USED_MAX).contains(&used.0.entry_count()), "{}", used.0.entry_count());
    }

    #[test]
    fn a_key_is_taken_apart_as_it_was_put_together() {
        let key = ApiKey::generate();
        let (id, secret) = parts(key.text.expose_secret()).unwrap();
        assert_eq!(id, key.id);
        assert_eq!(secret.expose_secret().len(), 43);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(secret.expose_secret().as_bytes())), key.sha256);
        assert!(!format!("{key:?}").contains(secret.expose_secret()));
        for other in ["", "xtwh_", "xtwh_abc_def", "xtwh_ab12cd34_", "agixt_ab12cd34_x", "eyJ.a.b"] {
            assert!(parts(other).is_none(), "{other}");
        }
    }
}
