//! The API as a program that calls it sees it.

use secrecy::ExposeSecret;
use serde_json::Value;
use uuid::Uuid;
use xtwebhooks::{api::access::ApiKey, store::api_keys};

use super::{app::App, service::Service};

/// A client with its credentials.
#[derive(Clone)]
pub struct Client {
    pub base: String,
    pub token: Option<String>,
    pub headers: Vec<(String, String)>,
    http: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body as JSON, of an answer with this status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// A header; empty where it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The path with query of the next page.
    pub fn next(&self) -> Option<String> {
        let link = self.header("link");
        let (target, _) = link.strip_prefix('<')?.split_once(">; rel=\"next\"")?;
        Some(target.to_owned())
    }
}

impl Client {
    /// A client of a service without credentials.
    pub async fn of(service: &Service) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { base: service.api().await, token: None, headers: Vec::new(), http }
    }

    /// The same with other credentials.
    pub fn with(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same with one more header on each request.
    pub fn and(&self, name: &str, value: impl ToString) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_string()));
        client
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// Sends a request, with a body of JSON if there is one.
    pub async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.ask(method, path, body.map(|body| ("application/json", body.to_string().into_bytes()))).await
    }

    /// Sends a request with any body.
    pub async fn raw(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Answer {
        self.ask(method, path, Some((content_type, body))).await
    }

    async fn ask(&self, method: &str, path: &str, body: Option<(&str, Vec<u8>)>) -> Answer {
        let mut request =
            self.http.request(method.parse().expect("a method"), format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some((content_type, body)) = body {
            request = request.header("content-type", content_type).body(body);
        }
        let response = request.send().await.expect("the API answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.expect("a body") }
    }
}

impl App {
    /// Makes an API key, for one company or for all; gives its text.
    pub async fn key(&self, company: Option<Uuid>, scopes: &[&str]) -> String {
        let key = ApiKey::generate();
        let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        let new = api_keys::KeyToInsert {
            id: &key.id,
            company,
            name: "of a test",
            secret_sha256: &key.sha256,
            scopes: &scopes,
            created_by: None,
            expires_at: None,
        };
        api_keys::create(&self.pool, new).await.expect("the key can be written");
        key.text.expose_secret().to_owned()
    }

    /// A client of a service whose key may do everything in a company.
    pub async fn client(&self, service: &Service, company: Uuid) -> Client {
        Client::of(service).await.with(&self.key(Some(company), &["admin"]).await)
    }
}
