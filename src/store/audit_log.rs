//! The table `audit_log`: who changed what, and what it was before.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{Result, search};
use crate::model::CompanyId;

/// One change. Secrets are not in it.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// The company whose object was changed; `None` if it belongs to no company.
    pub company: Option<Uuid>,
    /// Who did it.
    pub actor: String,
    /// What was done: `webhook.update`.
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    /// The object before, as JSON.
    pub before: Option<String>,
    /// The object after, as JSON.
    pub after: Option<String>,
    /// Where the call came from.
    pub address: Option<String>,
}

/// Writes an entry. Its id begins with its time, so that the log is read along the key.
pub async fn write(db: impl PgExecutor<'_>, entry: &AuditRow) -> Result<()> {
    sqlx::query!(
        "
        -- audit_log.write
        insert into audit_log (id, company_id, actor, action, subject, before, after, address)
        values ($1, $2, $3, $4, $5, $6::text::json, $7::text::json, $8)
        ",
        Uuid::now_v7(),
        entry.company,
        entry.actor,
        entry.action,
        entry.subject,
        entry.before,
        entry.after,
        entry.address,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// An entry as it was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub id: Uuid,
    /// When it was written.
    pub at: DateTime<Utc>,
    /// The company whose object was changed; `None` if it belongs to no company.
    pub company_id: Option<Uuid>,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// The id of what it was done to.
    pub subject: String,
    /// The object before, as JSON.
    pub before: Option<String>,
    /// The object after, as JSON.
    pub after: Option<String>,
    /// Where the call came from.
    pub address: Option<String>,
}

/// Which entries are wanted; `None` does not filter.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    /// Of this company; `None` for all, including entries without a company.
    pub company: Option<CompanyId>,
    pub actor: Option<String>,
    /// What was done.
    pub action: Option<String>,
    /// To what.
    pub subject: Option<String>,
    /// From then on.
    pub since: Option<DateTime<Utc>>,
    /// Before then.
    pub until: Option<DateTime<Utc>>,
}

/// A page of entries, newest first, after the one with that time and id.
pub async fn list(
    db: impl PgExecutor<'_>,
    query: &AuditQuery,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<Written>> {
    let rows = sqlx::query_as!(
        Written,
        r#"
        -- audit_log.list
        select
            id,
            at,
            company_id,
            actor,
            action,
            subject,
            before::text as before,
            after::text as after,
            address
        from audit_log
        where ($1::uuid is null or company_id = $1)
        and ($2::text is null or actor = $2)
        and ($3::text is null or action = $3)
        and ($4::text is null or subject = $4)
        and ($5::timestamptz is null or at >= $5)
        and ($6::timestamptz is null or at < $6)
        and ($7::timestamptz is null or (at, id) < ($7, $8))
        order by at desc, id desc
        limit $9
        "#,
        query.company.map(CompanyId::uuid),
        query.actor,
        query.action,
        query.subject,
        query.since,
        query.until,
        before.map(|(at, _)| at),
        before.map(|(_, id)| id),
        limit,
    );
    Ok(rows.fetch_all(db).await?)
}

/// How many entries match, counted up to a bound of rows; `None` if that takes longer than a bound of time.
pub async fn count(
    db: &PgPool,
    query: &AuditQuery,
    (most, time_max): (i64, Duration),
) -> Result<Option<i64>> {
    let mut tx = db.begin().await?;
    search::within(&mut tx, time_max).await?;
    let count = sqlx::query_scalar!(
        r#"
        -- audit_log.count
        select count(*) as "count!"
        from (
            select
            from audit_log
            where ($1::uuid is null or company_id = $1)
            and ($2::text is null or actor = $2)
            and ($3::text is null or action = $3)
            and ($4::text is null or subject = $4)
            and ($5::timestamptz is null or at >= $5)
            and ($6::timestamptz is null or at < $6)
            limit $7
        ) as counted
        "#,
        query.company.map(CompanyId::uuid),
        query.actor,
        query.action,
        query.subject,
        query.since,
        query.until,
        most,
    );
    search::known_in_time(count.fetch_one(&mut *tx).await)
}
