//! `/v1/companies`: to forget one. XTSystems owns companies; here one is nothing but an id that other things bear.

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    Api,
    access::Caller,
    audit,
    extract::Id,
    problem::{Problem, ProblemKind},
};
use crate::{model::CompanyId, store::erasures};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(erase)).routes(routes!(erasure))
}

/// How far the erasure of a company has come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// Whose things go.
    pub company_id: Uuid,
    /// `running`, or `done` when nothing is left.
    #[schema(example = "running")]
    pub status: String,
    /// What is being worked on: `deliveries`, `events`, `dead_letters`, `records`, `webhooks`, and then `done`.
    #[schema(example = "deliveries")]
    pub stage: String,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// By whom.
    pub asked_by: String,
    /// When nothing was left.
    #[schema(required = true)]
    pub done_at: Option<DateTime<Utc>>,
    /// Webhooks that were removed so far.
    pub webhooks: i64,
    /// Deliveries whose texts were removed so far, with those of their attempts.
    pub deliveries: i64,
    /// Those of them that were still owed, and are cancelled.
    pub cancelled: i64,
    /// Events that were removed so far.
    pub events: i64,
    /// Dead letters that were removed so far.
    pub dead_letters: i64,
    /// Other rows: names in the audit log, orders to replay, statistics.
    pub records: i64,
    /// Messages that arrived for the company since, and were dropped.
    pub dropped: i64,
    /// When the last of them arrived.
    #[schema(required = true)]
    pub dropped_at: Option<DateTime<Utc>>,
}

impl From<erasures::ErasureRow> for Erasure {
    fn from(row: erasures::ErasureRow) -> Self {
        Self {
            status: if row.done_at.is_some() { "done" } else { "running" }.to_owned(),
            company_id: row.company_id,
            stage: row.stage,
            asked_at: row.asked_at,
            asked_by: row.asked_by,
            done_at: row.done_at,
            webhooks: row.webhooks,
            deliveries: row.deliveries,
            cancelled: row.cancelled,
            events: row.events,
            dead_letters: row.dead_letters,
            records: row.records,
            dropped: row.dropped,
            dropped_at: row.dropped_at,
        }
    }
}

/// Erase a company
///
/// Its webhooks are gone from every list at once and nothing more is sent; its keys are revoked. Its texts go
/// afterwards, in chunks: events, bodies, dead letters, and the names in its audit log. What arrives for it from now on
/// is dropped and counted. This cannot be undone. Asked for again it goes on, and once it is done it begins anew.
#[utoipa::path(
    delete,
    path = "/v1/companies/{company_id}",
    tag = "Companies",
    operation_id = "eraseCompany",
    params(("company_id" = uuid::Uuid, Path, description = "The company")),
    responses((status = ACCEPTED, description = "It is under way", body = Erasure)),
    security(("bearer" = ["admin"])),
)]
async fn erase(
    State(api): State<Api>,
    caller: Caller,
    Id(company): Id<CompanyId>,
) -> Result<(StatusCode, axum::Json<Erasure>), Problem> {
    may_see(&caller, company)?;
    let mut tx = api.parts.changes.begin().await?;
    erasures::ask(&mut tx, company, &caller.actor).await?;
    audit::write(&mut tx, &caller, Some(company), "company.erase", &company.to_string(), (None, None))
        .await?;
    let erasure = erasures::get(&mut *tx, company).await?;
    tx.commit().await?;
    let erasure = erasure.ok_or_else(|| Problem::not_found("Erasure not found"))?;
    Ok((StatusCode::ACCEPTED, axum::Json(erasure.into())))
}

/// How an erasure stands
#[utoipa::path(
    get,
    path = "/v1/companies/{company_id}/erasure",
    tag = "Companies",
    operation_id = "getErasure",
    params(("company_id" = uuid::Uuid, Path, description = "The company")),
    responses((status = OK, description = "How far it has come", body = Erasure)),
    security(("bearer" = ["admin"])),
)]
async fn erasure(
    State(api): State<Api>,
    caller: Caller,
    Id(company): Id<CompanyId>,
) -> Result<axum::Json<Erasure>, Problem> {
    may_see(&caller, company)?;
    let erasure = erasures::get(&api.parts.reads, company).await?;
    let erasure = erasure.ok_or_else(|| Problem::not_found("Erasure not found"))?;
    Ok(axum::Json(erasure.into()))
}

/// Only credentials of all companies may end one: a company's own would end with it. Those of one company learn nothing
/// of others, not even that there are any.
fn may_see(caller: &Caller, company: CompanyId) -> Result<(), Problem> {
    if caller.all_companies {
        Ok(())
    } else if caller.company == Some(company) {
        Err(Problem::new(ProblemKind::Forbidden, "this needs credentials of all companies"))
    } else {
        Err(Problem::not_found("Company not found"))
    }
}
