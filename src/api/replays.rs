//! `/v1/replays`: sending deliveries again, by their ids or by a filter.
//!
//! A replay is a row: schedule expands it and paces the deliveries it creates, even after a crash. Receivers see the same
//! `webhook-id` as before, and `X-XTSystems-Trigger: replay`.

mod shape;

use axum::{extract::State, http::StatusCode, response::Response};
use futures_util::TryFutureExt;
use serde::Deserialize;
use utoipa::{IntoParams, openapi::Schema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub use shape::{NewReplay, Replay};

use super::{
    Api,
    access::{Caller, Tenant},
    audit,
    extract::{Id, Json, Query},
    idempotency::{IdempotencyKey, KeyClaim, request_bytes},
    listing::{Listed, PageOf, PageRequest, Paging, Reader, words_schema},
    pagination::{COUNT_MAX, cut},
    problem::{Problem, ProblemBody, ProblemKind},
};
use crate::{
    model::{
        CompanyId, DeliveryId, ReplayId, WebhookId,
        replay::{ReplayKind, ReplayStatus},
    },
    store::{
        dead_letters, history,
        replays::{self as table, ReplayFilter},
        webhooks,
    },
};

/// The default number of deliveries per second.
pub const RATE_DEFAULT: i32 = 50;
/// The maximum number of ids in one order; more need a filter.
pub const IDS_MAX: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(replay_one)).routes(routes!(create, list)).routes(routes!(get))
}

fn kinds() -> Schema {
    words_schema(ReplayKind::WORDS)
}

fn statuses() -> Schema {
    words_schema(ReplayStatus::WORDS)
}

/// Filters of replays. Lists are separated by commas; one item of each list must match.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReplaysQuery {
    /// Only these kinds: requested (`replay`), from a webhook's `resume`, from its `recovery` after an outage.
    #[param(schema_with = kinds, style = Form, explode = false)]
    kind: Option<String>,
    /// Only replays in these states.
    #[param(schema_with = statuses, style = Form, explode = false)]
    status: Option<String>,
    /// Only replays of this webhook.
    webhook_id: Option<Uuid>,
}

/// Replay a delivery
///
/// Sends it again with the same `webhook-id`, whatever its state. The old delivery stays unchanged, but if it is still
/// pending or held, it is cancelled as *superseded* by the new one.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{delivery_id}/replay",
    tag = "Replays",
    operation_id = "replayDelivery",
    params(
        ("delivery_id" = Uuid, Path, description = "The delivery"),
        ("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once"),
    ),
    responses((status = ACCEPTED, description = "The replay, which has been started", body = Replay)),
    security(("bearer" = ["deliveries:replay"])),
)]
async fn replay_one(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<DeliveryId>,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let known = history::known(&api.parts.reads, tenant.company, &[id.uuid()]).await?;
    if known.is_empty() {
        return Err(Problem::not_found("Delivery not found"));
    }
    let filter = ReplayFilter { deliveries: known, ..ReplayFilter::default() };
    let order = Order { company: tenant.company, webhook: None, filter: &filter, rate: RATE_DEFAULT };
    order.write(&api, &tenant.caller, key).await
}

/// Replay deliveries
///
/// Sends the listed deliveries and dead letters again, or all deliveries that match the filter. The request must have
/// either ids or a filter.
#[utoipa::path(
    post,
    path = "/v1/replays",
    tag = "Replays",
    operation_id = "createReplay",
    params(("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once")),
    request_body = NewReplay,
    responses(
        (status = ACCEPTED, description = "The replay, which has been started", body = Replay),
        (status = NOT_FOUND, description = "A listed id, or the webhook, does not belong to the company", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["deliveries:replay"])),
)]
async fn create(
    State(api): State<Api>,
    tenant: Tenant,
    key: IdempotencyKey,
    Json(new): Json<NewReplay>,
) -> Result<Response, Problem> {
    let (filter, rate) = new.read()?;
    let webhook = filter.webhook_id.map(WebhookId);
    if let Some(webhook) = webhook {
        let living = webhooks::get(&api.parts.reads, tenant.company, webhook).await?;
        living.ok_or_else(|| Problem::not_found("Webhook not found"))?;
    }
    let filter = match filter.deliveries.as_slice() {
        [] => filter,
        listed => by_ids(&api, tenant.company, listed).await?,
    };
    let order = Order { company: tenant.company, webhook, filter: &filter, rate };
    order.write(&api, &tenant.caller, key).await
}

impl Listed for Replay {
    const ALL: &'static str = "The replays";
}

/// List replays
///
/// Newest first, including those created by resumes and recoveries.
#[utoipa::path(
    get,
    path = "/v1/replays",
    tag = "Replays",
    operation_id = "listReplays",
    params(Paging, ReplaysQuery),
    responses(PageOf<Replay>),
    security(("bearer" = ["deliveries:read"])),
)]
async fn list(
    State(api): State<Api>,
    tenant: Tenant,
    page_request: PageRequest,
    Query(choice): Query<ReplaysQuery>,
) -> Result<Response, Problem> {
    let mut reader = Reader::default();
    let (kinds, statuses) = (
        reader.words("kind", choice.kind.as_deref(), ReplayKind::WORDS),
        reader.words("status", choice.status.as_deref(), ReplayStatus::WORDS),
    );
    reader.done()?;
    let page = page_request.of(Some(tenant.company))?;
    let webhook = choice.webhook_id.map(WebhookId);
    let (db, query) =
        (&api.parts.reads, table::ReplayListQuery { kinds, statuses, webhook, before: page.after });
    let mut rows = table::list(db, tenant.company, &query, i64::from(page.rows()) + 1).await?;
    let next = cut(&mut rows, page.rows(), |row| (row.started_at, row.id.uuid()));
    let count = page.counted(table::count(db, tenant.company, &query, COUNT_MAX).map_ok(Some)).await?;
    let rows: Vec<Replay> = rows.into_iter().map(Replay::from).collect();
    Ok(page.answer(&rows, next, count))
}

/// Get a replay
///
/// With its progress: how many deliveries it has created, and how many of these have not ended yet.
#[utoipa::path(
    get,
    path = "/v1/replays/{replay_id}",
    tag = "Replays",
    operation_id = "getReplay",
    params(("replay_id" = Uuid, Path, description = "The replay")),
    responses((status = OK, description = "The replay", body = Replay)),
    security(("bearer" = ["deliveries:read"])),
)]
async fn get(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<ReplayId>,
) -> Result<axum::Json<Replay>, Problem> {
    let row = table::get(&api.parts.reads, tenant.company, id).await?;
    let row = row.ok_or_else(|| Problem::not_found("Replay not found"))?;
    let open = match row.kind.as_str() {
        // A resume creates nothing: it releases held deliveries.
        "resume" => None,
        _ => Some(table::open(&api.parts.reads, tenant.company, id).await?),
    };
    Ok(axum::Json(Replay { open, ..row.into() }))
}

/// A dead letter of a delivery has the id of the delivery; ids of messages are kept apart.
async fn by_ids(api: &Api, company: CompanyId, ids: &[Uuid]) -> Result<ReplayFilter, Problem> {
    let deliveries = history::known(&api.parts.reads, company, ids).await?;
    let mut filter = ReplayFilter { deliveries, ..ReplayFilter::default() };
    for (id, kind) in dead_letters::known(&api.parts.reads, company, ids).await? {
        match kind.as_str() {
            "delivery" if !filter.deliveries.contains(&id) => filter.deliveries.push(id),
            "delivery" => {}
            _ => filter.messages.push(id),
        }
    }
    match ids.iter().find(|id| !filter.deliveries.contains(id) && !filter.messages.contains(id)) {
        Some(unknown) => Err(Problem::new(
            ProblemKind::NotFound,
            format!("no delivery or dead letter of this company has the id {unknown}"),
        )),
        None => Ok(filter),
    }
}

/// An order to send deliveries again.
pub(super) struct Order<'a> {
    pub company: CompanyId,
    /// The webhook, if it is for one.
    pub webhook: Option<WebhookId>,
    /// The deliveries or messages.
    pub filter: &'a ReplayFilter,
    /// Deliveries per second.
    pub rate: i32,
}

impl Order<'_> {
    /// Stores the order; schedule finds it there.
    pub(super) async fn write(
        self,
        api: &Api,
        caller: &Caller,
        key: IdempotencyKey,
    ) -> Result<Response, Problem> {
        let Self { company, webhook, filter, rate } = self;
        let mut tx = api.parts.changes.begin().await?;
        let request = request_bytes(&(filter, rate))?;
        let claim = match key.claim(&mut tx, caller, Some(company), &request).await? {
            KeyClaim::Again(answer) => return Ok(answer),
            KeyClaim::First(claim) => claim,
        };
        let kind = ReplayKind::Replay;
        let id = table::create(&mut *tx, company, kind, webhook, filter, rate, &caller.actor).await?;
        let row = table::get(&mut *tx, company, id).await?;
        let replay: Replay = row.ok_or_else(|| Problem::not_found("Replay not found"))?.into();
        let shown = audit::shown(&replay);
        audit::write(&mut tx, caller, Some(company), "replay.create", &id.to_string(), (None, shown)).await?;
        let answer = claim.keep(&mut tx, StatusCode::ACCEPTED, &replay).await?;
        tx.commit().await?;
        Ok(answer)
    }
}
