//! The table `idempotency_keys`: completed requests with their answers, so that a repeat gets the same answer and does
//! nothing.
//!
//! A key is claimed in the transaction of the request itself. Another request with the same key waits at the primary
//! key for that transaction to end, and finds its answer, or nothing if it was rolled back.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::Result;

/// How long an answer is kept.
pub const KEPT: Duration = Duration::from_hours(24);

/// What a key stands for.
#[derive(Clone, Debug)]
pub struct KeptAnswer {
    /// The SHA-256 of the request that came with it.
    pub request_sha256: Vec<u8>,
    /// The status that it was answered with.
    pub status: Option<i32>,
    /// The body that it was answered with.
    pub body: Option<String>,
}

/// Claims a key for a request; `None` if it is now the caller's, else what it already stands for. A key older than
/// [`KEPT`] stands for nothing.
pub async fn claim(
    db: &mut PgConnection,
    company: Uuid,
    key: &str,
    request_sha256: &[u8],
) -> Result<Option<KeptAnswer>> {
    let claimed = sqlx::query_scalar!(
        r#"
        -- idempotency_keys.claim
        insert into idempotency_keys as k (company_id, key, request_sha256)
        values ($1, $2, $3)
        on conflict (company_id, key) do update
        set request_sha256 = excluded.request_sha256,
            response_status = null,
            response_body = null,
            created_at = now()
        where k.created_at < now() - make_interval(secs => $4)
        returning true as "claimed!"
        "#,
        company,
        key,
        request_sha256,
        KEPT.as_secs_f64(),
    );
    if claimed.fetch_optional(&mut *db).await?.is_some() {
        return Ok(None);
    }
    let known = sqlx::query_as!(
        KeptAnswer,
        "
        -- idempotency_keys.known
        select request_sha256, response_status as status, response_body as body
        from idempotency_keys
        where company_id = $1
            and key = $2
        ",
        company,
        key,
    );
    Ok(Some(known.fetch_one(db).await?))
}

/// Keeps what a request was answered with, in the transaction in which its key was claimed.
pub async fn keep(db: &mut PgConnection, company: Uuid, key: &str, status: i32, body: &str) -> Result<()> {
    sqlx::query!(
        "
        -- idempotency_keys.keep
        update idempotency_keys
        set response_status = $3,
            response_body = $4
        where company_id = $1
            and key = $2
        ",
        company,
        key,
        status,
        body,
    )
    .execute(db)
    .await?;
    Ok(())
}
