//! `/v1/webhooks`: managing webhooks.
//!
//! The guide's operations are here. `actions` has pauses and rotations, `test` the test delivery, `check_url` the check of
//! a URL. `check` validates requests, `warnings` reports what is unusual, `requests` and `shape` are the bodies.

mod actions;
mod check;
mod check_url;
pub mod requests;
mod shape;
mod test;

mod warnings;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use shape::{CheckedUrl, MessageBody, Resumed, Tested, Warning, WebhookBody};

use self::requests::{WebhookCreate, WebhookUpdate};
use super::{
    Api,
    access::{Caller, Tenant},
    audit,
    extract::{Id, Named, Object, Query},
    idempotency::{IdempotencyKey, KeyClaim},
    pagination::{self, COUNT_MAX, CountMode, PageLinks, TOTAL_COUNT},
    preconditions::{IfMatch, etag},
    problem::Problem,
};
use crate::{
    model::{CompanyId, WebhookId},
    store::{
        event_types,
        webhooks::{self as table, Saved},
    },
};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, update, delete))
        .routes(routes!(actions::pause))
        .routes(routes!(actions::resume))
        .routes(routes!(actions::rotate_secret))
        .routes(routes!(test::test))
        .routes(routes!(check_url::check_url))
}

/// A webhook with its ETag.
type Answer = (HeaderMap, axum::Json<WebhookBody>);

/// The guide's response if the webhook does not exist in this company.
fn not_found() -> Problem {
    Problem::not_found(WebhookId::NOT_FOUND)
}

fn answer(row: table::WebhookRow, warnings: Vec<Warning>) -> Answer {
    let headers = etag(row.version);
    (headers, axum::Json(WebhookBody { warnings, ..row.into() }))
}

/// The webhook, locked until the transaction ends, if it is in the state that the caller has seen.
async fn locked(
    tx: &mut PgConnection,
    tenant: &Tenant,
    id: WebhookId,
    if_match: &IfMatch,
) -> Result<table::WebhookRow, Problem> {
    let row = table::lock(tx, tenant.company, id).await?.ok_or_else(not_found)?;
    if_match.holds(row.version)?;
    Ok(row)
}

/// Records a change of a webhook in the audit log. It never contains secrets, only that one changed.
async fn written_down(
    tx: &mut PgConnection,
    caller: &Caller,
    action: &'static str,
    before: Option<&table::WebhookRow>,
    after: Option<&table::WebhookRow>,
) -> Result<(), Problem> {
    let Some(any) = before.or(after) else { return Ok(()) };
    let (company, subject) = (any.company_id, any.id.to_string());
    let shown =
        |row: Option<&table::WebhookRow>| row.and_then(|row| audit::shown(&WebhookBody::from(row.clone())));
    let (before_shown, mut after_shown) = (shown(before), shown(after));
    if let (Some(before), Some(after), Some(fields)) = (before, after, after_shown.as_mut())
        && before.settings.secret != after.settings.secret
    {
        fields["secret_changed"] = true.into();
    }
    audit::write(tx, caller, Some(company), action, &subject, (before_shown, after_shown)).await
}

/// The parameters of a list of webhooks.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WebhooksQuery {
    /// The maximum number of items on the page. Without `limit` and `cursor`, all webhooks are returned, up to 10,000.
    #[param(minimum = 1, maximum = 500, nullable = false)]
    limit: Option<u32>,
    /// Where the page begins: the cursor from `Link`.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// `capped` adds the header `X-Total-Count`.
    #[param(inline, nullable = false)]
    count: Option<CountMode>,
}

/// List webhooks
///
/// All webhooks of the company, by name. Without `limit` all of them, up to 10,000; with it, in pages.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    tag = "Webhooks",
    operation_id = "listWebhooks",
    params(WebhooksQuery),
    responses((
        status = OK,
        description = "The webhooks, by name",
        body = Vec<WebhookBody>,
        headers(
            ("link" = String, description = "The next page, with rel=\"next\"; absent on the last page"),
            ("x-total-count" = String, description = "With count=capped: the number of webhooks, or 10000+"),
        ),
    )),
    security(("bearer" = ["webhooks:read"])),
)]
async fn list(
    State(api): State<Api>,
    tenant: Tenant,
    uri: Uri,
    Query(query): Query<WebhooksQuery>,
) -> Result<(HeaderMap, axum::Json<Vec<WebhookBody>>), Problem> {
    let (reads, company) = (&api.parts.reads, tenant.company);
    let (mut headers, rows) = if query.limit.is_none() && query.cursor.is_none() {
        (HeaderMap::new(), table::list(reads, company).await?)
    } else {
        page(&api, company, &PageLinks::of(&uri, Some(company)), &query).await?
    };
    if query.count.is_some() {
        let count = table::count(reads, company, COUNT_MAX).await?;
        headers.insert(TOTAL_COUNT, pagination::counted(count));
    }
    Ok((headers, axum::Json(rows.into_iter().map(WebhookBody::from).collect())))
}

async fn page(
    api: &Api,
    company: CompanyId,
    list: &PageLinks,
    query: &WebhooksQuery,
) -> Result<(HeaderMap, Vec<table::WebhookRow>), Problem> {
    let limit = pagination::limit(query.limit)?;
    let after: Option<(String, uuid::Uuid)> = list.key(query.cursor.as_deref())?;
    let after = after.as_ref().map(|(name, id)| (name.as_str(), WebhookId(*id)));
    let mut rows = table::page(&api.parts.reads, company, after, i64::from(limit) + 1).await?;
    let last = pagination::cut(&mut rows, limit, |row| (row.settings.name.clone(), row.id.uuid()));
    Ok((list.next(limit, last), rows))
}

/// Create a webhook
///
/// The response contains the secret; it is shown only this once. A request repeated with the same `Idempotency-Key`
/// creates one webhook and gets the same response; a key is kept for 24 hours.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    tag = "Webhooks",
    operation_id = "createWebhook",
    params(("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once")),
    request_body = WebhookCreate,
    responses(
        (status = OK, description = "The webhook with its secret", body = WebhookBody,
            headers(("etag" = String, description = "The state of the webhook, for If-Match; absent if the request was repeated"))),
        (status = CONFLICT, description = "The name is taken by another webhook of the company"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
async fn create(
    State(api): State<Api>,
    tenant: Tenant,
    key: IdempotencyKey,
    body: Object,
) -> Result<Response, Problem> {
    let check::Checked { settings, events, mut warnings, .. } =
        check::settings(body.fields, None, &api.parts.receivers)?;
    warnings.extend(unknown_types(&api, tenant.company, events.as_ref()).await?);
    let mut tx = api.parts.changes.begin().await?;
    let claim = match key.claim(&mut tx, &tenant.caller, Some(tenant.company), &body.bytes).await? {
        KeyClaim::Again(answer) => return Ok(answer),
        KeyClaim::First(claim) => claim,
    };
    let new = Saved::New { by: &tenant.caller.actor };
    let row = table::save(&mut *tx, tenant.company, new, &settings).await?.ok_or_else(not_found)?;
    written_down(&mut tx, &tenant.caller, "webhook.create", None, Some(&row)).await?;
    let headers = etag(row.version);
    let webhook = WebhookBody { warnings, ..WebhookBody::with_secret(row) };
    let mut response = claim.keep(&mut tx, StatusCode::OK, &webhook).await?;
    tx.commit().await?;
    response.headers_mut().extend(headers);
    Ok(response)
}

/// Get a webhook
///
/// Without the secret, which is shown only when it is created or rotated.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{webhook_id}",
    tag = "Webhooks",
    operation_id = "getWebhook",
    params(("webhook_id" = uuid::Uuid, Path, description = "The webhook")),
    responses((status = OK, description = "The webhook", body = WebhookBody,
        headers(("etag" = String, description = "The state of the webhook, for If-Match")))),
    security(("bearer" = ["webhooks:read"])),
)]
async fn get(State(api): State<Api>, tenant: Tenant, Id(id): Id<WebhookId>) -> Result<Answer, Problem> {
    let row = table::get(&api.parts.reads, tenant.company, id).await?;
    Ok(answer(row.ok_or_else(not_found)?, Vec::new()))
}

/// Update a webhook
///
/// Changes only the fields in the body; `null` resets a field to its default. `"secret": null` generates a new secret
/// and shows it only this once. A secret given here replaces the old one immediately; rotate-secret gives receivers
/// time to switch.
#[utoipa::path(
    put,
    path = "/v1/webhooks/{webhook_id}",
    tag = "Webhooks",
    operation_id = "updateWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Apply the change only if the webhook still has this ETag"),
    ),
    request_body = WebhookUpdate,
    responses(
        (status = OK, description = "The updated webhook", body = WebhookBody,
            headers(("etag" = String, description = "The state of the webhook, for If-Match"))),
        (status = CONFLICT, description = "The name is taken by another webhook of the company"),
        (status = PRECONDITION_FAILED, description = "The webhook was changed since the state named by If-Match"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
async fn update(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    if_match: IfMatch,
    body: Object,
) -> Result<Answer, Problem> {
    let names_something = !body.fields.is_empty();
    let mut tx = api.parts.changes.begin().await?;
    let before = table::lock(&mut *tx, tenant.company, id).await?.ok_or_else(not_found)?;
    let check::Checked { settings, replaces_secret, shows_secret, events, mut warnings } =
        check::settings(body.fields, Some(before.settings.clone()), &api.parts.receivers)?;
    if_match.holds(before.version)?;
    warnings.extend(unknown_types(&api, tenant.company, events.as_ref()).await?);
    if !names_something {
        return Ok(answer(before, warnings));
    }
    let changed = Saved::Locked { id, replaces_secret };
    let row = table::save(&mut *tx, tenant.company, changed, &settings).await?.ok_or_else(not_found)?;
    written_down(&mut tx, &tenant.caller, "webhook.update", Some(&before), Some(&row)).await?;
    tx.commit().await?;
    let headers = etag(row.version);
    let webhook = if shows_secret { WebhookBody::with_secret(row) } else { row.into() };
    Ok((headers, axum::Json(WebhookBody { warnings, ..webhook })))
}

/// Delete a webhook
///
/// Pending deliveries are cancelled, the history is kept, and the name becomes available again.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{webhook_id}",
    tag = "Webhooks",
    operation_id = "deleteWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Apply the change only if the webhook still has this ETag"),
    ),
    responses(
        (status = OK, description = "The webhook was deleted", body = MessageBody),
        (status = PRECONDITION_FAILED, description = "The webhook was changed since the state named by If-Match"),
    ),
    security(("bearer" = ["webhooks:delete"])),
)]
async fn delete(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    if_match: IfMatch,
) -> Result<axum::Json<MessageBody>, Problem> {
    let mut tx = api.parts.changes.begin().await?;
    let before = locked(&mut tx, &tenant, id, &if_match).await?;
    table::delete(&mut *tx, tenant.company, id).await?.ok_or_else(not_found)?;
    written_down(&mut tx, &tenant.caller, "webhook.delete", Some(&before), None).await?;
    tx.commit().await?;
    Ok(axum::Json(MessageBody { message: "Webhook deleted successfully".to_owned() }))
}

/// Adds warnings for subscribed types that have not been seen.
async fn unknown_types(
    api: &Api,
    company: CompanyId,
    events: Option<&Vec<String>>,
) -> Result<Vec<Warning>, Problem> {
    let Some(events) = events else { return Ok(Vec::new()) };
    let known = event_types::known(&api.parts.reads, company).await?;
    Ok(warnings::unknown_types(events, &known))
}
