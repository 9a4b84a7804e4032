//! `/v1/dead-letters`: what was given up and why, to be replayed or discarded.
//!
//! A company sees only its own. A message that names no company is visible only to an administrator of all companies, and
//! cannot be replayed, because the company of its events is unknown.

mod shape;

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, openapi::Schema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub use shape::DeadLetter;

use super::{
    Api,
    access::{Caller, Scope},
    audit,
    extract::{Id, Named, Query},
    idempotency::IdempotencyKey,
    listing::{Listed, PageOf, PageRequest, Paging, Reader, texts_schema, within_reach, words_schema},
    pagination::{COUNT_MAX, COUNT_TIMEOUT},
    problem::{Problem, ProblemBody, ProblemKind},
    replays::{self, Replay},
};
use crate::{
    model::{
        CompanyId,
        dead_letter::{DeadLetterKind, DeadLetterStatus},
    },
    store::{dead_letters as table, replays::ReplayFilter, search},
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(replay))
        .routes(routes!(discard))
}

/// The id of a dead letter: of a delivery's, the delivery's own.
#[derive(Clone, Copy, Debug)]
struct LetterId(Uuid);

impl std::str::FromStr for LetterId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl Named for LetterId {
    const NOT_FOUND: &'static str = "Dead letter not found";
}

fn kinds() -> Schema {
    words_schema(DeadLetterKind::WORDS)
}

fn statuses() -> Schema {
    words_schema(DeadLetterStatus::WORDS)
}

/// Filters of dead letters. Lists are separated by commas; one item of each list must match.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DeadLettersQuery {
    /// Only these kinds: a `delivery` that was given up, an `event` or a `message` that could not be ingested.
    #[param(schema_with = kinds, style = Form, explode = false)]
    kind: Option<String>,
    /// Only dead letters in these states: `open`, `replayed`, `discarded`.
    #[param(schema_with = statuses, style = Form, explode = false)]
    status: Option<String>,
    /// Only dead letters of this webhook.
    webhook_id: Option<Uuid>,
    /// Only dead letters whose reason begins with one of these: `attempts exhausted`.
    #[param(schema_with = texts_schema, style = Form, explode = false)]
    reason: Option<String>,
    /// Only dead letters given up at this time or later.
    since: Option<DateTime<Utc>>,
    /// Only dead letters given up before this time.
    until: Option<DateTime<Utc>>,
}

impl DeadLettersQuery {
    fn read(&self, company: Option<CompanyId>) -> Result<search::DeadLetterQuery, Problem> {
        let mut reader = Reader::default();
        let query = search::DeadLetterQuery {
            company,
            webhook: self.webhook_id,
            kinds: reader.words("kind", self.kind.as_deref(), DeadLetterKind::WORDS),
            statuses: reader.words("status", self.status.as_deref(), DeadLetterStatus::WORDS),
            reasons: reader.texts("reason", self.reason.as_deref()),
            since: within_reach(self.since),
            until: within_reach(self.until),
        };
        reader.done()?;
        Ok(query)
    }
}

/// The company of a request; none, for all companies, only for an administrator of all companies.
fn whose(caller: &Caller) -> Result<Option<CompanyId>, Problem> {
    match caller.company {
        Some(company) => Ok(Some(company)),
        None if caller.all_companies && caller.may(Scope::Admin) => Ok(None),
        None => Err(Problem::new(
            ProblemKind::CompanyRequired,
            "the credentials are valid for several companies; name one in the header X-Company-Id",
        )),
    }
}

impl Listed for DeadLetter {
    const ALL: &'static str = "The dead letters";
}

/// List dead letters
///
/// Newest first, without their bodies. Without `X-Company-Id`, credentials for all companies with the scope `admin`
/// list those of every company and those that name none. With a filter that matches few, a page may have fewer items
/// than the limit; follow `Link` to continue.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "Dead letters",
    operation_id = "listDeadLetters",
    params(Paging, DeadLettersQuery),
    responses(PageOf<DeadLetter>),
    security(("bearer" = ["deliveries:read"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    page_request: PageRequest,
    Query(choice): Query<DeadLettersQuery>,
) -> Result<Response, Problem> {
    let (db, company) = (&api.parts.reads, whose(&caller)?);
    let (query, page) = (choice.read(company)?, page_request.of(company)?);
    let found = search::dead_letters(db, &query, page.after, page.rows().into()).await?;
    let rows = table::by_ids(db, company, &found.ids).await?;
    let count = page.counted(search::count_dead_letters(db, &query, (COUNT_MAX, COUNT_TIMEOUT))).await?;
    let bodies = caller.may(Scope::PayloadsRead);
    let rows: Vec<_> = rows.into_iter().map(|row| DeadLetter::shown(row, bodies)).collect();
    Ok(page.answer(&rows, found.next, count))
}

/// Get a dead letter
///
/// With its body, if the credentials have the scope `payloads:read`.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{dead_letter_id}",
    tag = "Dead letters",
    operation_id = "getDeadLetter",
    params(("dead_letter_id" = Uuid, Path, description = "The dead letter; for a delivery, the id of the delivery")),
    responses((status = OK, description = "The dead letter", body = DeadLetter)),
    security(("bearer" = ["deliveries:read"])),
)]
async fn get(
    State(api): State<Api>,
    caller: Caller,
    Id(LetterId(id)): Id<LetterId>,
) -> Result<axum::Json<DeadLetter>, Problem> {
    let row = find(&api, whose(&caller)?, id).await?;
    Ok(axum::Json(DeadLetter::shown(row, caller.may(Scope::PayloadsRead))))
}

/// Replay a dead letter
///
/// A delivery is sent again with the same `webhook-id`; a message is ingested again unchanged. The dead letter becomes
/// `replayed`. A dead letter that names no company cannot be replayed.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{dead_letter_id}/replay",
    tag = "Dead letters",
    operation_id = "replayDeadLetter",
    params(
        ("dead_letter_id" = Uuid, Path, description = "The dead letter"),
        ("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once"),
    ),
    responses(
        (status = ACCEPTED, description = "The replay, which has been started", body = Replay),
        (status = CONFLICT, description = "The dead letter names no company", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["deliveries:replay"])),
)]
async fn replay(
    State(api): State<Api>,
    caller: Caller,
    Id(LetterId(id)): Id<LetterId>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let row = find(&api, whose(&caller)?, id).await?;
    let company = row.company_id.map(CompanyId).ok_or_else(|| {
        Problem::new(
            ProblemKind::Conflict,
            "the dead letter names no company and cannot be replayed; publish the corrected event again",
        )
    })?;
    let filter = if row.kind == DeadLetterKind::Delivery {
        ReplayFilter { deliveries: vec![id], ..ReplayFilter::default() }
    } else {
        ReplayFilter { messages: vec![id], ..ReplayFilter::default() }
    };
    let order = replays::Order { company, webhook: None, filter: &filter, rate: replays::RATE_DEFAULT };
    order.write(&api, &caller, key).await
}

/// Discard a dead letter
///
/// Marks it as no longer wanted: it stays visible, and no filter of a replay includes it. Discarding it again changes
/// nothing. A dead letter that was already replayed cannot be discarded.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{dead_letter_id}/discard",
    tag = "Dead letters",
    operation_id = "discardDeadLetter",
    params(("dead_letter_id" = Uuid, Path, description = "The dead letter")),
    responses(
        (status = OK, description = "The dead letter", body = DeadLetter),
        (status = CONFLICT, description = "The dead letter was already replayed", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["deliveries:replay"])),
)]
async fn discard(
    State(api): State<Api>,
    caller: Caller,
    Id(LetterId(id)): Id<LetterId>,
) -> Result<axum::Json<DeadLetter>, Problem> {
    let company = whose(&caller)?;
    let mut tx = api.parts.changes.begin().await?;
    let discarded = table::discard(&mut *tx, company, id).await?;
    let row = table::get(&mut *tx, company, id).await?;
    let row = row.ok_or_else(|| Problem::not_found(LetterId::NOT_FOUND))?;
    if discarded {
        let (before, after) =
            (serde_json::json!({"status": "open"}), serde_json::json!({"status": row.status}));
        let of = row.company_id.map(CompanyId);
        let change = (Some(before), Some(after));
        audit::write(&mut tx, &caller, of, "dead_letter.discard", &id.to_string(), change).await?;
    } else if row.status == DeadLetterStatus::Replayed {
        return Err(Problem::new(ProblemKind::Conflict, "the dead letter was already replayed"));
    }
    tx.commit().await?;
    Ok(axum::Json(DeadLetter::shown(row, caller.may(Scope::PayloadsRead))))
}

async fn find(api: &Api, company: Option<CompanyId>, id: Uuid) -> Result<table::DeadLetterRow, Problem> {
    let row = table::get(&api.parts.reads, company, id).await?;
    row.ok_or_else(|| Problem::not_found(LetterId::NOT_FOUND))
}
