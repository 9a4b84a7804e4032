//! `/v1/deliveries`, and the deliveries of one webhook: what was sent to whom with which result.

mod filter;
mod hidden;
mod shape;

use std::collections::HashMap;

use axum::{extract::State, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub use filter::{DeliveriesQuery, OfWebhooks};
pub use shape::{AttemptBody, Delivery};

use super::{
    Api,
    access::{Scope, Tenant},
    extract::{Id, Query},
    listing::{Listed, PageOf, PageRequest, Paging},
    pagination::{COUNT_MAX, COUNT_TIMEOUT},
    problem::Problem,
};
use crate::{
    model::{DeliveryId, DeliveryStatus, WebhookId, why},
    store::{dead_letters, history, search, webhooks},
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_of_webhook)).routes(routes!(list)).routes(routes!(get))
}

/// List the deliveries of a webhook
///
/// Newest first, also for a deleted webhook. Without the scope `payloads:read`, `payload` and `response_body` are null.
/// A page searches about 20,000 deliveries at most; with a filter that matches few, it may have fewer items than the
/// limit, or none. Follow `Link` to continue; the last page has no `Link`.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}/deliveries",
    tag = "Deliveries",
    operation_id = "listWebhookDeliveries",
    params(("webhook_id" = Uuid, Path, description = "The webhook"), Paging, DeliveriesQuery),
    responses(PageOf<Delivery>),
    security(("bearer" = ["deliveries:read"])),
)]
async fn list_of_webhook(
    State(api): State<Api>,
    tenant: Tenant,
    Id(webhook): Id<WebhookId>,
    page_request: PageRequest,
    Query(filter): Query<DeliveriesQuery>,
) -> Result<Response, Problem> {
    let query = search::Deliveries { webhooks: Some(vec![webhook.uuid()]), ..filter.read()? };
    if !history::has_webhook(&api.parts.reads, tenant.company, webhook).await? {
        return Err(Problem::not_found("Webhook not found"));
    }
    answer(&api, &tenant, &page_request, &query).await
}

impl Listed for Delivery {
    const ALL: &'static str = "The deliveries";
}

/// List the deliveries of the company
///
/// The deliveries of all webhooks, newest first, in the same form as for one webhook. The order is that of their ids,
/// which follow the time of the event or, for a replay, the time of its start.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    tag = "Deliveries",
    operation_id = "listDeliveries",
    params(Paging, OfWebhooks, DeliveriesQuery),
    responses(PageOf<Delivery>),
    security(("bearer" = ["deliveries:read"])),
)]
async fn list(
    State(api): State<Api>,
    tenant: Tenant,
    page_request: PageRequest,
    Query(of): Query<OfWebhooks>,
    Query(filter): Query<DeliveriesQuery>,
) -> Result<Response, Problem> {
    let query = search::Deliveries { webhooks: of.read()?, ..filter.read()? };
    answer(&api, &tenant, &page_request, &query).await
}

/// Get a delivery
///
/// With all its attempts in `history`: the request as sent, the stored part of the response, and the timing. Without
/// the scope `payloads:read`, bodies are null, and only the service's own and common headers have values, because
/// headers of the webhook and of the response may contain tokens.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{delivery_id}",
    tag = "Deliveries",
    operation_id = "getDelivery",
    params(("delivery_id" = Uuid, Path, description = "The delivery")),
    responses((status = OK, description = "The delivery", body = Delivery)),
    security(("bearer" = ["deliveries:read"])),
)]
async fn get(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<DeliveryId>,
) -> Result<axum::Json<Delivery>, Problem> {
    let (db, company) = (&api.parts.reads, tenant.company);
    let bodies = tenant.caller.may(Scope::PayloadsRead);
    let row = history::get(db, company, bodies, id).await?;
    let row = row.ok_or_else(|| Problem::not_found("Delivery not found"))?;
    let mut attempts = history::earlier_attempts(db, company, bodies, id).await?;
    attempts.extend(row.latest());
    let lane_wait = lane_wait(&api, &row).await?;
    let lost_body = bodies && row.data.is_none();
    let mut delivery = Delivery::at(api.parts.clock.now(), row);
    if let Some(lane_wait) = lane_wait {
        delivery.explain(lane_wait);
    }
    if lost_body {
        // The event is no longer in the ledger; a dead letter has its own copy.
        let letter = dead_letters::get(db, Some(company), id.uuid()).await?;
        delivery.payload = letter.and_then(|mut letter| shape::json(&letter.take_standard_body()?));
    }
    delivery.history =
        Some(attempts.into_iter().map(|attempt| AttemptBody::shown(attempt, bodies)).collect());
    Ok(axum::Json(delivery))
}

/// A page of the requested deliveries.
async fn answer(
    api: &Api,
    tenant: &Tenant,
    page_request: &PageRequest,
    query: &search::Deliveries,
) -> Result<Response, Problem> {
    let (db, company, now) = (&api.parts.reads, tenant.company, api.parts.clock.now());
    let page = page_request.of(Some(company))?;
    let found = search::deliveries(db, company, query, page.after, page.rows().into(), now).await?;
    let bodies = tenant.caller.may(Scope::PayloadsRead);
    let rows = history::by_ids(db, company, bodies, &found.ids).await?;
    let lanes = lanes(api, &rows).await?;
    let count = search::count_deliveries(db, company, query, now, (COUNT_MAX, COUNT_TIMEOUT));
    let count = page.counted(count).await?;
    let rows = rows.into_iter().map(|row| {
        let lane = lanes.get(&row.webhook_id).filter(|_| row.status == DeliveryStatus::Pending).cloned();
        let mut delivery = Delivery::at(now, row);
        if let Some(why) = lane {
            delivery.explain(why);
        }
        delivery
    });
    Ok(page.answer(&rows.collect::<Vec<_>>(), found.next, count))
}

/// The state of the lanes, which explains a pending delivery better than its due time does.
async fn lanes(api: &Api, rows: &[history::DeliveryRow]) -> Result<HashMap<WebhookId, why::Why>, Problem> {
    let mut ids: Vec<Uuid> = rows
        .iter()
        .filter(|row| row.status == DeliveryStatus::Pending)
        .map(|row| row.webhook_id.uuid())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let webhooks = webhooks::by_ids(&api.parts.reads, &ids).await?;
    let now = api.parts.clock.now();
    let standing = |webhook: &crate::model::Webhook| why::of_lane(&webhook.lane, None, None, now);
    Ok(webhooks.iter().filter_map(|webhook| Some((webhook.id, standing(webhook)?))).collect())
}

/// What blocks the lane of a delivery, or how many deliveries go before it if the lane has a pace.
async fn lane_wait(api: &Api, row: &history::DeliveryRow) -> Result<Option<why::Why>, Problem> {
    if row.status != DeliveryStatus::Pending {
        return Ok(None);
    }
    let webhook = webhooks::by_ids(&api.parts.reads, &[row.webhook_id.uuid()]).await?.pop();
    let Some(webhook) = webhook else { return Ok(None) };
    let lane = why::of_lane(&webhook.lane, None, None, api.parts.clock.now());
    match (lane, webhook.settings.rate_limit) {
        // A retry waits for its due time, not for its turn.
        (None, Some(rate)) if row.queued_at.is_none() && row.attempts == 0 => {
            let ahead = history::ahead(&api.parts.reads, row.company_id, row).await?;
            Ok(Some(why::of_rate_limit(why::Paced { rate, ahead: u64::try_from(ahead).unwrap_or(0) })))
        }
        (lane, _) => Ok(lane),
    }
}
