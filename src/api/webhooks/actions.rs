//! Pauses, their ends, and new secrets.

use axum::{extract::State, http::StatusCode, response::Response};

use super::{
    Answer, Resumed, WebhookBody, answer, check, locked, not_found,
    wanted::{PauseBody, Resume, RotateSecret},
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
/// Nothing is sent until it is resumed; what comes meanwhile is held. One that is paused already keeps its first reason.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/pause",
    tag = "Webhooks",
    operation_id = "pauseWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Only if it is still in the state that this ETag names"),
    ),
    request_body(content = Option<PauseBody>, description = "May be left out"),
    responses(
        (status = OK, description = "The webhook, paused", body = WebhookBody,
            headers(("etag" = String, description = "Names its state, for If-Match"))),
        (status = PRECONDITION_FAILED, description = "It was changed meanwhile"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn pause(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    seen: IfMatch,
    OptionalObject(body): OptionalObject,
) -> Result<Answer, Problem> {
    let reason = check::pause(body.fields)?;
    let mut tx = api.parts.changes.begin().await?;
    let before = locked(&mut tx, &tenant, id, &seen).await?;
    let paused = table::pause(&mut *tx, tenant.company, id, &tenant.caller.actor, &reason).await?;
    let Some(row) = paused else { return Ok(answer(before, Vec::new())) };
    written_down(&mut tx, &tenant.caller, "webhook.pause", Some(&before), Some(&row)).await?;
    tx.commit().await?;
    Ok(answer(row, Vec::new()))
}

/// Resume a webhook
///
/// What was held is sent at a rate, oldest first, or discarded, by the replay that the answer names.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/resume",
    tag = "Webhooks",
    operation_id = "resumeWebhook",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Only if it is still in the state that this ETag names"),
    ),
    request_body(content = Option<Resume>, description = "May be left out"),
    responses(
        (status = OK, description = "The webhook, going on", body = Resumed,
            headers(("etag" = String, description = "Names its state, for If-Match"))),
        (status = PRECONDITION_FAILED, description = "It was changed meanwhile"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn resume(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    seen: IfMatch,
    OptionalObject(body): OptionalObject,
) -> Result<(axum::http::HeaderMap, axum::Json<Resumed>), Problem> {
    let (held, rate) = check::resume(body.fields)?;
    let company = tenant.company;
    let mut tx = api.parts.changes.begin().await?;
    let before = locked(&mut tx, &tenant, id, &seen).await?;
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

/// Give a webhook a new secret
///
/// The old one signs too until the grace ends: the trio of Standard Webhooks bears both signatures, the guide's header
/// the one that is chosen. Answers with the new secret, this once.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{webhook_id}/rotate-secret",
    tag = "Webhooks",
    operation_id = "rotateWebhookSecret",
    params(
        ("webhook_id" = uuid::Uuid, Path, description = "The webhook"),
        ("if-match" = inline(Option<String>), Header, description = "Only if it is still in the state that this ETag names"),
        ("idempotency-key" = inline(Option<String>), Header, description = "Makes a repeat of the request harmless: 1 to 255 visible ASCII characters"),
    ),
    request_body(content = Option<RotateSecret>, description = "May be left out"),
    responses(
        (status = OK, description = "The webhook with its new secret", body = WebhookBody,
            headers(("etag" = String, description = "Names its state, for If-Match; not on a repeat"))),
        (status = PRECONDITION_FAILED, description = "It was changed meanwhile"),
    ),
    security(("bearer" = ["webhooks:write"])),
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    tenant: Tenant,
    Id(id): Id<WebhookId>,
    seen: IfMatch,
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
    let before = locked(&mut tx, &tenant, id, &seen).await?;
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
