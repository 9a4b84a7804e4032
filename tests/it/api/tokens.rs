//! JWTs by keys that a server publishes (JWKS), and by a secret.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::App,
    receiver::{Answer, Receiver},
    xtsystems::{XTSYSTEMS_SECRET, token},
};

/// A key of an issuer.
struct Issuer {
    id: &'static str,
    key: EncodingKey,
}

impl Issuer {
    fn new(id: &'static str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        Self { id, key: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key") }
    }

    fn public(&self) -> Value {
        let mut key = json!(Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("a public half"));
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    fn token(&self, company: Uuid) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({
            "sub": "u1", "company_id": company, "scopes": ["webhooks:read"],
            "exp": chrono::Utc::now().timestamp() + 600, "jti": Uuid::new_v4(),
        });
        jsonwebtoken::encode(&header, &claims, &self.key).expect("signed")
    }
}

/// The set of these keys, with one for encryption and one of a kind to come, which are passed over.
fn set(issuers: &[&Issuer]) -> Answer {
    let mut keys: Vec<Value> = issuers.iter().map(|issuer| issuer.public()).collect();
    keys.push(json!({"kty": "RSA", "use": "enc", "alg": "RSA-OAEP", "kid": "e", "n": "AQAB", "e": "AQAB"}));
    keys.push(json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "f", "pub": "AA"}));
    Answer::ok().header("content-type", "application/json").body(json!({"keys": keys}).to_string())
}

async fn webhook(app: &App, company: Uuid) -> String {
    format!("/v1/webhooks/{}", app.webhook(company, "http://127.0.0.1:9/", json!({})).await)
}

#[tokio::test]
async fn a_key_that_an_issuer_begins_to_use_is_fetched_and_invented_ones_are_not() {
    let (app, server, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let (first, second, third) = (Issuer::new("1"), Issuer::new("2"), Issuer::new("3"));
    server.answer([set(&[&first]), set(&[&first, &second]), set(&[&third])]);
    app.set("JWT_JWKS_URL", server.url("/jwks"));
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let client = Client::of(&service).await;
    let check = async |issuer: &Issuer, status: u16, asked: usize| {
        let answer = client.with(&issuer.token(company)).get(&path).await;
        assert_eq!((answer.status, server.count()), (status, asked), "{}: {}", issuer.id, answer.text);
    };
    check(&first, 200, 1).await;
    check(&first, 200, 1).await;
    // The issuer has changed its key: the first token by the new one makes us look.
    check(&second, 200, 2).await;
    check(&first, 200, 2).await;
    // And no further one does within the minute, whatever key it names.
    check(&third, 401, 2).await;
    check(&Issuer::new("invented"), 401, 2).await;
    // A known name, with another key behind it.
    check(&Issuer::new("1"), 401, 2).await;
}

#[tokio::test]
async fn many_tokens_at_once_make_one_fetch() {
    let (app, server, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let issuer = Issuer::new("1");
    server.answer([set(&[&issuer]).after(Duration::from_millis(300))]);
    app.set("JWT_JWKS_URL", server.url("/jwks"));
    let service = app.run(&["--role", "api"]).await;
    let (path, client) = (webhook(&app, company).await, Client::of(&service).await);
    let calls = (0..20).map(|_| {
        let (client, path) = (client.with(&issuer.token(company)), path.clone());
        tokio::spawn(async move { client.get(&path).await.status })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("it ends"), 200);
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn while_no_key_is_known_the_answer_is_503_and_known_keys_outlive_their_server() {
    let (app, server, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let issuer = Issuer::new("1");
    server.answer([Answer::ok().body("<html>"), Answer::status(500)]);
    app.set("JWT_JWKS_URL", server.url("/jwks"));
    let service = app.run(&["--role", "api"]).await;
    let (path, client) = (webhook(&app, company).await, Client::of(&service).await);
    let holder = client.with(&issuer.token(company));
    let answer = holder.get(&path).await;
    assert_eq!(answer.expect(503)["type"], "/v1/problems/unavailable");
    assert!(!answer.header("retry-after").is_empty());
    // A key of this service needs no issuer.
    app.client(&service, company).await.get(&path).await.expect(200);
    // It is asked again after a while, and not for every call meanwhile.
    holder.get(&path).await.expect(503);
    assert_eq!(server.count(), 1);
    server.answer([set(&[&issuer])]);
    crate::support::app::eventually("the keys are there", async || {
        (holder.get(&path).await.status == 200).then_some(())
    })
    .await;
    server.stop().await;
    holder.get(&path).await.expect(200);
    let stranger = client.with(&Issuer::new("2").token(company));
    stranger.get(&path).await.expect(401);
    holder.get(&path).await.expect(200);
}

#[tokio::test]
async fn a_token_by_the_shared_secret_holds_for_the_companies_that_it_names() {
    let (app, one, two) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    app.set("JWT_HS256_SECRET", XTSYSTEMS_SECRET)
        .set("JWT_COMPANY_CLAIM", "companies")
        .set("JWT_SCOPES_CLAIM", "scope");
    let service = app.run(&["--role", "api"]).await;
    let (path, client) = (webhook(&app, two).await, Client::of(&service).await);
    let both = client.with(&token(&json!({"companies": [one, two], "scope": "webhooks:read other"})));
    assert_eq!(both.get(&path).await.expect(400)["type"], "/v1/problems/company-required");
    both.and("x-company-id", two).get(&path).await.expect(200);
    both.and("x-company-id", one).get(&path).await.expect(404);
    both.and("x-company-id", Uuid::new_v4()).get(&path).await.expect(403);
    let single = |others: Value| {
        let mut claims = json!({"companies": two, "scope": "webhooks:read"});
        others.as_object().expect("claims").iter().for_each(|(name, value)| claims[name] = value.clone());
        client.with(&token(&claims))
    };
    single(json!({})).get(&path).await.expect(200);
    single(json!({"scope": "webhooks:delete"})).get(&path).await.expect(403);
    let expired = single(json!({"exp": chrono::Utc::now().timestamp() - 61})).get(&path).await;
    assert_eq!(expired.expect(401)["detail"], "the token has expired");
    let without = client.with(&token(&json!({"scope": "*"}))).get(&path).await;
    assert_eq!(without.expect(403)["detail"], "the credentials are not valid for any company");
    let none = client.with("agixt_0123456789abcdef").get(&path).await;
    assert_eq!(none.expect(401)["type"], "/v1/problems/unauthenticated");
}

#[tokio::test]
async fn settings_that_contradict_each_other_end_the_start_with_a_sentence() {
    let app = App::new().await;
    app.set("JWT_JWKS_URL", "http://127.0.0.1:9/jwks").set("JWT_PUBLIC_KEY_FILE", "/nowhere.pem");
    let output = app.command(&["run", "--role", "api"]).output().await.expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("JWT_PUBLIC_KEY_FILE and JWT_JWKS_URL"), "{said}");
}
