//! `/v1/events`: publishing events, and reading those of a company.
//!
//! Publishing here does what XTSystems does over AMQP: it sends the same message to the same exchange, checked by the same
//! rules (`publish.rs`), and responds when the broker has confirmed it. Reading uses the ledger.

mod page;
mod publish;
mod shape;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub(super) use shape::describe_problem;
pub use shape::{EventBody, EventShown, NewEvents, Taken};

use self::{
    page::Filters,
    publish::{PublishBatch, PublishScope},
};
use super::{
    Api,
    access::{Caller, Scope, Tenant},
    extract::{Id, Query, body, is_json},
    idempotency::{IdempotencyKey, KeyClaim},
    pagination::{self, CountMode, PageLinks},
    problem::{Problem, ProblemKind},
};
use crate::{
    model::{EventId, WebhookId},
    store::events as table,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get))
}

/// Publish events
///
/// Send one event, or an array of up to 1,000, each in the guide's shape or as a structured CloudEvent. `company_id`
/// may be omitted, because the credentials determine it. Receivers get `data` byte for byte. The service responds when
/// RabbitMQ has confirmed all events. If it confirms only some, the 503 says which; send the others again.
///
/// An event sent again is the same event if `event_id` and `timestamp` are the same; if one of them was omitted the
/// first time, omit it again. Without `event_id`, the id is derived from the header `Idempotency-Key` and the position
/// in the array. Without that header, it is derived from the bytes of an event that has a `timestamp`. Any other event
/// is new each time.
///
/// A key identifies its request for 24 hours. The ids derived from the key and the bytes stay the same after that.
///
/// Types that begin with `webhook.` or `delivery.` are reserved. If one event of an array is invalid, none is
/// published.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "Events",
    operation_id = "createEvents",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
         description = "Makes it safe to repeat the request; also determines the ids of events without `event_id`"),
        ("traceparent" = Option<String>, Header,
         description = "W3C trace context; passed on to the receivers if it is well-formed"),
    ),
    request_body(content = NewEvents, description = "One event, or an array of 1 to 1,000"),
    responses(
        (status = ACCEPTED, description = "All events were confirmed by the broker: an object for one event, an array in the same order for an array",
         body = Taken),
    ),
    security(("bearer" = ["events:write"])),
)]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    key: IdempotencyKey,
    request: Request,
) -> Result<Response, Problem> {
    is_json(request.headers())?;
    let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let whose = match (caller.company, caller.all_companies) {
        (Some(company), _) => PublishScope::Company(company),
        (None, true) => PublishScope::Named,
        (None, false) => {
            return Err(Problem::new(
                ProblemKind::CompanyRequired,
                "the credentials are valid for several companies; name one in the header X-Company-Id",
            ));
        }
    };
    let bytes = body(request, &()).await?;
    let batch = PublishBatch::read(&bytes, whose, key.text(), trace.as_deref(), &api.parts.limits)?;
    let publish = batch.publish(&api.publisher, &api.parts.broker, api.parts.clock.now());
    if key.text().is_none() {
        return Ok((StatusCode::ACCEPTED, Json(publish.await?)).into_response());
    }
    // The claim holds a connection while the broker confirms, so the number of such requests is limited. If storing the
    // response fails, the request can still be repeated, because its ids are derived from the key.
    let Ok(_permit) = api.keyed_publishes.acquire().await else {
        return Err(Problem::unavailable("the service is shutting down"));
    };
    let mut tx = api.parts.changes.begin().await?;
    let claim = match key.claim(&mut tx, &caller, caller.company, &bytes).await? {
        KeyClaim::Again(answer) => return Ok(answer),
        KeyClaim::First(claim) => claim,
    };
    let answer = claim.keep(&mut tx, StatusCode::ACCEPTED, &publish.await?).await?;
    tx.commit().await?;
    Ok(answer)
}

/// List events
///
/// Newest first, by the time of the event, or by the time of its ingestion if the event has no time or one far from
/// now. `data` is null without the scope `payloads:read`. With a filter for a rare type, a page may have fewer items
/// than the limit, or none; follow `Link` to continue.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "Events",
    operation_id = "listEvents",
    params(
        ("event_type" = Option<String>, Query, example = "ticket.*", max_length = 100,
         pattern = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]*(\.\*)?)$", description = "Only events of this type; `ticket.*` for all types that begin with `ticket.`"),
        ("since" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Only events at this time or later"),
        ("until" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Only events before this time"),
        ("id" = Option<String>, Query,
         pattern = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(,[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}){0,499}$",
         description = "Only events with these ids: up to 500, separated by commas"),
        ("event_id" = Option<String>, Query, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Only the event with this id of the publisher"),
        ("unmatched" = Option<bool>, Query, description = "true: only events that matched no webhook; false: only events that matched at least one"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "The maximum number of items on the page; 50 by default"),
        ("cursor" = Option<String>, Query, description = "Where the page begins: the cursor from the `Link` of the page before"),
        ("count" = inline(Option<CountMode>), Query, description = "`capped` adds the header X-Total-Count"),
    ),
    responses(
        (status = OK, description = "A page of events", body = Vec<EventBody>,
         headers(
             ("link" = Option<String>, description = "The next page, with `rel=\"next\"`; absent on the last page"),
             ("x-total-count" = Option<String>, description = "With `count=capped`: the number of events, or `10000+`; absent if counting takes too long"),
         )),
    ),
    security(("bearer" = ["events:read"])),
)]
async fn list(
    State(api): State<Api>,
    tenant: Tenant,
    uri: Uri,
    Query(filters): Query<Filters>,
) -> Result<(HeaderMap, Json<Vec<EventBody>>), Problem> {
    let list = PageLinks::of(&uri, Some(tenant.company));
    let limit = pagination::limit(filters.limit)?;
    let after: Option<Uuid> = list.key(filters.cursor.as_deref())?;
    let count = filters.count;
    let mut page = page::page(filters)?;
    page.data = tenant.caller.may(Scope::PayloadsRead);
    let all = table::EventsPage { limit: pagination::COUNT_MAX, ..page.clone() };
    page.before = page.before.min(after.unwrap_or(Uuid::max()));
    page.limit = i64::from(limit);
    let found = table::list(&api.parts.reads, tenant.company, &page).await?;
    let mut headers = list.next(limit, found.next);
    if count == Some(CountMode::Capped) {
        let counted = table::count(&api.parts.reads, tenant.company, &all, pagination::COUNT_TIMEOUT).await?;
        if let Some(count) = counted {
            headers.insert(HeaderName::from_static(pagination::TOTAL_COUNT), pagination::counted(count));
        }
    }
    Ok((headers, Json(found.rows.into_iter().map(EventBody::from).collect())))
}

/// Which webhook is meant.
#[derive(Debug, Deserialize)]
struct Of {
    webhook_id: Option<String>,
}

/// Get an event with its deliveries
///
/// Up to 1,000 deliveries, newest first. If the event matched no webhook, or not the named one, `not_sent` says why,
/// based on the state of the webhooks when the event was matched.
#[utoipa::path(
    get,
    path = "/v1/events/{event_id}",
    tag = "Events",
    operation_id = "getEvent",
    params(
        ("event_id" = Uuid, Path, description = "The event's id: `id`, which receivers see as `webhook-id`"),
        ("webhook_id" = Option<Uuid>, Query, description = "Only deliveries to this webhook, or why it has none"),
    ),
    responses((status = OK, description = "The event", body = EventShown)),
    security(("bearer" = ["events:read"])),
)]
async fn get(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<EventId>,
    Query(of): Query<Of>,
) -> Result<Json<EventShown>, Problem> {
    let parse = |text: String| text.parse::<WebhookId>().map_err(|_| Problem::not_found("Webhook not found"));
    let webhook = of.webhook_id.map(parse).transpose()?;
    let may_see = tenant.caller.may(Scope::PayloadsRead);
    let row = table::get(&api.parts.reads, tenant.company, id, may_see).await?;
    let row = row.ok_or_else(|| Problem::not_found("Event not found"))?;
    page::shown(&api.parts.reads, row, webhook, api.parts.clock.now()).await.map(Json)
}
