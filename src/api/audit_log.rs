//! `/v1/audit-log`: who changed what. `audit.rs` writes the entries.

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

/// A recorded change.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Its id.
    pub id: Uuid,
    /// When the change was made.
    pub at: DateTime<Utc>,
    /// The company of the changed object; null if it belongs to no company.
    #[schema(required = true)]
    pub company_id: Option<Uuid>,
    /// Who made the change: `key xtwh_ab12cd34`, `user 5f0c…`, `command line root`.
    #[schema(example = "key xtwh_ab12cd34")]
    pub actor: String,
    /// The action: `webhook.update`, `key.create`.
    #[schema(example = "webhook.update")]
    pub action: String,
    /// The id of the changed object.
    pub subject: String,
    /// The changed fields before the change; null if the object did not exist. Secrets are not included.
    #[schema(required = true)]
    pub before: Option<Value>,
    /// The changed fields after the change; null if the object no longer exists. Secrets are not included.
    #[schema(required = true)]
    pub after: Option<Value>,
    /// The IP address of the caller; null if the change did not come over the network.
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
    /// Only changes by this actor: `key xtwh_ab12cd34`
    actor: Option<String>,
    /// Only this action: `webhook.update`
    action: Option<String>,
    /// Only changes of the object with this id
    subject: Option<String>,
    /// Only changes at this time or later (RFC 3339)
    since: Option<DateTime<Utc>>,
    /// Only changes before this time (RFC 3339)
    until: Option<DateTime<Utc>>,
}

/// List the audit log
///
/// Newest first. Without `X-Company-Id`, credentials for all companies list the changes in every company and those that
/// belong to none.
#[utoipa::path(
    get,
    path = "/v1/audit-log",
    tag = "Audit log",
    operation_id = "listAuditLog",
    params(Paging, ListEntries),
    responses((
        status = OK, description = "A page of audit entries", body = [AuditEntry],
        headers(
            ("link" = String, description = "The next page, with rel=\"next\"; absent on the last page"),
            ("x-total-count" = String, description = "With `count=capped`: the number of entries, or `10000+`"),
        ),
    )),
    security(("bearer" = ["keys:manage"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    page_request: PageRequest,
    Query(query): Query<ListEntries>,
) -> Result<Response, Problem> {
    let company = caller.reach()?;
    let page = page_request.of::<(DateTime<Utc>, Uuid)>(company)?;
    let times = [("since", query.since), ("until", query.until)];
    let errors = times.into_iter().filter(|(_, time)| time.is_some_and(|time| !is_of_our_age(time)));
    let errors: Vec<_> =
        errors.map(|(field, _)| FieldError::new(field, "must be in the years 1 to 9999")).collect();
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    if page.after.is_some_and(|(at, _)| !is_of_our_age(at)) {
        return Err(Problem::field(
            "cursor",
            "does not belong to this list or its filters; start again without a cursor",
        ));
    }
    let query = table::AuditQuery {
        company,
        actor: query.actor,
        action: query.action,
        subject: query.subject,
        since: query.since,
        until: query.until,
    };
    let db = &api.parts.reads;
    let mut rows = table::list(db, &query, page.after, i64::from(page.rows()) + 1).await?;
    let next = cut(&mut rows, page.rows(), |row| (row.at, row.id));
    // The page does not wait for a slow count.
    let count = page.counted(table::count(db, &query, (COUNT_MAX, COUNT_TIMEOUT))).await?;
    let rows: Vec<AuditEntry> = rows.into_iter().map(AuditEntry::from).collect();
    Ok(page.answer(&rows, next, count))
}

/// Whether the database can hold an instant: it knows fewer years than the parser.
fn is_of_our_age(time: DateTime<Utc>) -> bool {
    (1..=9999).contains(&time.year())
}
