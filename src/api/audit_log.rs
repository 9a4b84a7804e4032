//! `/v1/audit-log`: who changed what, and what it was before. What writes it is `audit.rs`.

use axum::{extract::State, response::Response};
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    access::Caller,
    extract::Query,
    listing::{PageRequest, Paging},
    pagination::{COUNT_MAX, COUNT_TIMEOUT, cut},
    problem::{FieldError, Problem},
};
use crate::store::audit_log as table;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A change that was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its id.
    pub id: Uuid,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// Whose thing was changed; null where it belongs to no company.
    #[schema(required = true)]
    pub company_id: Option<Uuid>,
    /// Who did it: `key xtwh_ab12cd34`, `user 5f0c…`, `command line root`.
    #[schema(example = "key xtwh_ab12cd34")]
    pub actor: String,
    /// What was done: `webhook.update`, `key.create`.
    #[schema(example = "webhook.update")]
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    /// The fields that differ, as they were; null where there was nothing. Secrets are not in it.
    #[schema(required = true)]
    pub before: Option<Value>,
    /// The fields that differ, as they are since; null where nothing is left. Secrets are not in it.
    #[schema(required = true)]
    pub after: Option<Value>,
    /// The address that the call came from; null where it came over none.
    #[schema(required = true)]
    pub address: Option<String>,
}

impl From<table::Written> for AuditEntry {
    fn from(row: table::Written) -> Self {
        let value = |text: Option<String>| serde_json::from_str(&text?).ok();
        Self {
            id: row.id,
            at: row.at,
            company_id: row.company_id,
            actor: row.actor,
            action: row.action,
            subject: row.subject,
            before: value(row.before),
            after: value(row.after),
            address: row.address,
        }
    }
}

/// How the log is narrowed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListEntries {
    /// Only what they did: `key xtwh_ab12cd34`
    actor: Option<String>,
    /// Only when this was done: `webhook.update`
    action: Option<String>,
    /// Only what was done to the thing of this id
    subject: Option<String>,
    /// Only from then on (RFC 3339)
    since: Option<DateTime<Utc>>,
    /// Only before then (RFC 3339)
    until: Option<DateTime<Utc>>,
}

/// Who changed what
///
/// Newest first. Who may reach all companies and names none sees the changes in all, and those that concern none.
#[utoipa::path(
    get,
    path = "/v1/audit-log",
    tag = "Audit log",
    operation_id = "listAuditLog",
    params(Paging, ListEntries),
    responses((
        status = OK, description = "A page of entries", body = [AuditEntry],
        headers(
            ("link" = String, description = "Leads to the next page, if there is one"),
            ("x-total-count" = String, description = "How many there are, if that was asked for; `10000+` for more"),
        ),
    )),
    security(("bearer" = ["keys:manage"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    asked: PageRequest,
    Query(query): Query<ListEntries>,
) -> Result<Response, Problem> {
    let company = caller.reach()?;
    let page = asked.of::<(DateTime<Utc>, Uuid)>(company)?;
    let times = [("since", query.since), ("until", query.until)];
    let errors = times.into_iter().filter(|(_, time)| time.is_some_and(|time| !is_of_our_age(time)));
    let errors: Vec<_> =
        errors.map(|(field, _)| FieldError::new(field, "must lie in the years 1 to 9999")).collect();
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    if page.after.is_some_and(|(at, _)| !is_of_our_age(at)) {
        return Err(Problem::field("cursor", "is none of this list; begin without one"));
    }
    let wanted = table::AuditQuery {
        company,
        actor: query.actor,
        action: query.action,
        subject: query.subject,
        since: query.since,
        until: query.until,
    };
    let db = &api.parts.reads;
    let mut rows = table::list(db, &wanted, page.after, i64::from(page.rows()) + 1).await?;
    let next = cut(&mut rows, page.rows(), |row| (row.at, row.id));
    // Whoever waits for the page shall not wait for its number.
    let count = page.counted(table::count(db, &wanted, (COUNT_MAX, COUNT_TIMEOUT))).await?;
    let rows: Vec<AuditEntry> = rows.into_iter().map(AuditEntry::from).collect();
    Ok(page.answer(&rows, next, count))
}

/// Whether the database can hold an instant: it knows fewer years than the parser.
fn is_of_our_age(time: DateTime<Utc>) -> bool {
    (1..=9999).contains(&time.year())
}
