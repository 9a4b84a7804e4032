//! The boundary to receivers: the only place that opens connections to them.
//!
//! A stage hands a signed request to [`ReceiverClient::post`] and gets an [`Exchange`](crate::model::Exchange): what
//! the receiver or the network did is a value, never an error. Guarantees: every address is judged, and the address
//! judged is the one connected to; whatever the receiver does, an attempt ends within its timeout and keeps a bounded
//! part of the answer; a request is repeated only when a reused connection broke before the first byte of an answer,
//! and the record says so.
//!
//! Begin with `client.rs`, the steps of one request in their order. `guard.rs` judges, `resolver.rs` resolves names,
//! `connect.rs` opens connections, `connection.rs` is one connection, `pool.rs` keeps those that can be used again,
//! `check.rs` checks a receiver without a request, `answer.rs` turns answers into outcomes, `error_text.rs` describes
//! errors. Separate from all that, `operator.rs` calls the operator's own services, at addresses from the settings.

mod answer;
mod check;
mod client;
mod config;
mod connect;
mod connection;
mod error_text;
mod guard;
mod operator;
mod pool;
mod rate_limit;
mod resolver;
mod timing;
mod tls;

pub(crate) use check::{Address, Looked};
pub use client::ReceiverClient;
pub use config::{Config, DnsServers};
pub(crate) use operator::{ASK_TIMEOUT, AskError, OperatorClient};

/// Why a client cannot be built: a setting that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named by `EXTRA_CA_FILE` cannot be read or holds no certificate.
    #[error("EXTRA_CA_FILE {path} has no usable certificate: {reason}")]
    ExtraCa {
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS library refuses its own defaults.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The resolver refuses its settings.
    #[error("cannot set up name resolution: {0}")]
    Resolver(String),
    /// The client for the operator's own services refuses its settings.
    #[error("cannot set up the client for JWT_JWKS_URL and AUTH_USERINFO_URL: {0}")]
    Operator(String),
}
