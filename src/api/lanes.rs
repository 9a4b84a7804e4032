//! `/v1/lanes`: the state of sending to each webhook, and what waits for it.

mod shape;

use axum::{
    extract::State,
    http::{HeaderMap, Uri},
};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

pub use shape::{Lane, LaneState, Transition};

use super::{
    Api,
    access::Caller,
    extract::{Id, Named, Query},
    pagination::{self, PageLinks},
    problem::{Problem, ProblemKind},
};
use crate::{
    model::{CompanyId, WebhookId},
    store::lane_report as table,
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(transitions))
}

/// The company of the request; none if the credentials are for all companies and none is named.
fn company(caller: &Caller) -> Result<Option<CompanyId>, Problem> {
    if caller.company.is_none() && !caller.all_companies {
        return Err(Problem::new(
            ProblemKind::CompanyRequired,
            "the credentials are valid for several companies; name one in the header X-Company-Id",
        ));
    }
    Ok(caller.company)
}

/// The parameters of a list of lanes.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct LanesQuery {
    /// Only lanes that are not healthy: open, rate-limited, failing or paused.
    #[param(nullable = false)]
    failing: Option<bool>,
    /// Only lanes after this webhook, in the order of ids.
    #[param(nullable = false)]
    after: Option<Uuid>,
    /// The maximum number of items on a page [default: 50].
    #[param(minimum = 1, maximum = 500, nullable = false)]
    limit: Option<u32>,
    /// Where the page begins: the cursor from `Link`.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// List lanes
///
/// One lane for each webhook, in the order of webhook ids. Without `X-Company-Id`, credentials for all companies list
/// the lanes of every company.
#[utoipa::path(
    get,
    path = "/v1/lanes",
    tag = "Lanes",
    operation_id = "listLanes",
    params(LanesQuery),
    responses((status = OK, description = "The lanes", body = Vec<Lane>,
        headers(("link" = String, description = "The next page, with rel=\"next\"; absent on the last page")))),
    security(("bearer" = ["webhooks:read"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    uri: Uri,
    Query(choice): Query<LanesQuery>,
) -> Result<(HeaderMap, axum::Json<Vec<Lane>>), Problem> {
    let company = company(&caller)?;
    let (list, limit) = (PageLinks::of(&uri, company), pagination::limit(choice.limit)?);
    let cursor: Option<Uuid> = list.key(choice.cursor.as_deref())?;
    let query = table::LaneReportQuery {
        company,
        webhook: None,
        failing: choice.failing.unwrap_or_default(),
        after: cursor.or(choice.after).map(WebhookId),
    };
    let mut rows = table::list(&api.parts.reads, &query, i64::from(limit) + 1).await?;
    let last = pagination::cut(&mut rows, limit, |row| row.webhook_id.uuid());
    Ok((list.next(limit, last), axum::Json(rows.into_iter().map(Lane::from).collect())))
}

/// Get a lane
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}/lane",
    tag = "Lanes",
    operation_id = "getLane",
    params(("webhook_id" = Uuid, Path, description = "The webhook")),
    responses((status = OK, description = "The lane", body = Lane)),
    security(("bearer" = ["webhooks:read"])),
)]
async fn get(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<WebhookId>,
) -> Result<axum::Json<Lane>, Problem> {
    let company = company(&caller)?;
    let query = table::LaneReportQuery { company, webhook: Some(id), ..table::LaneReportQuery::default() };
    let lane = table::list(&api.parts.reads, &query, 1).await?.pop();
    let lane = lane.ok_or_else(|| Problem::not_found(WebhookId::NOT_FOUND))?;
    Ok(axum::Json(lane.into()))
}

/// The parameters of a list of transitions.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct Latest {
    /// The maximum number of transitions [default: 50].
    #[param(minimum = 1, maximum = 500, nullable = false)]
    limit: Option<u32>,
}

/// List the transitions of a lane
///
/// When its breaker opened and closed, and when its webhook was paused and resumed, newest first. Also for a deleted
/// webhook.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}/lane/transitions",
    tag = "Lanes",
    operation_id = "listLaneTransitions",
    params(("webhook_id" = Uuid, Path, description = "The webhook"), Latest),
    responses((status = OK, description = "The transitions, newest first", body = Vec<Transition>)),
    security(("bearer" = ["webhooks:read"])),
)]
async fn transitions(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<WebhookId>,
    Query(latest): Query<Latest>,
) -> Result<axum::Json<Vec<Transition>>, Problem> {
    let (company, limit) = (company(&caller)?, pagination::limit(latest.limit)?);
    if !table::is_known(&api.parts.reads, company, id).await? {
        return Err(Problem::not_found(WebhookId::NOT_FOUND));
    }
    let rows = table::history(&api.parts.reads, company, id, limit.into()).await?;
    Ok(axum::Json(rows.into_iter().map(Transition::from).collect()))
}
