//! Public keys from a server (JWKS, RFC 7517), by key id.
//!
//! The keys are fetched again in the background when they are old, and when a token names an unknown key, but then at most
//! once a minute, so that tokens with invented ids do not cause requests. Only one fetch runs at a time. If it fails, the
//! known keys stay in use, because an unreachable server has not revoked any.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use crate::{api::problem::Problem, egress::OperatorClient};

/// How old keys become before they are fetched again.
const FRESH_FOR: Duration = Duration::from_mins(10);
/// The minimum time between two fetches for unknown keys, and between two fetches for age.
const ASK_AGAIN_AFTER: Duration = Duration::from_mins(1);
/// How long after a failed first fetch the next one is made.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The maximum number of keys of a set; no issuer has so many.
const KEYS_MAX: usize = 100;

/// The keys of a server.
pub(super) struct Jwks {
    url: Url,
    client: OperatorClient,
    known: RwLock<KeySet>,
    fetching: Mutex<()>,
}

/// The known keys, and when they were fetched.
#[derive(Clone, Default)]
struct KeySet {
    keys: Arc<Vec<SigningKey>>,
    times: Times,
}

/// When the server was asked.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// Last with success.
    fetched: Option<Instant>,
    /// Last at all.
    tried: Option<Instant>,
    /// Last because a key was not known.
    missed: Option<Instant>,
    /// The number of attempts, by which waiters for the same fetch know that it was made.
    count: u64,
}

/// A key, with the one algorithm that it verifies.
struct SigningKey {
    id: Option<String>,
    algorithm: Algorithm,
    verifies: DecodingKey,
}

/// Whether to ask the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresh {
    /// The known keys are recent enough, or all there is.
    Not,
    /// In the background, while the known keys are used.
    Meanwhile,
    /// Before the token can be checked.
    First,
}

impl Times {
    fn due(self, now: Instant, is_known: bool) -> Refresh {
        let since = |then: Option<Instant>, at_least: Duration| {
            then.is_none_or(|then| now.saturating_duration_since(then) >= at_least)
        };
        if self.fetched.is_none() {
            return if since(self.tried, BEGIN_AGAIN_AFTER) { Refresh::First } else { Refresh::Not };
        }
        if !is_known && since(self.missed, ASK_AGAIN_AFTER) {
            return Refresh::First;
        }
        if since(self.fetched, FRESH_FOR) && since(self.tried, ASK_AGAIN_AFTER) {
            return Refresh::Meanwhile;
        }
        Refresh::Not
    }
}

impl Jwks {
    pub(super) fn new(url: Url, client: OperatorClient) -> Self {
        Self { url, client, known: RwLock::default(), fetching: Mutex::new(()) }
    }

    /// The key that a token names, or the only key for its algorithm if it names none.
    pub(super) async fn find(
        self: &Arc<Self>,
        algorithm: Algorithm,
        id: Option<&str>,
    ) -> Result<Option<DecodingKey>, Problem> {
        let known = self.known();
        let found = pick(&known.keys, algorithm, id);
        match known.times.due(Instant::now(), found.is_some()) {
            Refresh::Not => {}
            Refresh::Meanwhile => drop(self.fetch(known.times.count, false)),
            Refresh::First => {
                // A separate task: the caller may give up while others wait for the same fetch.
                let _ = self.fetch(known.times.count, found.is_none()).await;
                return self.settled(algorithm, id);
            }
        }
        match found {
            Some(key) => Ok(Some(key)),
            None => self.settled(algorithm, id),
        }
    }

    /// The result without asking again.
    fn settled(&self, algorithm: Algorithm, id: Option<&str>) -> Result<Option<DecodingKey>, Problem> {
        let known = self.known();
        if known.times.fetched.is_none() {
            return Err(Problem::unavailable(
                "the keys that tokens are signed by cannot be fetched at the moment",
            ));
        }
        Ok(pick(&known.keys, algorithm, id))
    }

    fn known(&self) -> KeySet {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut KeySet)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the server, unless another fetch was made since the count was read.
    fn fetch(self: &Arc<Self>, count: u64, is_missed: bool) -> tokio::task::JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let _alone = this.fetching.lock().await;
            if this.known().times.count != count {
                return;
            }
            let answer = this.client.get(&this.url, None).await.map_err(|error| error.to_string());
            let keys = answer.and_then(|answer| read(&answer));
            let now = Instant::now();
            this.change(|known| {
                known.times.tried = Some(now);
                known.times.count += 1;
                // The first fetch was needed for any key, not for a particular one.
                if is_missed && known.times.fetched.is_some() {
                    known.times.missed = Some(now);
                }
                match keys {
                    Ok(keys) => {
                        known.times.fetched = Some(now);
                        known.keys = Arc::new(keys);
                    }
                    Err(reason) => {
                        tracing::warn!(
                            reason,
                            kept = known.keys.len(),
                            "the keys of JWT_JWKS_URL cannot be fetched; the known keys stay in use"
                        );
                    }
                }
            });
        })
    }
}

/// The key of a set that a token names.
fn pick(keys: &[SigningKey], algorithm: Algorithm, id: Option<&str>) -> Option<DecodingKey> {
    let mut usable = keys
        .iter()
        .filter(|key| key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id)));
    let first = usable.next()?;
    // If a token names no key, or two keys have the same id, exactly one key must match: keys are never tried in turn.
    usable.next().is_none().then(|| first.verifies.clone())
}

/// The keys of an answer that are usable here; others are skipped, as RFC 7517 requires.
fn read(answer: &[u8]) -> Result<Vec<SigningKey>, String> {
    #[derive(Deserialize)]
    struct JwksDocument {
        keys: Vec<Value>,
    }
    let set: JwksDocument =
        serde_json::from_slice(answer).map_err(|error| format!("it is not a JWKS: {error}"))?;
    let keys: Vec<SigningKey> = set.keys.into_iter().filter_map(key).take(KEYS_MAX).collect();
    if keys.is_empty() { Err("it has no key for RS256, ES256 or EdDSA".to_owned()) } else { Ok(keys) }
}

fn key(value: Value) -> Option<SigningKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    // A symmetric key does not belong in a public list, so it is ignored whatever it declares.
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    let is_meant = named.is_none_or(|named| named.parse() == Ok(algorithm));
    let is_for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|its| *its == PublicKeyUse::Signature);
    if !is_meant || !is_for_signatures {
        return None;
    }
    let verifies = DecodingKey::from_jwk(&jwk).ok()?;
    Some(SigningKey { id: jwk.common.key_id, algorithm, verifies })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_server_is_asked_for_want_of_keys_for_age_and_for_an_unknown_key_once_a_minute() {
        let began = Instant::now();
        let at = |seconds: u64| Some(began + Duration::from_secs(seconds));
        let check = |times: [Option<Instant>; 3], now: u64, is_known: bool, expected: Refresh| {
            let [fetched, tried, missed] = times;
            let times = Times { fetched, tried, missed, count: 0 };
            let due = times.due(began + Duration::from_secs(now), is_known);
            assert_eq!(due, expected, "{times:?} {now} {is_known}");
        };
        check([None, None, None], 0, false, Refresh::First);
        check([None, at(0), None], 4, false, Refresh::Not);
        check([None, at(0), None], 5, false, Refresh::First);
        check([at(0), at(0), None], 1, true, Refresh::Not);
        check([at(0), at(0), None], 1, false, Refresh::First);
        check([at(0), at(1), at(1)], 60, false, Refresh::Not);
        check([at(0), at(1), at(1)], 61, false, Refresh::First);
        check([at(0), at(0), None], 599, true, Refresh::Not);
        check([at(0), at(0), None], 600, true, Refresh::Meanwhile);
        // It failed: what is known is used, and the next try is a minute later.
        check([at(0), at(600), None], 659, true, Refresh::Not);
        check([at(0), at(600), None], 660, true, Refresh::Meanwhile);
    }

    #[test]
    fn only_public_keys_that_are_for_signatures_of_our_algorithms_are_taken() {
        let point = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
        let check = |value: Value, expected: Option<Algorithm>| {
            assert_eq!(key(value.clone()).map(|key| key.algorithm), expected, "{value}");
        };
        let ec = json!({"kty": "EC", "crv": "P-256", "x": point, "y": point});
        let with = |name: &str, value: &str| {
            let mut key = ec.clone();
            key[name] = json!(value);
            key
        };
        check(ec.clone(), Some(Algorithm::ES256));
        check(with("use", "sig"), Some(Algorithm::ES256));
        check(with("alg", "ES256"), Some(Algorithm::ES256));
        check(with("use", "enc"), None);
        check(with("alg", "ES384"), None);
        check(with("alg", "HS256"), None);
        check(with("crv", "P-384"), None);
        check(json!({"kty": "oct", "k": point}), None);
        check(json!({"kty": "oct", "k": point, "alg": "HS256"}), None);
        check(json!({"kty": "OKP", "crv": "Ed25519", "x": point}), Some(Algorithm::EdDSA));
        check(json!({"kty": "new"}), None);
        check(json!(1), None);
        let set = json!({"keys": [{"kty": "oct", "k": point}, ec]});
        assert_eq!(read(set.to_string().as_bytes()).map(|keys| keys.len()), Ok(1));
        let many = json!({"keys": vec![set["keys"][1].clone(); KEYS_MAX + 50]});
        assert_eq!(read(many.to_string().as_bytes()).map(|keys| keys.len()), Ok(KEYS_MAX));
        for bad in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_without_a_key_id_is_verified_only_where_one_key_alone_can_be_meant() {
        let key = |id: &str| SigningKey {
            id: Some(id.to_owned()),
            algorithm: Algorithm::ES256,
            verifies: DecodingKey::from_ec_der(b"any"),
        };
        let check = |keys: &[SigningKey], algorithm: Algorithm, id: Option<&str>, expected: bool| {
            assert_eq!(pick(keys, algorithm, id).is_some(), expected, "{algorithm:?} {id:?}");
        };
        let both = [key("a"), key("b")];
        check(&both, Algorithm::ES256, Some("a"), true);
        check(&both, Algorithm::ES256, Some("c"), false);
        check(&both, Algorithm::RS256, Some("a"), false);
        check(&both, Algorithm::ES256, None, false);
        check(&both[..1], Algorithm::ES256, None, true);
        check(&[key("a"), key("a")], Algorithm::ES256, Some("a"), false);
    }
}
