//! `/v1/companies`: erasing a company. XTSystems owns companies; here a company is only an id that other objects have.

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

/// Whether an erasure has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStatus {
    /// Something is left to erase.
    Running,
    /// Nothing is left to erase.
    Done,
}

/// The progress of the erasure of a company.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Erasure {
    /// The company that is erased.
    pub company_id: Uuid,
    /// Whether anything is left to erase.
    #[schema(example = "running")]
    pub status: ErasureStatus,
    /// The current step: `deliveries`, `events`, `dead_letters`, `records`, `webhooks`, then `done`.
    #[schema(example = "deliveries")]
    pub stage: String,
    /// When the erasure was requested.
    pub asked_at: DateTime<Utc>,
    /// Who requested it.
    pub asked_by: String,
    /// When it was completed.
    #[schema(required = true)]
    pub done_at: Option<DateTime<Utc>>,
    /// Webhooks removed so far.
    pub webhooks: i64,
    /// Deliveries whose contents, and those of their attempts, were removed so far.
    pub deliveries: i64,
    /// How many of these were still pending or held, and were cancelled.
    pub cancelled: i64,
    /// Events removed so far.
    pub events: i64,
    /// Dead letters removed so far.
    pub dead_letters: i64,
    /// Other rows removed so far: names in the audit log, replays, statistics.
    pub records: i64,
    /// Messages for the company that arrived since the request and were dropped.
    pub dropped: i64,
    /// When the last of these messages arrived.
    #[schema(required = true)]
    pub dropped_at: Option<DateTime<Utc>>,
}

impl From<erasures::ErasureRow> for Erasure {
    fn from(row: erasures::ErasureRow) -> Self {
        Self {
            status: if row.done_at.is_some() { ErasureStatus::Done } else { ErasureStatus::Running },
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
/// Its webhooks disappear from every list immediately, nothing more is sent, and its keys are revoked. Its contents are
/// removed afterwards, in chunks: events, bodies, dead letters, and the names in its audit log. Messages that arrive
/// for the company from now on are dropped and counted. This cannot be undone. A repeated request continues the
/// erasure; once it is done, a repeated request starts a new one.
#[utoipa::path(
    delete,
    path = "/v1/companies/{company_id}",
    tag = "Companies",
    operation_id = "eraseCompany",
    params(("company_id" = uuid::Uuid, Path, description = "The company")),
    responses((status = ACCEPTED, description = "The erasure has started", body = Erasure)),
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

/// Get the progress of an erasure
#[utoipa::path(
    get,
    path = "/v1/companies/{company_id}/erasure",
    tag = "Companies",
    operation_id = "getErasure",
    params(("company_id" = uuid::Uuid, Path, description = "The company")),
    responses((status = OK, description = "The progress of the erasure", body = Erasure)),
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

/// Only credentials for all companies may erase one, because a company's own would be erased with it. Credentials for one
/// company learn nothing about others, not even that they exist.
fn may_see(caller: &Caller, company: CompanyId) -> Result<(), Problem> {
    if caller.all_companies {
        Ok(())
    } else if caller.company == Some(company) {
        Err(Problem::new(ProblemKind::Forbidden, "this operation needs credentials for all companies"))
    } else {
        Err(Problem::not_found("Company not found"))
    }
}
