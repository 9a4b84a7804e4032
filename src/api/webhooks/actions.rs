//! Pausing, resuming and rotating secrets.

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    Answer, Resumed, WebhookBody, answer, check, locked, not_found,
    requests::{PauseBody, Resume, RotateSecret},
    written_down,
};
use crate::{
    api::{
        Api,
        access::Tenant,
        extract::{Id, OptionalObject},
        idempotency::{IdempotencyKey, KeyClaim},
        preconditions::{IfMatch, etag},
        problem::Problem,
    },
    model::WebhookId,
    store::{replays, webhooks as table},
};

/// Pause a webhook
///
/// Nothing is sent until the webhook is resumed; new deliveries are held. If it is already paused, it keeps its first
/// reason.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/pause",
    tag = "Webhooks",
    operation_id = "pauseWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Apply the change only if the webhook still has this ETag"),
    ),
    request_body(content = Option<PauseBody>, description = "Optional"),
    responses(
        (status = OK, description = "The paused webhook", body = WebhookBody,
            headers(("etag" = String, description = "The state of the webhook, for If-Match"))),
        (status = PRECONDITION_FAILED, description = "The webhook was changed since the state named by If-Match"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn pause(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    if_match: IfMatch,
    OptionalObject(body): OptionalObject,
) -> Result<Answer, Problem> {
    let reason = check::pause(body.fields)?;
    let mut tx = api.parts.changes.begin().await?;
    let before = locked(&mut tx, &tenant, id, &if_match).await?;
    let paused = table::pause(&mut *tx, tenant.company, id, &tenant.caller.actor, &reason).await?;
    let Some(row) = paused else { return Ok(answer(before, Vec::new())) };
    written_down(&mut tx, &tenant.caller, "webhook.pause", Some(&before), Some(&row)).await?;
    tx.commit().await?;
    Ok(answer(row, Vec::new()))
}

/// Resume a webhook
///
/// Held deliveries are sent at a limited rate, oldest first, or discarded. The replay named in the response does this.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/resume",
    tag = "Webhooks",
    operation_id = "resumeWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Apply the change only if the webhook still has this ETag"),
    ),
    request_body(content = Option<Resume>, description = "Optional"),
    responses(
        (status = OK, description = "The resumed webhook", body = Resumed,
            headers(("etag" = String, description = "The state of the webhook, for If-Match"))),
        (status = PRECONDITION_FAILED, description = "The webhook was changed since the state named by If-Match"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn resume(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    if_match: IfMatch,
    OptionalObject(body): OptionalObject,
) -> Result<(axum::http::HeaderMap, axum::Json<Resumed>), Problem> {
    let (held, rate) = check::resume(body.fields)?;
    let company = tenant.company;
    let mut tx = api.parts.changes.begin().await?;
    let before = locked(&mut tx, &tenant, id, &if_match).await?;
    let resumed = table::resume(&mut *tx, company, id, &tenant.caller.actor, held, rate).await?;
    let order = replays::resuming(&mut *tx, company, id).await?;
    let row = match resumed {
        Some(row) => {
            written_down(&mut tx, &tenant.caller, "webhook.resume", Some(&before), Some(&row)).await?;
            tx.commit().await?;
            row
        }
        None => before,
    };
    let headers = etag(row.version);
    Ok((headers, axum::Json(Resumed { webhook: row.into(), replay_id: order.map(|order| order.id.uuid()) })))
}

/// Rotate the secret of a webhook
///
/// The old secret also signs until the grace period ends: the Standard Webhooks headers have both signatures, the
/// guide's header has the chosen one. The response contains the new secret; it is shown only this once.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/rotate-secret",
    tag = "Webhooks",
    operation_id = "rotateWebhookSecret",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Apply the change only if the webhook still has this ETag"),
        ("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once"),
    ),
    request_body(content = Option<RotateSecret>, description = "Optional"),
    responses(
        (status = OK, description = "The webhook with its new secret", body = WebhookBody,
            headers(("etag" = String, description = "The state of the webhook, for If-Match; absent if the request was repeated"))),
        (status = PRECONDITION_FAILED, description = "The webhook was changed since the state named by If-Match"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    if_match: IfMatch,
    key: IdempotencyKey,
    OptionalObject(body): OptionalObject,
) -> Result<Response, Problem> {
    let rotation = check::rotation(body.fields, &api.parts.receivers)?;
    let company = tenant.company;
    let mut tx = api.parts.changes.begin().await?;
    let claim = match key.claim(&mut tx, &tenant.caller, Some(company), &body.bytes).await? {
        KeyClaim::Again(answer) => return Ok(answer),
        KeyClaim::First(claim) => claim,
    };
    let before = locked(&mut tx, &tenant, id, &if_match).await?;
    let check::Rotation { secret, grace, guide_signature_is_previous } = rotation;
    let rotated =
        table::rotate_secret(&mut *tx, company, id, &secret, grace, guide_signature_is_previous).await?;
    let row = rotated.ok_or_else(not_found)?;
    written_down(&mut tx, &tenant.caller, "webhook.rotate_secret", Some(&before), Some(&row)).await?;
    let headers = etag(row.version);
    let mut response = claim.keep(&mut tx, StatusCode::OK, &WebhookBody::with_secret(row)).await?;
    tx.commit().await?;
    response.headers_mut().extend(headers);
    Ok(response)
}
