//! Tokens that hold, and every way in which one does not.

use jsonwebtoken::{EncodingKey, Header};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
use serde_json::json;

use super::*;
use crate::{api::access::Scope, clock::SystemClock};

const SECRET: &str = "a-secret-of-the-tests-0123456789ab";
const COMPANY: &str = "7f8a1f5e-0000-4000-8000-000000000001";

fn config() -> Config {
    Config {
        jwt_hs256_secret: None,
        jwt_public_key_file: None,
        jwt_jwks_url: None,
        jwt_issuer: None,
        jwt_audience: None,
        jwt_company_claim: "company_id".to_owned(),
        jwt_subject_claim: "sub".to_owned(),
        jwt_scopes_claim: "scopes".to_owned(),
        jwt_leeway: Duration::from_mins(1),
        jwt_require_expiry: true,
    }
}

fn with_secret() -> Config {
    Config { jwt_hs256_secret: Some(SECRET.into()), ..config() }
}

fn client() -> OperatorClient {
    OperatorClient::new(&crate::egress::Config::default()).unwrap()
}

fn jwt(config: &Config) -> Jwt {
    Jwt::new(config, &client()).unwrap()
}

fn in_seconds(seconds: i64) -> i64 {
    SystemClock::default().now().timestamp() + seconds
}

/// Claims as XTSystems' gateway could make them, with others in their place.
#[expect(clippy::needless_pass_by_value, reason = "tests take `json!` as it comes")]
fn claims(others: Value) -> Value {
    let mut claims = json!({
        "sub": "u1", "company_id": COMPANY, "scopes": ["webhooks:read"], "exp": in_seconds(600), "iat": in_seconds(-5),
    });
    for (name, value) in others.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims(json!({}));
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn signed(claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    jsonwebtoken::encode(&Header::new(algorithm), claims, key).unwrap()
}

fn by_secret(claims: &Value) -> String {
    signed(claims, Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()))
}

/// What is said of a token: who it is, or why not.
async fn refusal(jwt: &Jwt, token: &str) -> String {
    match jwt.judge(token).await {
        Ok(Judged::Known(principal)) => principal.actor,
        Ok(Judged::WithoutCompany(principal)) => format!("{} without company", principal.actor),
        Ok(Judged::NotOurs) => "not ours".to_owned(),
        Err(problem) => format!("{:?} {problem:?}", problem.kind()),
    }
}

#[tokio::test]
async fn a_token_is_taken_if_it_says_what_it_must() {
    let check = async |config: Config, claims: Value, expected: &str| {
        let found = refusal(&jwt(&config), &by_secret(&claims)).await;
        assert!(found.contains(expected), "{claims}: {found}, not {expected}");
    };
    let with = |set: fn(&mut Config)| {
        let mut config = with_secret();
        set(&mut config);
        config
    };
    check(with_secret(), claims(json!({})), "user u1").await;
    // XTSystems writes fractions of seconds.
    check(with_secret(), claims(json!({"iat": 1_790_000_000.123_456})), "user u1").await;
    check(with_secret(), claims(json!({"exp": f64::from(u32::MAX) + 0.5})), "user u1").await;
    check(with_secret(), claims(json!({"iat": "yesterday"})), "user u1").await;
    check(with_secret(), claims(json!({"sub": 17})), "user 17").await;
    // It ends, and must say when.
    check(with_secret(), claims(json!({"exp": in_seconds(-61)})), "Unauthenticated").await;
    check(with_secret(), claims(json!({"exp": in_seconds(-61)})), "has expired").await;
    check(with_secret(), claims(json!({"exp": in_seconds(-30)})), "user u1").await;
    check(with(|c| c.jwt_leeway = Duration::ZERO), claims(json!({"exp": in_seconds(-30)})), "has expired")
        .await;
    check(with_secret(), without("exp"), "no claim `exp`").await;
    check(with_secret(), claims(json!({"exp": null})), "no claim `exp`").await;
    check(with_secret(), claims(json!({"exp": "never"})), "no claim `exp`").await;
    check(with(|c| c.jwt_require_expiry = false), without("exp"), "user u1").await;
    check(with(|c| c.jwt_require_expiry = false), claims(json!({"exp": in_seconds(-61)})), "has expired")
        .await;
    check(with(|c| c.jwt_require_expiry = false), claims(json!({"exp": "never"})), "is not a number").await;
    check(with_secret(), claims(json!({"nbf": in_seconds(120)})), "not valid yet").await;
    // Issuer and audience: not wrong is not enough.
    let issuer = || with(|c| c.jwt_issuer = Some("xtsystems".to_owned()));
    check(issuer(), claims(json!({"iss": "xtsystems"})), "user u1").await;
    check(issuer(), claims(json!({"iss": "other"})), "another issuer").await;
    check(issuer(), claims(json!({})), "no claim `iss`").await;
    check(issuer(), claims(json!({"iss": 1})), "no claim `iss`").await;
    let audience = || with(|c| c.jwt_audience = Some("webhooks".to_owned()));
    check(audience(), claims(json!({"aud": "webhooks"})), "user u1").await;
    check(audience(), claims(json!({"aud": ["other", "webhooks"]})), "user u1").await;
    check(audience(), claims(json!({"aud": "other"})), "another audience").await;
    check(audience(), claims(json!({"aud": []})), "another audience").await;
    check(audience(), claims(json!({})), "no claim `aud`").await;
    check(with_secret(), claims(json!({"aud": "anybody"})), "user u1").await;
    // Whom, and for which company.
    check(with_secret(), without("sub"), "does not name a user").await;
    check(with_secret(), claims(json!({"sub": " "})), "does not name a user").await;
    check(with_secret(), without("company_id"), "user u1 without company").await;
    check(with_secret(), claims(json!({"company_id": "acme"})), "user u1 without company").await;
    check(with(|c| c.jwt_subject_claim = "email".to_owned()), claims(json!({"email": "a@b"})), "user a@b")
        .await;
}

#[tokio::test]
async fn companies_and_scopes_are_lists_or_single() {
    let granted = async |claims: Value| match jwt(&with_secret()).judge(&by_secret(&claims)).await.unwrap() {
        Judged::Known(Principal { grant: Grant::Companies(companies), .. }) => companies,
        other => panic!("{other:?}"),
    };
    let other = "7f8a1f5e-0000-4000-8000-000000000002";
    let both =
        granted(claims(json!({"company_id": [COMPANY, other, 3], "scopes": "webhooks:* keys:manage"}))).await;
    assert_eq!(both.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(), [COMPANY, other]);
    assert!(
        both[1].1.has(Scope::WebhooksDelete)
            && both[1].1.has(Scope::KeysManage)
            && !both[1].1.has(Scope::Admin)
    );
    let all = granted(claims(json!({"scopes": ["*"]}))).await;
    assert_eq!(all.len(), 1, "`*` is everything of the company, and of no other");
    assert!(all[0].1.has(Scope::Admin));
    assert_eq!(granted(without("scopes")).await[0].1, Scopes::default());
}

#[tokio::test]
async fn algorithms_are_never_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let by_file = |name: &str, key: &KeyPair| {
        let path = file(name, &key.public_key_pem());
        jwt(&Config { jwt_public_key_file: Some(path), ..with_secret() })
    };
    let rsa_key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    let ec_key = EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap();
    let ed_key = EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap();
    let all = claims(json!({}));
    let check = async |jwt: &Jwt, token: &str, expected: &str| {
        assert_eq!(refusal(jwt, token).await, expected, "{token}");
    };

    let jwt = by_file("rsa.pem", &rsa);
    check(&jwt, &signed(&all, Algorithm::RS256, &rsa_key), "user u1").await;
    // The secret beside it goes on holding, for HS256 alone.
    check(&jwt, &by_secret(&all), "user u1").await;
    // The one confusion that everybody tries first: HS256 by the public key, which is no secret.
    for text in [rsa.public_key_pem(), rsa.public_key_pem().trim().to_owned()] {
        let token = signed(&all, Algorithm::HS256, &EncodingKey::from_secret(text.as_bytes()));
        check(&jwt, &token, "not ours").await;
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(rsa.public_key_pem().as_bytes()).unwrap();
    let der = EncodingKey::from_secret(&der);
    check(&jwt, &signed(&all, Algorithm::HS256, &der), "not ours").await;
    // The right key, by another algorithm.
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        check(&jwt, &signed(&all, algorithm, &rsa_key), "not ours").await;
    }
    check(&jwt, &signed(&all, Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes())), "not ours")
        .await;
    check(&jwt, &signed(&all, Algorithm::ES256, &ec_key), "not ours").await;
    check(&jwt, &signed(&all, Algorithm::EdDSA, &ed_key), "not ours").await;

    check(&by_file("ec.pem", &ec), &signed(&all, Algorithm::ES256, &ec_key), "user u1").await;
    check(&by_file("ed.pem", &ed), &signed(&all, Algorithm::EdDSA, &ed_key), "user u1").await;
    check(&by_file("ed.pem", &ed), &signed(&all, Algorithm::RS256, &rsa_key), "not ours").await;
    // No signature, somebody else's, and what is no token.
    let (head, rest) =
        by_secret(&all).split_once('.').map(|(head, rest)| (head.to_owned(), rest.to_owned())).unwrap();
    let unsigned = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), rest.split('.').next().unwrap())
    };
    check(&jwt, &unsigned, "not ours").await;
    check(&jwt, &format!("{head}.{}.", rest.split('.').next().unwrap()), "not ours").await;
    let strange = EncodingKey::from_secret(b"another-secret-of-the-tests-012345");
    check(&jwt, &signed(&all, Algorithm::HS256, &strange), "not ours").await;
    for text in ["", "a.b.c", "agixt_0123", "..."] {
        check(&jwt, text, "not ours").await;
    }
}

#[tokio::test]
async fn settings_that_cannot_be_followed_are_refused() {
    let check = |config: Config, expected: Option<&str>| match (Jwt::new(&config, &client()), expected) {
        (Ok(_), None) => {}
        (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
        (found, expected) => panic!("{expected:?}: {}", found.is_ok()),
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = folder.path().join("key.pem");
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let public = KeyPair::generate_for(&PKCS_ED25519).unwrap().public_key_pem();
    let other_curve = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    check(Config { jwt_public_key_file: file(&public), ..config() }, None);
    check(
        Config { jwt_public_key_file: file("no key"), ..config() },
        Some("no RSA, P-256 or Ed25519 public key"),
    );
    check(
        Config { jwt_public_key_file: file(&other_curve), ..config() },
        Some("no RSA, P-256 or Ed25519 public key"),
    );
    check(Config { jwt_public_key_file: Some("/nowhere".into()), ..config() }, Some("/nowhere"));
    check(Config { jwt_jwks_url: Some("ftp://x/".to_owned()), ..config() }, Some("JWT_JWKS_URL `ftp://x/`"));
    let both =
        Config { jwt_public_key_file: file(&public), jwt_jwks_url: Some("http://x/".to_owned()), ..config() };
    check(both, Some("both set"));
    // A secret that is set to nothing lets in nobody, though anybody could sign by it.
    let empty = Config { jwt_hs256_secret: Some("".into()), jwt_jwks_url: Some(String::new()), ..config() };
    let token = signed(&claims(json!({})), Algorithm::HS256, &EncodingKey::from_secret(b""));
    assert_eq!(refusal(&jwt(&empty), &token).await, "not ours");
    assert!(!format!("{:?}", with_secret()).contains(SECRET));
}
