//! Finds deliveries and dead letters by filters, page by page, newest first.
//!
//! A walk goes backwards along an index from where the previous page ended. So the thousandth page costs what the first
//! does, and nothing is shown twice, whatever arrives meanwhile. A filter is checked row by row on the way. Matches may
//! be few and far between, so a page is given up after [`LOOKED_AT_MAX`] rows: it then ends where the walk stopped,
//! perhaps empty, and the caller continues from there.
//!
//! Only ids are found here; `history` and `dead_letters` read the rows. The statements need plans that know their
//! values and walk rather than sort; the settings of the readers' pool ensure that.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::Result;
use crate::model::{
    CompanyId,
    id::{first_at, first_of_day, time_of},
};

/// Rows that a page reads before it is given up unfilled; the last step may go this far beyond.
pub const LOOKED_AT_MAX: i64 = 20_000;
/// Rows of the first step of a page with filters; each further step reads four times as many.
const LOOK_BEGINS: i64 = 1_000;
/// The most rows of a step.
const LOOK_MAX: i64 = 16_000;
/// The least rows of a single webhook that a step reads, however many webhooks share it.
const LOOK_EACH_MIN: i64 = 50;
/// Up to this many webhooks the first span is a day; beyond that a minute: each webhook costs a lookup in its index,
/// and for many of them a short span already fills a page.
const WEBHOOKS_FEW: i64 = 20;
/// How many times wider each span of time is than the one before.
const WIDER: i32 = 8;
/// Spans wider than this reach back to the beginning.
const SPAN_MAX: TimeDelta = TimeDelta::days(366);
/// How far ahead of now an id can be: events from a fast clock are an hour ahead at most.
const AHEAD_MAX: TimeDelta = TimeDelta::days(1);

/// Which deliveries are wanted. What is absent does not filter; of a list one must match.
#[derive(Clone, Debug, Default)]
pub struct Deliveries {
    /// Of these webhooks.
    pub webhooks: Option<Vec<Uuid>>,
    /// In these states.
    pub statuses: Option<Vec<String>>,
    /// Of types that match one of these: `ticket.created`, `ticket.*`, `*`.
    pub event_types: Option<Vec<String>>,
    /// Whose latest answer has one of these statuses.
    pub response_statuses: Option<Vec<i32>>,
    /// Whose latest attempt has an outcome of one of these classes.
    pub outcomes: Option<Vec<String>>,
    /// Whose reason starts with one of these.
    pub reasons: Option<Vec<String>>,
    /// That exist for one of these reasons.
    pub triggers: Option<Vec<String>>,
    /// Whose id is then or later: that of its event, or of the start of its replay.
    pub since: Option<DateTime<Utc>>,
    /// Whose id is before then.
    pub until: Option<DateTime<Utc>>,
}

impl Deliveries {
    /// Whether rows are filtered on the way.
    fn is_filtered(&self) -> bool {
        let texts = [&self.statuses, &self.event_types, &self.outcomes, &self.reasons, &self.triggers];
        texts.iter().any(|list| list.is_some()) || self.response_statuses.is_some()
    }

    /// The types that must be equal, and the prefixes; both `None` if every type matches.
    fn types(&self) -> (Option<Vec<String>>, Option<Vec<String>>) {
        let Some(types) = self.event_types.as_ref().filter(|types| types.iter().all(|text| text != "*"))
        else {
            return (None, None);
        };
        let (prefixes, exact): (Vec<&String>, Vec<&String>) =
            types.iter().partition(|text| text.ends_with(".*"));
        let prefixes = prefixes.into_iter().map(|text| text.trim_end_matches('*').to_owned());
        (Some(exact.into_iter().cloned().collect()), Some(prefixes.collect()))
    }

    fn low(&self) -> Uuid {
        self.since.map_or(Uuid::nil(), id_at)
    }

    fn high(&self) -> Uuid {
        self.until.map_or(Uuid::max(), id_at)
    }
}

/// What a page found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDeliveries<K> {
    /// Newest first.
    pub ids: Vec<Uuid>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<K>,
}

/// A page of at most `rows` deliveries of a company after `before`, or the newest.
pub async fn deliveries(
    db: &PgPool,
    company: CompanyId,
    query: &Deliveries,
    before: Option<Uuid>,
    rows: i64,
    now: DateTime<Utc>,
) -> Result<FoundDeliveries<Uuid>> {
    let webhooks = match &query.webhooks {
        Some(listed) => i64::try_from(listed.len()).unwrap_or(i64::MAX),
        None => count_webhooks(db, company).await?,
    };
    let mut walk = Walk::new(query, before, rows, webhooks, now);
    let mut ids: Vec<Uuid> = Vec::new();
    let mut looked_at = 0;
    while let Some((low, high)) = walk.span() {
        // One more than the page shows whether there is another.
        let missing = rows + 1 - i64::try_from(ids.len()).unwrap_or(rows);
        let span = Span { low, high, each: walk.each(), rows: missing };
        let look = look(db, company, query, span).await?;
        ids.extend(look.ids);
        if i64::try_from(ids.len()).is_ok_and(|n| n > rows) {
            ids.truncate(usize::try_from(rows).unwrap_or(0));
            return Ok(FoundDeliveries { next: ids.last().copied(), ids });
        }
        walk.went(look.edge);
        looked_at += look.looked_at;
        if looked_at >= LOOKED_AT_MAX && !walk.is_over() {
            return Ok(FoundDeliveries { next: Some(walk.before), ids });
        }
    }
    Ok(FoundDeliveries { ids, next: None })
}

/// The walk of a page backwards through time, span after span, each step within one of them.
#[derive(Debug)]
struct Walk {
    /// Everything from here on has been read.
    before: Uuid,
    /// Where the walk ends.
    floor: Uuid,
    /// There is hardly anything beyond: the first span is measured from here.
    now: Uuid,
    /// How far the next span reaches back.
    width: TimeDelta,
    /// Where the present span begins, while it is not completely read.
    low: Option<Uuid>,
    /// Rows of the next step, over all webhooks.
    look: i64,
    /// The least rows of a step for each webhook.
    each_min: i64,
    webhooks: i64,
}

impl Walk {
    fn new(query: &Deliveries, before: Option<Uuid>, rows: i64, webhooks: i64, now: DateTime<Utc>) -> Self {
        let newest = id_at(now.checked_add_signed(AHEAD_MAX).unwrap_or(now));
        let before = before.unwrap_or(Uuid::max()).min(query.high()).min(newest);
        let webhooks = webhooks.max(1);
        let width = if webhooks <= WEBHOOKS_FEW { TimeDelta::days(1) } else { TimeDelta::minutes(1) };
        let (look, each_min) = if query.is_filtered() {
            (LOOK_BEGINS, LOOK_EACH_MIN)
        } else {
            // Every row that is read matches: the newest of each webhook fill any page.
            (rows + 1, rows + 1)
        };
        Self { before, floor: query.low(), now: id_at(now), width, low: None, look, each_min, webhooks }
    }

    fn is_over(&self) -> bool {
        self.before <= self.floor
    }

    /// The most rows of the next step for each webhook.
    fn each(&self) -> i64 {
        (self.look / self.webhooks).max(self.each_min)
    }

    /// The span of ids of the next step; `None` if the walk is over.
    fn span(&mut self) -> Option<(Uuid, Uuid)> {
        if self.is_over() {
            return None;
        }
        let begin = below(self.before.min(self.now), self.width).max(self.floor);
        Some((*self.low.get_or_insert(begin), self.before))
    }

    /// Records that a step has come down to `edge` or, without one, through its whole span.
    fn went(&mut self, edge: Option<Uuid>) {
        if let Some(edge) = edge {
            self.before = edge;
            self.look = (self.look * 4).min(LOOK_MAX);
        } else {
            self.before = self.low.take().unwrap_or(self.floor);
            self.width = self.width.checked_mul(WIDER).unwrap_or(TimeDelta::MAX);
        }
    }
}

/// Where a span of this width before an id begins; from a day on at the start of a day, so that it cuts no partition.
fn below(before: Uuid, width: TimeDelta) -> Uuid {
    if width > SPAN_MAX {
        return Uuid::nil();
    }
    // The last millisecond before: exactly at the start of a day the day before is meant.
    let last = time_of(Uuid::from_u128(before.as_u128().saturating_sub(1)));
    let day = TimeDelta::days(1);
    let Some(begin) = last.checked_sub_signed(if width < day { width } else { width - day }) else {
        return Uuid::nil();
    };
    if width < day { first_at(begin) } else { first_of_day(begin.date_naive()) }
}

/// The least id of an instant, clamped to the range of ids.
fn id_at(time: DateTime<Utc>) -> Uuid {
    const MILLIS_MAX: i64 = (1 << 48) - 1;
    match time.timestamp_millis() {
        ..0 => Uuid::nil(),
        0..=MILLIS_MAX => first_at(time),
        _ => Uuid::max(),
    }
}

/// What one step found.
struct ScanStep {
    ids: Vec<Uuid>,
    /// Everything from here on was read; `None` if the whole span was.
    edge: Option<Uuid>,
    looked_at: i64,
}

/// What a step reads.
struct Span {
    /// The ids from here on,
    low: Uuid,
    /// below here.
    high: Uuid,
    /// The most rows of each webhook.
    each: i64,
    /// The most rows that it returns.
    rows: i64,
}

/// Reads at most `each` rows of each webhook in a span, newest first, and returns at most `rows` of those that match.
///
/// Rows compare as pairs, and the order begins with the webhook: so only the index of the webhooks' histories has it,
/// on a connection that avoids sorting. If told that there is one webhook, PostgreSQL would read all deliveries of a
/// day where it believes that most are the webhook's, and its statistics are hours old.
///
/// If a webhook has more rows than were read, the rows of the others below its last one may be incomplete, and wait for
/// the next step.
async fn look(db: &PgPool, company: CompanyId, query: &Deliveries, span: Span) -> Result<ScanStep> {
    let Span { low, high, each, rows } = span;
    let (types, prefixes) = query.types();
    let look = sqlx::query_file_as!(
        ScanStep,
        "src/store/search/deliveries.sql",
        company.uuid(),
        query.webhooks.as_deref() as _,
        low,
        high,
        each,
        rows,
        query.statuses.as_deref() as _,
        types.as_deref() as _,
        prefixes.as_deref() as _,
        query.response_statuses.as_deref() as _,
        query.outcomes.as_deref() as _,
        query.reasons.as_deref() as _,
        query.triggers.as_deref() as _,
    );
    Ok(look.fetch_one(db).await?)
}

async fn count_webhooks(db: &PgPool, company: CompanyId) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"
        -- search.count_webhooks
        select count(*) as "count!"
        from webhooks
        where company_id = $1
        "#,
        company.uuid(),
    );
    Ok(count.fetch_one(db).await?)
}

mod counting;
mod dead_letters;
mod scan;

pub use counting::count_deliveries;
pub(super) use counting::{known_in_time, within};
pub use dead_letters::{DeadLetterQuery, count_dead_letters, dead_letters};
pub(super) use scan::Scan;

#[cfg(test)]
mod tests;
