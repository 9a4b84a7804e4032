//! A company's registered URL, with what it wants and how it wants it.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{
    id::{CompanyId, WebhookId},
    lane::Standing,
    retry_policy::RetryPolicy,
    signature::Secret,
};

/// Why, since when and by whose doing nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it was paused, by the database's clock.
    pub since: DateTime<Utc>,
    /// Who paused it: a person, or `xtwebhooks` itself.
    pub by: String,
    /// The reason, in words for a person.
    pub why: String,
}

/// A webhook as the pipeline needs it at each attempt.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Its company.
    pub company: CompanyId,
    /// Its name, unique in the company among the living.
    pub name: String,
    /// Where to post.
    pub url: String,
    /// The event types wanted, with wildcards.
    pub events: Vec<String>,
    /// An inactive webhook matches nothing; what is open of it is cancelled.
    pub active: bool,
    /// Signs every request.
    pub secret: Secret,
    /// The secret before the last rotation and the end of its grace.
    pub previous_secret: Option<(Secret, DateTime<Utc>)>,
    /// Whether the guide's header bears the previous secret's signature until the grace ends.
    pub guide_signature_is_previous: bool,
    /// Headers of its own.
    pub headers: BTreeMap<String, String>,
    /// How many attempts, and when.
    pub retry: RetryPolicy,
    /// The whole time an attempt may take.
    pub timeout: Duration,
    /// Requests at once in a worker; absent where the service's default holds.
    pub max_in_flight: Option<u32>,
    /// Requests a second over all workers; absent where there is no limit.
    pub rate_limit: Option<f64>,
    /// How its lane stands.
    pub lane: Standing,
    /// Set while it is paused.
    pub pause: Option<Pause>,
    /// Deleted: what is open of it is cancelled, the history stays.
    pub deleted: bool,
}
