//! JWTs, signed with a shared secret (HS256) or with a private key whose public key we have (RS256, ES256, EdDSA; from a
//! PEM file or a JWKS).
//!
//! The configured keys determine the allowed algorithms, never the token: a public key verifies only algorithms of its own
//! family, so it cannot be used to sign HS256. A token that none of our keys verifies is left to other methods; a token
//! that one of our keys verifies is accepted or refused here.

mod jwks;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use clap::ArgAction;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use self::jwks::Jwks;
use super::{Error, Grant, Principal, Scopes};
use crate::{
    api::problem::{Problem, ProblemKind},
    egress::OperatorClient,
    model::CompanyId,
};

/// A shorter secret can be guessed from one token (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// The bytes of a point of P-256, uncompressed.
const P256_POINT_BYTES: usize = 65;
/// The longest user name that is recorded, in characters.
pub(super) const USER_CHARS_MAX: usize = 200;
/// A larger tolerance for clock differences is a mistake.
const LEEWAY_MAX: Duration = Duration::from_hours(24);

/// Which JWTs are accepted.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Secret that signs HS256 tokens, at least 32 bytes long
    #[arg(long, env = "JWT_HS256_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub jwt_hs256_secret: Option<SecretString>,
    /// PEM file of the public key that verifies RS256, ES256 or EdDSA tokens
    #[arg(long, env = "JWT_PUBLIC_KEY_FILE", value_name = "FILE")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// URL of the public keys (JWKS) that verify RS256, ES256 or EdDSA tokens; not together with a key file
    #[arg(long, env = "JWT_JWKS_URL", value_name = "URL")]
    pub jwt_jwks_url: Option<String>,
    /// Issuer that tokens must have, in the claim `iss`
    #[arg(long, env = "JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// Audience that tokens must have, in the claim `aud`
    #[arg(long, env = "JWT_AUDIENCE", value_name = "TEXT")]
    pub jwt_audience: Option<String>,
    /// Claim that holds the company's id, or a list of ids
    #[arg(long, env = "JWT_COMPANY_CLAIM", value_name = "NAME", default_value = "company_id")]
    pub jwt_company_claim: String,
    /// Claim that identifies the user
    #[arg(long, env = "JWT_SUBJECT_CLAIM", value_name = "NAME", default_value = "sub")]
    pub jwt_subject_claim: String,
    /// Claim that holds the scopes: a list, or one string separated by spaces
    #[arg(long, env = "JWT_SCOPES_CLAIM", value_name = "NAME", default_value = "scopes")]
    pub jwt_scopes_claim: String,
    /// Clock difference tolerated at the start and the expiry of a token, at most 24h
    #[arg(long, env = "JWT_LEEWAY", value_name = "TIME", default_value = "60s", value_parser = leeway)]
    pub jwt_leeway: Duration,
    /// Refuse tokens without an expiry
    #[arg(
        long, env = "JWT_REQUIRE_EXPIRY", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub jwt_require_expiry: bool,
}

fn leeway(text: &str) -> Result<Duration, String> {
    let leeway = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if leeway <= LEEWAY_MAX { Ok(leeway) } else { Err("must be at most 24h".to_owned()) }
}

/// The result of checking a token.
#[derive(Debug)]
pub(super) enum Judged {
    /// The user and the companies.
    Known(Principal),
    /// The user; the token names no company.
    WithoutCompany(Principal),
    /// None of our keys verifies it.
    NotOurs,
}

/// Verifies tokens.
pub(super) struct Jwt {
    secret: Option<DecodingKey>,
    public: Public,
    config: Config,
}

/// Where public keys come from.
enum Public {
    /// There are none.
    None,
    /// From a file: one, with the one algorithm that it verifies.
    Key(Algorithm, DecodingKey),
    /// From a server, by their ids.
    Set(Arc<Jwks>),
}

impl Jwt {
    /// Follows these settings.
    pub(super) fn new(config: &Config, client: &OperatorClient) -> Result<Self, Error> {
        // An empty variable counts as not set; an empty secret would let anyone in.
        let secret = config.jwt_hs256_secret.as_ref().filter(|secret| !secret.expose_secret().is_empty());
        if secret.is_some_and(|secret| secret.expose_secret().len() < SECRET_BYTES_MIN) {
            tracing::warn!(
                "JWT_HS256_SECRET is shorter than {SECRET_BYTES_MIN} bytes; anyone who has a token could guess it"
            );
        }
        let file = config.jwt_public_key_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        let url = config.jwt_jwks_url.as_deref().filter(|url| !url.is_empty());
        let public = match (file, url) {
            (None, None) => Public::None,
            (Some(path), None) => {
                let wrong = |reason: String| Error::PublicKey { path: path.clone(), reason };
                let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
                let (algorithm, key) = public_key(&pem).ok_or_else(|| {
                    wrong("the file has no RSA, P-256 or Ed25519 public key in PEM form".to_owned())
                })?;
                Public::Key(algorithm, key)
            }
            (None, Some(url)) => {
                let url = super::service_url("JWT_JWKS_URL", url)?;
                Public::Set(Arc::new(Jwks::new(url, client.clone())))
            }
            // A token could be meant for either, and keys must never be tried in turn.
            (Some(_), Some(_)) => return Err(Error::TwoPublicKeys),
        };
        Ok(Self {
            secret: secret.map(|secret| DecodingKey::from_secret(secret.expose_secret().as_bytes())),
            public,
            config: config.clone(),
        })
    }

    /// The user of a token.
    pub(super) async fn judge(&self, token: &str) -> Result<Judged, Problem> {
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(Judged::NotOurs) };
        let Some(key) = self.key(header.alg, header.kid.as_deref()).await? else {
            return Ok(Judged::NotOurs);
        };
        let refused = |detail: String| Err(Problem::new(ProblemKind::Unauthenticated, detail));
        let claims = match jsonwebtoken::decode::<Map<String, Value>>(token, &key, &self.rules(header.alg)) {
            Ok(token) => token.claims,
            // The signature is verified before any of these is checked.
            Err(error) => match error.kind() {
                ErrorKind::ExpiredSignature => return refused("the token has expired".to_owned()),
                ErrorKind::ImmatureSignature => return refused("the token is not valid yet".to_owned()),
                ErrorKind::InvalidIssuer => {
                    return refused("the token was issued by another issuer".to_owned());
                }
                ErrorKind::InvalidAudience => return refused("the token is for another audience".to_owned()),
                ErrorKind::MissingRequiredClaim(claim) => {
                    return refused(format!("the token has no claim `{claim}`"));
                }
                ErrorKind::InvalidClaimFormat(claim) => {
                    return refused(format!("the token's claim `{claim}` is not a number"));
                }
                _ => return Ok(Judged::NotOurs),
            },
        };
        // We support no critical headers (RFC 7515, section 4.1.11).
        if header.crit.is_some_and(|names| !names.is_empty()) {
            return refused("the token has critical headers that this service does not support".to_owned());
        }
        self.principal(&claims)
    }

    /// The key that verifies tokens of this algorithm: at most one, whatever is configured.
    async fn key(&self, algorithm: Algorithm, id: Option<&str>) -> Result<Option<DecodingKey>, Problem> {
        match (algorithm, &self.public) {
            (Algorithm::HS256, _) => Ok(self.secret.clone()),
            (algorithm, Public::Key(its, key)) if algorithm == *its => Ok(Some(key.clone())),
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, Public::Set(set)) => {
                set.find(algorithm, id).await
            }
            _ => Ok(None),
        }
    }

    /// The claims that a token must have.
    fn rules(&self, algorithm: Algorithm) -> Validation {
        let mut rules = Validation::new(algorithm);
        rules.leeway = self.config.jwt_leeway.as_secs();
        rules.validate_nbf = true;
        rules.required_spec_claims.clear();
        if self.config.jwt_require_expiry {
            rules.required_spec_claims.insert("exp".to_owned());
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        // A missing claim is never wrong, so it must be required as well.
        if let Some(issuer) = given(&self.config.jwt_issuer) {
            rules.set_issuer(&[issuer]);
            rules.required_spec_claims.insert("iss".to_owned());
        }
        match given(&self.config.jwt_audience) {
            Some(audience) => {
                rules.set_audience(&[audience]);
                rules.required_spec_claims.insert("aud".to_owned());
            }
            None => rules.validate_aud = false,
        }
        rules
    }

    /// The principal that the claims describe.
    fn principal(&self, claims: &Map<String, Value>) -> Result<Judged, Problem> {
        let subject = &self.config.jwt_subject_claim;
        let user = claims.get(subject).and_then(user).ok_or_else(|| {
            Problem::new(
                ProblemKind::Unauthenticated,
                format!("the token's claim `{subject}` does not name a user"),
            )
        })?;
        let scopes = claims.get(&self.config.jwt_scopes_claim);
        let scopes = Scopes::of_token(scopes.map(words).unwrap_or_default());
        let companies = claims.get(&self.config.jwt_company_claim).map(words).unwrap_or_default();
        let companies = companies.into_iter().filter_map(|id| CompanyId::from_str(id).ok());
        let companies: Vec<_> = companies.map(|company| (company, scopes)).collect();
        let is_without = companies.is_empty();
        let principal = Principal::user(&user, Grant::Companies(companies));
        Ok(if is_without { Judged::WithoutCompany(principal) } else { Judged::Known(principal) })
    }
}

/// The user named by a claim.
pub(super) fn user(claim: &Value) -> Option<String> {
    let text = match claim {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let text: String = text.chars().filter(|c| !c.is_control()).take(USER_CHARS_MAX).collect();
    (!text.trim().is_empty()).then_some(text)
}

/// The words of a claim: an array, or a string with separators.
pub(super) fn words(claim: &Value) -> Vec<&str> {
    match claim {
        Value::String(text) => text.split([' ', ',']).filter(|word| !word.is_empty()).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A public key from PEM, with the one algorithm that it verifies.
fn public_key(pem: &[u8]) -> Option<(Algorithm, DecodingKey)> {
    let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
    let ec = || DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
    let ed = || DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
    let (algorithm, key) = rsa.or_else(|_| ec()).or_else(|_| ed()).ok()?;
    // A key of another curve can be read too, but would never verify anything.
    let is_p256 = || key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT_BYTES);
    (algorithm != Algorithm::ES256 || is_p256()).then_some((algorithm, key))
}
