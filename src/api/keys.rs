//! `/v1/keys`: the API keys and their scopes.
//!
//! A key cannot have a scope that its creator does not have, and only an administrator of all companies can create or
//! revoke keys for all companies. A key is shown once; only the SHA-256 of its secret is stored.

mod shape;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use futures_util::TryFutureExt;
use secrecy::ExposeSecret;
use utoipa_axum::{router::OpenApiRouter, routes};

pub use shape::{Key, NewKey};

use super::{
    Api,
    access::{ApiKey, Caller, Scope},
    audit,
    extract::{Id, Json, Named},
    idempotency::{self, KeyClaim},
    listing::{Listed, PageOf, PageRequest, Paging},
    pagination::{COUNT_MAX, cut},
    problem::{Problem, ProblemKind},
};
use crate::{model::CompanyId, store::api_keys as table};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, revoke))
}

/// The characters that name a key.
#[derive(Clone, Debug)]
pub struct KeyId(String);

impl std::str::FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_name = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_name.then(|| Self(text.to_owned())).ok_or(())
    }
}

impl Named for KeyId {
    const NOT_FOUND: &'static str = "Key not found";
}

/// Create an API key
///
/// The response contains the key; it is shown only this once. The key is valid for the company of the request. A key
/// for all companies needs `all_companies` and can be created only by an administrator of all companies. A key cannot
/// have a scope that its creator does not have. A request repeated with the same `Idempotency-Key` creates one key; the
/// repeated response omits `key`, which is shown only once.
#[utoipa::path(
    post,
    path = "/v1/keys",
    tag = "Keys",
    operation_id = "createKey",
    params(("idempotency-key" = inline(Option<String>), Header, description = "A key of 1 to 255 visible ASCII characters. A request repeated with the same key within 24 hours takes effect once")),
    request_body = NewKey,
    responses((status = OK, description = "The key, which is shown only this once", body = Key)),
    security(("bearer" = ["keys:manage"])),
)]
async fn create(
    State(api): State<Api>,
    caller: Caller,
    repeated: idempotency::IdempotencyKey,
    Json(new_key): Json<NewKey>,
) -> Result<Response, Problem> {
    let scopes = new_key.check(api.parts.clock.now())?;
    let company = company_of(&caller, new_key.all_companies)?;
    if let Some(scope) = scopes.iter().find(|&scope| !caller.may(scope)) {
        let detail = format!("you do not have the scope {} yourself, so you cannot grant it", scope.as_str());
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    let key = ApiKey::generate();
    let words: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let new = table::KeyToInsert {
        id: &key.id,
        company: company.map(CompanyId::uuid),
        name: new_key.name.trim(),
        secret_sha256: &key.sha256,
        scopes: &words,
        created_by: Some(&caller.actor),
        expires_at: new_key.expires_at,
    };
    let mut tx = api.parts.changes.begin().await?;
    let claim =
        match repeated.claim(&mut tx, &caller, company, &idempotency::request_bytes(&new_key)?).await? {
            KeyClaim::Again(answer) => return Ok(answer),
            KeyClaim::First(claim) => claim,
        };
    let made = Key::from(table::create(&mut *tx, new).await?);
    audit::write(&mut tx, &caller, company, "key.create", &made.id, (None, audit::shown(&made))).await?;
    // Kept without the key itself: of that only the digest stays anywhere.
    claim.keep(&mut tx, StatusCode::OK, &made).await?;
    tx.commit().await?;
    Ok(axum::Json(Key { key: Some(key.text.expose_secret().to_owned()), ..made }).into_response())
}

/// For which company a key is made; none for all.
fn company_of(caller: &Caller, all_companies: bool) -> Result<Option<CompanyId>, Problem> {
    match (caller.company, all_companies) {
        (Some(company), false) => Ok(Some(company)),
        (_, true) if !caller.all_companies || !caller.may(Scope::Admin) => Err(Problem::new(
            ProblemKind::Forbidden,
            "only an administrator of all companies can create keys for all companies",
        )),
        (Some(_), true) => Err(Problem::field(
            "all_companies",
            "must not be true while X-Company-Id names a company; omit one of them",
        )),
        (None, true) => Ok(None),
        (None, false) => Err(Problem::new(
            ProblemKind::CompanyRequired,
            "name the company of the key in X-Company-Id, or set `all_companies`",
        )),
    }
}

impl Listed for Key {
    const ALL: &'static str = "The keys";
}

/// List API keys
///
/// Newest first, including expired and revoked keys. Without `X-Company-Id`, credentials for all companies list the
/// keys of every company.
#[utoipa::path(
    get,
    path = "/v1/keys",
    tag = "Keys",
    operation_id = "listKeys",
    params(Paging),
    responses(PageOf<Key>),
    security(("bearer" = ["keys:manage"])),
)]
async fn list(
    State(api): State<Api>,
    caller: Caller,
    page_request: PageRequest,
) -> Result<Response, Problem> {
    let (db, company) = (&api.parts.reads, caller.reach()?);
    let page = page_request.of::<(DateTime<Utc>, String)>(company)?;
    let mut rows = table::list(db, company, page.after.as_ref(), i64::from(page.rows()) + 1).await?;
    let next = cut(&mut rows, page.rows(), |row| (row.created_at, row.id.clone()));
    let count = page.counted(table::count(db, company, COUNT_MAX).map_ok(Some)).await?;
    let rows: Vec<Key> = rows.into_iter().map(Key::from).collect();
    Ok(page.answer(&rows, next, count))
}

/// Get an API key
///
/// Without its secret, which was shown when the key was created.
#[utoipa::path(
    get,
    path = "/v1/keys/{key_id}",
    tag = "Keys",
    operation_id = "getKey",
    params(("key_id" = String, Path, description = "The eight characters after `xtwh_`")),
    responses((status = OK, description = "The key", body = Key)),
    security(("bearer" = ["keys:manage"])),
)]
async fn get(State(api): State<Api>, caller: Caller, Id(id): Id<KeyId>) -> Result<axum::Json<Key>, Problem> {
    let row = table::get(&api.parts.reads, caller.reach()?, &id.0).await?;
    let row = row.ok_or_else(|| Problem::not_found(KeyId::NOT_FOUND))?;
    Ok(axum::Json(row.into()))
}

/// Revoke an API key
///
/// The key is refused from the next request on. Revoking it again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/keys/{key_id}",
    tag = "Keys",
    operation_id = "revokeKey",
    params(("key_id" = String, Path, description = "The eight characters after `xtwh_`")),
    responses((status = OK, description = "The revoked key", body = Key)),
    security(("bearer" = ["keys:manage"])),
)]
async fn revoke(
    State(api): State<Api>,
    caller: Caller,
    Id(id): Id<KeyId>,
) -> Result<axum::Json<Key>, Problem> {
    let company = caller.reach()?;
    let mut tx = api.parts.changes.begin().await?;
    let before = table::get(&mut *tx, company, &id.0).await?;
    let before = before.ok_or_else(|| Problem::not_found(KeyId::NOT_FOUND))?;
    if before.company_id.is_none() && !caller.may(Scope::Admin) {
        let detail = "only an administrator of all companies can revoke keys for all companies";
        return Err(Problem::new(ProblemKind::Forbidden, detail));
    }
    let Some(after) = table::revoke(&mut *tx, company, &id.0).await? else {
        return Ok(axum::Json(before.into()));
    };
    let (whose, before, after) = (before.company_id.map(CompanyId), Key::from(before), Key::from(after));
    let shown = (audit::shown(&before), audit::shown(&after));
    audit::write(&mut tx, &caller, whose, "key.revoke", &id.0, shown).await?;
    tx.commit().await?;
    Ok(axum::Json(after))
}
