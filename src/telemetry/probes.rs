//! The port on which every role serves its liveness, its readiness and its metrics.
//!
//! `/health/live` fails only when a stage's task has ended unexpectedly; only a new process helps then. An unreachable
//! broker or database makes a process not ready, but still live: a restart would lose what it holds and fix nothing.
//! `/metrics` is OpenMetrics text.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;

use super::Metrics;

/// Where the probes answer.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Health and metrics")]
#[group(skip)]
pub struct Config {
    /// Address of the health and metrics server; port 0 selects a free port, which the log names
    #[arg(long, env = "PROBES_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:20438")]
    pub probes_address: SocketAddr,
}

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Default)]
struct RegisteredCheck {
    started: AtomicBool,
    checks: RwLock<Vec<(&'static str, Check)>>,
    ended: RwLock<Vec<CheckFailure>>,
}

/// The health checks, registered by the parts they are about; cheap to clone.
#[derive(Clone, Default)]
pub struct Health(Arc<RegisteredCheck>);

/// A failed check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckFailure {
    /// The check or the stage.
    pub name: &'static str,
    /// What is wrong, in words.
    pub why: String,
}

impl Health {
    /// Adds a check that must pass before this process gets work.
    pub fn check(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        // A poisoned lock only says that another thread panicked while holding it; the list is intact.
        self.0.checks.write().unwrap_or_else(PoisonError::into_inner).push((name, Arc::new(check)));
    }

    /// Says that startup is complete and every check is added. Until then the process is not ready, whatever the
    /// existing checks say.
    pub fn started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    /// Says that a stage has ended unexpectedly: this process cannot recover by itself.
    pub fn stage_ended(&self, name: &'static str, why: impl fmt::Display) {
        let ended = CheckFailure { name, why: why.to_string() };
        self.0.ended.write().unwrap_or_else(PoisonError::into_inner).push(ended);
    }

    /// The stages that have ended unexpectedly.
    #[must_use]
    pub fn ended(&self) -> Vec<CheckFailure> {
        self.0.ended.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn results(&self) -> Vec<CheckResult> {
        // Copied first: a check may take its own lock, and must not do so while we hold ours.
        let checks = self.0.checks.read().unwrap_or_else(PoisonError::into_inner).clone();
        let checked = checks.iter().map(|(name, check)| CheckResult { name, why: check().err() });
        let ended = self.ended();
        let ended = ended.into_iter().map(|f| CheckResult { name: f.name, why: Some(f.why) });
        let starting = (!self.0.started.load(Ordering::Acquire))
            .then(|| CheckResult { name: "start", why: Some("startup is not complete".to_owned()) });
        starting.into_iter().chain(checked).chain(ended).collect()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.results()).finish()
    }
}

#[derive(Debug)]
struct CheckResult {
    name: &'static str,
    why: Option<String>,
}

/// The answer to `/health/ready`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    checks: Vec<ReadinessCheck>,
}

#[derive(Serialize)]
struct ReadinessCheck {
    name: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The answer to `/health/live`.
#[derive(Serialize)]
struct Liveness {
    live: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ended: Vec<CheckFailure>,
}

/// A bound port, before it answers.
#[derive(Debug)]
pub struct Probes {
    listener: TcpListener,
    address: SocketAddr,
}

impl Probes {
    /// Binds the port.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn bind(config: &Config) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.probes_address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address bound, which matters for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        health: Health,
        metrics: Metrics,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/health/live", get(live))
            .route("/health/ready", get(ready))
            .with_state(health)
            .route("/metrics", get(show).with_state(metrics));
        axum::serve(self.listener, routes).with_graceful_shutdown(end).await
    }
}

async fn live(State(health): State<Health>) -> Response {
    let ended = health.ended();
    let answer = Liveness { live: ended.is_empty(), ended };
    json(answer.live, &answer)
}

async fn ready(State(health): State<Health>) -> Response {
    let checks: Vec<_> = health
        .results()
        .into_iter()
        .map(|result| ReadinessCheck { name: result.name, ok: result.why.is_none(), why: result.why })
        .collect();
    let answer = Readiness { ready: checks.iter().all(|check| check.ok), checks };
    json(answer.ready, &answer)
}

async fn show(State(metrics): State<Metrics>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.encode()).into_response()
}

fn json(good: bool, answer: &impl Serialize) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let text = serde_json::to_string(answer).expect("texts and booleans always make JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response) -> (u16, String) {
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failing_check_is_named_with_its_reason_and_harms_only_readiness() {
        let health = Health::default();
        let connected = Arc::new(AtomicBool::new(false));
        let is_connected = Arc::clone(&connected);
        health.check("broker", move || {
            if is_connected.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("no connection since 12:00".to_owned())
            }
        });
        health.check("database", || Ok(()));
        health.started();

        let expected = r#"{"ready":false,"checks":[{"name":"broker","ok":false,"why":"no connection since 12:00"},{"name":"database","ok":true}]}"#;
        assert_eq!(body(ready(State(health.clone())).await).await, (503, expected.to_owned()));
        assert_eq!(body(live(State(health.clone())).await).await, (200, r#"{"live":true}"#.to_owned()));

        connected.store(true, Ordering::Relaxed);
        assert_eq!(body(ready(State(health)).await).await.0, 200);
    }

    #[tokio::test]
    async fn nothing_is_ready_before_everything_is_set_up() {
        let health = Health::default();
        health.check("broker", || Ok(()));
        let (status, why) = body(ready(State(health.clone())).await).await;
        assert!(status == 503 && why.contains(r#""name":"start","ok":false"#), "{why}");
        health.started();
        assert_eq!(body(ready(State(health)).await).await.0, 200);
    }

    #[tokio::test]
    async fn a_stage_that_ended_unasked_is_neither_live_nor_ready() {
        let health = Health::default();
        health.started();
        health.stage_ended("ingest", "its task panicked");
        let expected = r#"{"live":false,"ended":[{"name":"ingest","why":"its task panicked"}]}"#;
        assert_eq!(body(live(State(health.clone())).await).await, (503, expected.to_owned()));
        assert_eq!(body(ready(State(health)).await).await.0, 503);
    }
}
