//! Events of a type, or that a webhook wanted: found on a walk along all events, which is given up where they are rare.

use sqlx::PgPool;
use uuid::Uuid;

use super::{EventsPage, FoundEvent, by_ids};
use crate::{
    model::CompanyId,
    store::{Result, search},
};

/// A page of matching events.
pub(super) async fn list(db: &PgPool, company: CompanyId, page: &EventsPage) -> Result<FoundEvent> {
    let mut scan = search::Scan::new(Some(page.before), page.limit, true);
    loop {
        let place =
            ScanCursor { before: scan.before.unwrap_or(page.before), each: scan.each, rows: scan.missing() };
        let look = if page.unmatched == Some(true) {
            scan_unmatched(db, company, page, place).await?
        } else {
            scan_all(db, company, page, place).await?
        };
        let Some(found) = scan.take(look.ids, look.edge, look.looked_at) else { continue };
        let rows =
            if found.keys.is_empty() { Vec::new() } else { by_ids(db, company, page, &found.keys).await? };
        return Ok(FoundEvent { rows, next: found.next });
    }
}

/// Where a step begins, how many rows it reads, and how many it may find.
struct ScanCursor {
    before: Uuid,
    each: i64,
    rows: i64,
}

struct EventScan {
    ids: Vec<Uuid>,
    edge: Option<Uuid>,
    looked_at: i64,
}

macro_rules! look {
    ($sql:literal, $company:expr, $page:expr, $place:expr) => {
        sqlx::query_as!(
            EventScan,
            $sql + r#"
                    and id >= $2
                    and id < $3
                order by id desc
                limit $7
            )
            select
                array(
                    select id
                    from looked
                    where ($4::text is null or event_type = $4)
                        and ($5::text is null or starts_with(event_type, $5))
                        and ($6::boolean is null or (matched = 0) = $6)
                    order by id desc
                    limit $8
                ) as "ids!",
                (select id from looked order by id limit 1) as edge,
                (select count(*) from looked) as "looked_at!""#,
            $company.uuid(),
            $page.from,
            $place.before,
            $page.event_type,
            $page.type_prefix,
            $page.unmatched,
            $place.each,
            $place.rows,
        )
    };
}

async fn scan_all(
    db: &PgPool,
    company: CompanyId,
    page: &EventsPage,
    place: ScanCursor,
) -> Result<EventScan> {
    let look = look!(
        r#"-- events.look
            with looked as (
                select id, event_type, matched
                from events
                where company_id = $1"#,
        company,
        page,
        place
    );
    Ok(look.fetch_one(db).await?)
}

async fn scan_unmatched(
    db: &PgPool,
    company: CompanyId,
    page: &EventsPage,
    place: ScanCursor,
) -> Result<EventScan> {
    let look = look!(
        r#"-- events.look_unmatched
            with looked as (
                select id, event_type, matched
                from events
                where company_id = $1
                    and matched = 0"#,
        company,
        page,
        place
    );
    Ok(look.fetch_one(db).await?)
}
