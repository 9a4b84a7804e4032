//! `/v1/event-types`: the event types, their schemas, and how many events of each a company had.
//!
//! The registry is shared by all companies and changed only by an administrator of all companies; the counts are the
//! company's own. An unregistered type is accepted too, and listed after it was published.

mod shape;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, Uri, request::Parts},
};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use shape::{EventTypeBody, EventTypeDeleted, EventTypeUpdate};

use super::{
    Api,
    access::Caller,
    audit,
    extract::{Json as Body, Query},
    pagination::{self, PageLinks},
    problem::{Problem, ProblemKind},
};
use crate::{model::CompanyId, store::event_types as table};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, delete))
}

/// The type in the path. An invalid name gets the same response as an unknown one.
struct Name(String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let name = path.ok().filter(|Path(name)| name.parse::<crate::model::EventType>().is_ok());
        name.map(|Path(name)| Self(name)).ok_or_else(not_found)
    }
}

fn not_found() -> Problem {
    Problem::not_found("Event type not found")
}

/// The company whose counts are shown. Credentials for all companies need not name one, and then see no counts.
fn counted(caller: &Caller) -> Result<Option<CompanyId>, Problem> {
    if caller.company.is_none() && !caller.all_companies {
        return Err(Problem::new(
            ProblemKind::CompanyRequired,
            "the credentials are valid for several companies; name one in the header X-Company-Id",
        ));
    }
    Ok(caller.company)
}

/// Admits only administrators of all companies, because a change affects every company.
fn of_all_companies(caller: &Caller) -> Result<(), Problem> {
    if caller.all_companies {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::Forbidden,
        "event types are shared by all companies; this operation needs credentials for all companies",
    ))
}

/// The parameters of a page.
#[derive(Debug, Deserialize)]
struct EventTypesQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// List event types
///
/// By name: the registered types and the types that the company has published, with counts for the last 7 days.
#[utoipa::path(
    get,
    path = "/v1/event-types",
    tag = "Event types",
    operation_id = "listEventTypes",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "The maximum number of items on the page; 50 by default"),
        ("cursor" = Option<String>, Query, description = "Where the page begins: the cursor from the `Link` of the page before"),
    ),
    responses(
        (status = OK, description = "A page of event types", body = Vec<EventTypeBody>,
         headers(("link" = Option<String>, description = "The next page, with `rel=\"next\"`; absent on the last page"))),
    ),
    security(("bearer" = ["events:read"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    uri: Uri,
    Query(query): Query<EventTypesQuery>,
) -> Result<(HeaderMap, Json<Vec<EventTypeBody>>), Problem> {
    let company = counted(&caller)?;
    let list = PageLinks::of(&uri, company);
    let limit = pagination::limit(query.limit)?;
    let after: Option<String> = list.key(query.cursor.as_deref())?;
    let after = after.unwrap_or_default();
    let mut rows = table::list(&api.parts.reads, company, &after, i64::from(limit) + 1).await?;
    let headers = list.next(limit, pagination::cut(&mut rows, limit, |row| row.name.clone()));
    Ok((headers, Json(rows.into_iter().map(EventTypeBody::from).collect())))
}

/// Get an event type
#[utoipa::path(
    get,
    path = "/v1/event-types/{name}",
    tag = "Event types",
    operation_id = "getEventType",
    params(("name" = String, Path, description = "The type", example = "ticket.created")),
    responses((status = OK, description = "The type", body = EventTypeBody)),
    security(("bearer" = ["events:read"])),
)]
async fn get(
    State(api): State<Api>,
    caller: Caller,
    Name(name): Name,
) -> Result<Json<EventTypeBody>, Problem> {
    let row = table::get(&api.parts.reads, counted(&caller)?, &name).await?;
    Ok(Json(row.ok_or_else(not_found)?.into()))
}

/// Register or update an event type
///
/// Changes only the fields in the body; null resets a field. A new type needs a description. Changed schemas take
/// effect within ten seconds. Needs credentials for all companies.
#[utoipa::path(
    put,
    path = "/v1/event-types/{name}",
    tag = "Event types",
    operation_id = "putEventType",
    params(("name" = String, Path, description = "The type; not a reserved one", example = "ticket.created")),
    request_body = EventTypeUpdate,
    responses((status = OK, description = "The registered type", body = EventTypeBody)),
    security(("bearer" = ["admin"])),
)]
async fn put(
    State(api): State<Api>,
    caller: Caller,
    Name(name): Name,
    Body(update): Body<EventTypeUpdate>,
) -> Result<Json<EventTypeBody>, Problem> {
    of_all_companies(&caller)?;
    if name.parse::<crate::model::EventType>().is_ok_and(|name| name.is_reserved()) {
        return Err(Problem::field(
            "name",
            "is reserved: only this service defines `webhook.*` and `delivery.*`",
        ));
    }
    let mut tx = api.parts.changes.begin().await?;
    table::lock(&mut tx, &name).await?;
    let before = table::get(&mut *tx, None, &name).await?.map(EventTypeBody::from);
    let changed = update.apply(before.as_ref())?;
    table::put(
        &mut tx,
        &table::Registration {
            name: &name,
            description: &changed.description,
            sample: changed.sample.as_deref(),
            schemas: &changed.schemas,
            on_violation: changed.on_violation.as_str(),
            by: &caller.actor,
        },
    )
    .await?;
    let after = table::get(&mut *tx, None, &name).await?.map(EventTypeBody::from).ok_or_else(not_found)?;
    let action = if before.is_some() { "event_type.update" } else { "event_type.create" };
    let shown = (before.as_ref().and_then(audit::shown), audit::shown(&after));
    audit::write(&mut tx, &caller, None, action, &name, shown).await?;
    tx.commit().await?;
    let row = table::get(&api.parts.changes, counted(&caller)?, &name).await?;
    Ok(Json(row.map_or(after, EventTypeBody::from)))
}

/// Delete an event type
///
/// Deletes its description, sample and schemas. Events of the type are still ingested, but no longer checked against a
/// schema. Needs credentials for all companies.
#[utoipa::path(
    delete,
    path = "/v1/event-types/{name}",
    tag = "Event types",
    operation_id = "deleteEventType",
    params(("name" = String, Path, description = "The type; not a reserved one", example = "ticket.created")),
    responses((status = OK, description = "The event type was deleted", body = EventTypeDeleted)),
    security(("bearer" = ["admin"])),
)]
async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Name(name): Name,
) -> Result<Json<EventTypeDeleted>, Problem> {
    of_all_companies(&caller)?;
    if name.parse::<crate::model::EventType>().is_ok_and(|name| name.is_reserved()) {
        return Err(Problem::new(ProblemKind::Forbidden, "the service's own event types cannot be deleted"));
    }
    let mut tx = api.parts.changes.begin().await?;
    table::lock(&mut tx, &name).await?;
    let before = table::get(&mut *tx, None, &name).await?.map(EventTypeBody::from);
    if !table::delete(&mut tx, &name).await? {
        return Err(not_found());
    }
    let shown = (before.as_ref().and_then(audit::shown), None);
    audit::write(&mut tx, &caller, None, "event_type.delete", &name, shown).await?;
    tx.commit().await?;
    Ok(Json(EventTypeDeleted { message: "Event type deleted successfully".to_owned() }))
}
