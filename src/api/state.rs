//! What the handlers share, and its settings.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::access::{self, Access, Keys};
use crate::{
    broker::{Broker, Publisher},
    clock::SystemClock,
    egress,
    model::EnvelopeLimits,
    telemetry::Metrics,
};

/// The maximum number of concurrent checks of URLs in a process; further ones wait.
const URL_CHECKS_MAX: usize = 16;
/// The maximum number of concurrent publish requests with an `Idempotency-Key`, each of which holds a connection to the
/// ledger; others wait.
const KEYED_PUBLISHES_MAX: usize = 2;

/// How the API answers.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "API")]
#[group(skip)]
pub struct Config {
    /// Address of the API; port 0 selects a free port, which the log names
    #[arg(long, env = "API_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:20437")]
    pub api_address: SocketAddr,
    /// The largest request body accepted for publishing events or registering event types, in bytes
    #[arg(long, env = "API_BODY_BYTES_MAX", value_name = "BYTES", default_value_t = 8 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824))]
    pub api_body_bytes_max: u32,
    /// Maximum number of open connections to the API; further ones wait
    #[arg(long, env = "API_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub api_connections_max: u32,
    /// Time limit for a request, including its body; a test delivery has its webhook's timeout in addition
    #[arg(long, env = "API_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub api_request_timeout: Duration,
    /// Origins whose pages may call the API from a browser, separated by commas: `https://admin.example.com`
    #[arg(long, env = "API_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub api_cors_origins: Vec<axum::http::HeaderValue>,
    /// Who is let in, and how much.
    #[command(flatten)]
    pub access: access::Config,
}

/// Reads an origin; `*` is refused, because it would allow every page.
fn origin(text: &str) -> Result<axum::http::HeaderValue, String> {
    let url: url::Url = text
        .parse()
        .map_err(|_| format!("`{text}` is not an origin; write https://host or https://host:port"))?;
    let origin = url.origin().ascii_serialization();
    if origin == text.trim_end_matches('/') && origin != "null" {
        axum::http::HeaderValue::from_str(&origin).map_err(|error| error.to_string())
    } else {
        Err(format!("`{text}` is not an origin; write https://host or https://host:port"))
    }
}

/// What the API is built from.
pub struct Parts {
    pub changes: PgPool,
    /// The pool for authentication, so that slow lists lock nobody out.
    pub access: PgPool,
    /// The pool for read requests; see [`crate::store::pool::reading_pool`].
    pub reads: PgPool,
    pub broker: Broker,
    /// Checks receivers without sending anything.
    pub client: egress::ReceiverClient,
    /// Which receivers are allowed.
    pub receivers: egress::Config,
    /// Which events are accepted: the same limits as for messages.
    pub limits: EnvelopeLimits,
    /// The database's time.
    pub clock: SystemClock,
    /// What is counted.
    pub metrics: Metrics,
}

/// What the handlers share; cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// What [`Api`] is made of.
pub struct Inner {
    pub(crate) parts: Parts,
    pub(crate) access: Arc<Access>,
    pub(crate) config: Config,
    /// Publishes events on a channel of the API's own.
    pub(crate) publisher: Publisher,
    /// For the jobs of tests.
    pub(crate) jobs: Publisher,
    /// The running checks of URLs.
    pub(crate) url_checks: Semaphore,
    /// The running publish requests with a key.
    pub(crate) keyed_publishes: Semaphore,
}

impl Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    /// What answers requests. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If the settings for access cannot be applied.
    pub fn new(config: Config, parts: Parts) -> Result<Self, access::Error> {
        let keys = Keys::new(parts.access.clone(), parts.changes.clone(), parts.clock.clone());
        let access = Arc::new(Access::new(&config.access, &parts.receivers, keys)?);
        let jobs = parts.broker.publisher();
        let publisher = parts.broker.publisher();
        let url_checks = Semaphore::new(URL_CHECKS_MAX);
        let keyed_publishes = Semaphore::new(KEYED_PUBLISHES_MAX);
        Ok(Self(Arc::new(Inner { parts, access, config, publisher, jobs, url_checks, keyed_publishes })))
    }
}
