//! The REST API, through which a company's admins and XTSystems manage webhooks, events and the history.
//!
//! ```text
//! request ─▶ id, limits ─▶ who is it? ─▶ may it? ─▶ handler ─▶ store, broker ─▶ response or problem
//!            (layers.rs)    (access/: key, token, limit, scope)    (a file per resource)
//! ```
//!
//! The contract is XTSystems' integration guide with its paths, shapes and codes, plus the other operations of the
//! product. Guarantees: an operation without a scope in the OpenAPI document cannot be called, because access is
//! checked against the document ([`openapi`]); every statement names the company, and an object of another company gets
//! the same response as one that does not exist; an error is an RFC 9457 problem of a closed list ([`problem`]) and
//! discloses nothing internal; read requests cannot slow deliveries, because they have their own connections and their
//! statements have a time limit.
//!
//! Begin with `webhooks.rs`, the first resource: each is a file of handlers with their documentation, and a shape.

pub mod access;
pub(crate) mod audit;
pub(crate) mod audit_log;
pub(crate) mod companies;
pub(crate) mod dead_letters;
pub(crate) mod deliveries;
pub(crate) mod event_types;
pub(crate) mod events;
pub(crate) mod extract;
pub(crate) mod idempotency;
pub(crate) mod keys;
pub(crate) mod lanes;
pub(crate) mod layers;
mod listing;
pub(crate) mod openapi;
pub(crate) mod pagination;
pub(crate) mod preconditions;
pub(crate) mod problem;
pub(crate) mod replays;
mod serve;
mod state;
pub(crate) mod webhooks;

use axum::{Router, extract::DefaultBodyLimit};
use utoipa_axum::router::OpenApiRouter;

pub(crate) use serve::ApiServer;
pub(crate) use state::{Api, Config, Parts};

impl Api {
    /// Every route with its layers, and the document that describes them.
    pub fn router(&self) -> (Router, utoipa::openapi::OpenApi) {
        let (router, document) = routes(self.config.api_body_bytes_max as usize).split_for_parts();
        let document = finish(document);
        let router = router.with_state(self.clone()).merge(openapi::pages(&document));
        (layers::around(router, self, &document), document)
    }
}

/// The routes of every resource. A handler that is not listed here does not exist, also not in the document.
///
/// Only requests that publish events or register schemas may be as large as the setting allows.
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
    finish(routes(0).into_openapi())
}

/// The document with what is common to all operations.
fn finish(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    events::describe_problem(&mut document);
    openapi::finish(document)
}
