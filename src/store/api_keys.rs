//! The table `api_keys`: who may call the API. Of a key's secret only the SHA-256 is here.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::CompanyId;

#[derive(Clone, Debug)]
pub struct KeyRow {
    /// The characters that name it.
    pub id: String,
    /// The company it is valid for; `None` for all.
    pub company_id: Option<Uuid>,
    /// What people call it.
    pub name: String,
    pub secret_sha256: Vec<u8>,
    /// What it may do, in words.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    pub created_by: Option<String>,
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct KeyToInsert<'a> {
    /// The characters that name it.
    pub id: &'a str,
    /// The company it is valid for; `None` for all.
    pub company: Option<Uuid>,
    /// What people call it.
    pub name: &'a str,
    pub secret_sha256: &'a [u8],
    /// What it may do, in words.
    pub scopes: &'a [String],
    /// By whom it is made.
    pub created_by: Option<&'a str>,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Runs a statement whose first part makes the rows `key`, and reads those.
macro_rules! keys {
    ($sql:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            KeyRow,
            $sql + r#"
            select
                id as "id!",
                company_id,
                name as "name!",
                secret_sha256 as "secret_sha256!",
                scopes as "scopes!",
                created_at as "created_at!",
                created_by,
                expires_at,
                last_used_at,
                revoked_at
            from key
            order by created_at desc, id desc
            "#,
            $($argument),*
        )
    };
}

/// Makes a key.
pub async fn create(db: impl PgExecutor<'_>, new: KeyToInsert<'_>) -> Result<KeyRow> {
    let row = keys!(
        "
            -- api_keys.create
            with key as (
                insert into api_keys (id, company_id, name, secret_sha256, scopes, created_by, expires_at)
                values ($1, $2, $3, $4, $5, $6, $7)
                returning *
            )",
        new.id,
        new.company,
        new.name,
        new.secret_sha256,
        new.scopes,
        new.created_by,
        new.expires_at,
    );
    Ok(row.fetch_one(db).await?)
}

/// The key of that name, valid or not.
pub async fn find(db: impl PgExecutor<'_>, id: &str) -> Result<Option<KeyRow>> {
    let row = keys!(
        "
            -- api_keys.find
            with key as (
                select *
                from api_keys
                where id = $1
            )",
        id,
    );
    Ok(row.fetch_optional(db).await?)
}

/// Notes that the key was used, unless that was noted within the last minute.
pub async fn used(db: impl PgExecutor<'_>, id: &str) -> Result<()> {
    sqlx::query!(
        "
        -- api_keys.used
        update api_keys
        set last_used_at = now()
        where id = $1
        and (last_used_at is null or last_used_at < now() - interval '1 minute')
        ",
        id,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// One key in scope: of this company, or any if `company` is `None`.
pub async fn get(db: impl PgExecutor<'_>, company: Option<CompanyId>, id: &str) -> Result<Option<KeyRow>> {
    let row = keys!(
        "
            -- api_keys.get
            with key as (
                select *
                from api_keys
                where id = $1
                and ($2::uuid is null or company_id = $2)
            )",
        id,
        company.map(CompanyId::uuid),
    );
    Ok(row.fetch_optional(db).await?)
}

/// A page of keys in scope, newest first, after the one with that time and name.
pub async fn list(
    db: impl PgExecutor<'_>,
    company: Option<CompanyId>,
    before: Option<&(DateTime<Utc>, String)>,
    limit: i64,
) -> Result<Vec<KeyRow>> {
    let rows = keys!(
        "
            -- api_keys.list
            with key as (
                select *
                from api_keys
                where ($1::uuid is null or company_id = $1)
                and ($2::timestamptz is null or (created_at, id) < ($2, $3))
                order by created_at desc, id desc
                limit $4
            )",
        company.map(CompanyId::uuid),
        before.map(|(at, _)| *at),
        before.map(|(_, id)| id.as_str()),
        limit,
    );
    Ok(rows.fetch_all(db).await?)
}

/// How many keys are in scope, counted up to a bound.
pub async fn count(db: impl PgExecutor<'_>, company: Option<CompanyId>, most: i64) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"
        -- api_keys.count
        select count(*) as "count!"
        from (
            select
            from api_keys
            where ($1::uuid is null or company_id = $1)
            limit $2
        ) as counted
        "#,
        company.map(CompanyId::uuid),
        most,
    );
    Ok(count.fetch_one(db).await?)
}

/// Revokes a valid key; `None` if there is no such key in scope, or it was revoked before.
pub async fn revoke(db: impl PgExecutor<'_>, company: Option<CompanyId>, id: &str) -> Result<Option<KeyRow>> {
    let row = keys!(
        "
            -- api_keys.revoke
            with key as (
                update api_keys
                set revoked_at = now()
                where id = $1
                and ($2::uuid is null or company_id = $2)
                and revoked_at is null
                returning *
            )",
        id,
        company.map(CompanyId::uuid),
    );
    Ok(row.fetch_optional(db).await?)
}
