//! XTSystems as far as it says who its users are: a server with `GET /v1/user`, and tokens of the shape of its own.
//!
//! Its tokens are HS256 by a secret of its own, name the user and never a company, and say `iat` in fractions of a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::receiver::{Answer, Receiver, Request};

/// XTSystems' secret, which this service need not know.
pub const XTSYSTEMS_SECRET: &str = "the-secret-of-xtsystems-0123456789";

/// The server.
pub struct XtSystems {
    pub server: Receiver,
    users: Arc<Mutex<HashMap<String, Value>>>,
}

impl XtSystems {
    pub async fn start() -> Self {
        let (server, users) = (Receiver::start().await, Arc::new(Mutex::new(HashMap::new())));
        let this = Self { server, users };
        this.answers();
        this
    }

    /// What `AUTH_USERINFO_URL` is set to.
    pub fn url(&self) -> String {
        self.server.url("/v1/user?light=true&include_scopes=true")
    }

    /// From now on it answers as it should.
    pub fn answers(&self) {
        let users = Arc::clone(&self.users);
        self.server.answer_by(move |request, _| answer(request, &users.lock().expect("not poisoned")));
    }

    /// A new user with these scopes in these companies; gives a token of theirs.
    pub fn user(&self, companies: &[(Uuid, &[&str])]) -> String {
        let id = Uuid::new_v4();
        let token = token(&json!({"sub": id}));
        self.change(&token, id, companies);
        token
    }

    /// Gives a user other companies and scopes; none at all ends the token.
    pub fn change(&self, token: &str, id: Uuid, companies: &[(Uuid, &[&str])]) {
        let companies: Vec<Value> = companies
            .iter()
            .map(|(id, scopes)| {
                json!({"id": id, "company_id": null, "name": "a company", "role_id": 2, "primary": true, "scopes": scopes})
            })
            .collect();
        let user = json!({"id": id, "email": "somebody@example.com", "companies": companies});
        self.users.lock().expect("not poisoned").insert(token.to_owned(), user);
    }

    /// From now on nobody's token.
    pub fn log_out(&self, token: &str) {
        self.users.lock().expect("not poisoned").remove(token);
    }
}

fn answer(request: &Request, users: &HashMap<String, Value>) -> Answer {
    if request.path() != "/v1/user?light=true&include_scopes=true" {
        return Answer::status(404);
    }
    let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    match token.and_then(|token| users.get(token)) {
        Some(user) => Answer::ok().header("content-type", "application/json").body(user.to_string()),
        None => Answer::status(401).body(r#"{"detail":"Invalid token"}"#),
    }
}

/// A token as XTSystems makes them, with other claims in their place.
pub fn token(others: &Value) -> String {
    let now = chrono::Utc::now();
    let mut claims = json!({
        "sub": Uuid::new_v4(), "email": "somebody@example.com", "admin": false, "exp": now.timestamp() + 86_400,
        "iat": now.timestamp_micros() as f64 / 1e6, "jti": Uuid::new_v4(),
    });
    for (name, value) in others.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    let key = EncodingKey::from_secret(XTSYSTEMS_SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).expect("claims can be signed")
}
