//! The REST API: what a company's admins and XTSystems itself manage webhooks, events and histories through.
//!
//! ```text
//! request ─▶ id, bounds ─▶ who is it? ─▶ may it? ─▶ handler ─▶ store, broker ─▶ answer or problem
//!            (layers.rs)    (access/: key, token, limit, scope)    (a file per resource)
//! ```
//!
//! The contract is XTSystems' integration guide: its paths, shapes and codes; what a good webhook product offers
//! stands beside it. Guarantees: an operation without a scope in the OpenAPI document cannot be called, for the
//! document is the table that access is judged by ([`openapi`]); every statement bears the company, and what belongs to
//! another answers exactly as what does not exist; an error is an RFC 9457 problem of a closed list ([`problem`]) and
//! tells nothing internal; a reader cannot slow deliveries, for its connections are its own and its statements bounded.
//!
//! Begin with `webhooks.rs`, the first resource: each is a file of handlers with their documentation, and a shape.

pub mod access;
pub mod audit;
pub mod audit_log;
pub mod companies;
pub mod dead_letters;
pub mod deliveries;
pub mod event_types;
pub mod events;
pub mod extract;
pub mod fields;
pub mod idempotency;
pub mod keys;
pub mod lanes;
pub mod layers;
mod listing;
pub mod openapi;
pub mod pagination;
pub mod preconditions;
pub mod problem;
pub mod replays;
mod serve;
pub mod webhooks;

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use utoipa_axum::router::OpenApiRouter;

pub use serve::Server;

use self::access::Access;
use crate::{
    broker::{Broker, Publisher},
    clock::SystemClock,
    egress,
    model::{Limits, address::Networks},
    telemetry::Metrics,
};

/// How the API answers.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "API")]
#[group(skip)]
pub struct Config {
    /// Address of the API; port 0 takes a free one, which the log names
    #[arg(long, env = "API_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:20437")]
    pub api_address: SocketAddr,
    /// The largest body of a request that publishes events or registers their types, in bytes
    #[arg(long, env = "API_BODY_BYTES_MAX", value_name = "BYTES", default_value_t = 8 * 1024 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1_073_741_824))]
    pub api_body_bytes_max: u32,
    /// Connections to the API that are open at once; further ones wait
    #[arg(long, env = "API_CONNECTIONS_MAX", value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub api_connections_max: u32,
    /// The most time that a request may take, its body included; a test delivery has its webhook's timeout besides
    #[arg(long, env = "API_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub api_request_timeout: Duration,
    /// Origins whose pages may call the API from a browser, separated by commas: `https://admin.example.com`
    #[arg(long, env = "API_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub api_cors_origins: Vec<axum::http::HeaderValue>,
    /// Proxies whose `X-Forwarded-For` is believed: `10.0.0.0/8`
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: Networks,
    /// Who is let in, and how much.
    #[command(flatten)]
    pub access: access::Config,
}

/// Reads an origin. `*` would be every page there is.
fn origin(text: &str) -> Result<axum::http::HeaderValue, String> {
    let url: url::Url = text
        .parse()
        .map_err(|_| format!("`{text}` is no origin; write https://host or https://host:port"))?;
    let origin = url.origin().ascii_serialization();
    if origin == text.trim_end_matches('/') && origin != "null" {
        axum::http::HeaderValue::from_str(&origin).map_err(|error| error.to_string())
    } else {
        Err(format!("`{text}` is no origin; write https://host or https://host:port"))
    }
}

/// What the API is built from.
pub struct Parts {
    /// For what changes.
    pub changes: PgPool,
    /// For who is calling: no list that takes long keeps anybody out.
    pub access: PgPool,
    /// For what only reads; see [`crate::store::pool::reading_pool`].
    pub reads: PgPool,
    /// Where events go.
    pub broker: Broker,
    /// Looks at receivers without sending anything.
    pub client: egress::Client,
    /// Which receivers are taken.
    pub receivers: egress::Config,
    /// Which events are taken: the same as by any other door.
    pub limits: Limits,
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
    pub(crate) access: Access,
    pub(crate) config: Config,
    /// Publishes events on a channel of the API's own.
    pub(crate) publisher: Publisher,
    /// For the jobs of tests.
    pub(crate) jobs: Publisher,
    /// Looks at URLs that are under way.
    pub(crate) url_checks: Semaphore,
    /// Requests under way that publish events under a key.
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
    /// Where nobody can be let in as the settings say.
    pub fn new(config: Config, parts: Parts) -> Result<Self, access::Error> {
        let access = Access::new(&config.access, &parts)?;
        let jobs = parts.broker.publisher();
        let publisher = parts.broker.publisher();
        let url_checks = Semaphore::new(webhooks::CHECKS_MAX);
        let keyed_publishes = Semaphore::new(events::KEYED_PUBLISHES_MAX);
        Ok(Self(Arc::new(Inner { parts, access, config, publisher, jobs, url_checks, keyed_publishes })))
    }

    /// Every route with its layers, and the document that describes them.
    pub fn router(&self) -> (Router, utoipa::openapi::OpenApi) {
        let (router, document) = routes(self.config.api_body_bytes_max as usize).split_for_parts();
        let document = openapi::finish(document);
        let router = router.with_state(self.clone()).merge(openapi::pages(&document));
        (layers::around(router, self, &document), document)
    }
}

/// The routes of every resource. A handler that is not named here is not there, and the document knows no other.
///
/// Who publishes a thousand events at once, or registers schemas, may send as much as the setting says.
fn routes(large_body_bytes_max: usize) -> OpenApiRouter<Api> {
    let large = || DefaultBodyLimit::max(large_body_bytes_max);
    OpenApiRouter::with_openapi(openapi::head())
        .merge(webhooks::routes())
        .merge(audit_log::routes())
        .merge(companies::routes())
        .merge(dead_letters::routes())
        .merge(deliveries::routes())
        .merge(event_types::routes().layer(large()))
        .merge(events::routes().layer(large()))
        .merge(keys::routes())
        .merge(lanes::routes())
        .merge(replays::routes())
}

/// The document alone, for the committed `openapi.json` and for tests.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    openapi::finish(routes(0).into_openapi())
}
