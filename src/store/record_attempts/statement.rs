//! The statement itself (`record.sql`), with its columns.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use super::{After, AttemptRow, Becomes, LaneChanged, News, lanes::Changes};
use crate::model::{DeliveryId, WebhookId, breaker};

/// The result of the statement.
#[derive(Default)]
pub(super) struct RecordedBatch {
    pub deliveries: HashMap<DeliveryId, After>,
    pub lanes: Vec<LaneChanged>,
    /// Lanes that were left unchanged because not all of their outcomes were recorded.
    pub missed: Vec<WebhookId>,
}

/// A row of the result: a delivery that was recorded or, if `missed` is set, a lane.
struct Answered {
    id: Uuid,
    queued_at: Option<DateTime<Utc>>,
    missed: Option<bool>,
    opened: Option<bool>,
    closed: Option<bool>,
    rate_limited: Option<bool>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    reason: Option<String>,
}

/// Writes `rows`, in the order of deliveries, and applies `changes` to the lanes.
pub(super) async fn write(
    pool: &PgPool,
    rows: &[&AttemptRow],
    changes: &Changes,
    policy: &breaker::Policy,
) -> sqlx::Result<RecordedBatch> {
    let made = AttemptColumns::of(rows);
    let probe_waits: Vec<f64> = policy.probe_waits().iter().map(Duration::as_secs_f64).collect();
    let answered = sqlx::query_file_as!(
        Answered,
        "src/store/record_attempts/record.sql",
        &made.ids,
        &made.numbers,
        &made.statuses as _,
        &made.reasons as _,
        &made.waits,
        &made.queued,
        &made.attempted,
        &made.outcomes as _,
        &made.whys as _,
        &made.urls as _,
        &made.addresses as _,
        &made.request_heads as _,
        &made.response_statuses as _,
        &made.response_heads as _,
        &made.response_bodies as _,
        &made.truncated as _,
        &made.repeated,
        &made.dns as _,
        &made.connect as _,
        &made.tls as _,
        &made.first_byte as _,
        &made.total as _,
        &made.gone,
        &made.gone_why as _,
        &changes.webhooks,
        &changes.attempts,
        &changes.succeeded,
        &changes.failures,
        &changes.failed_events as _,
        &changes.failed_many,
        &changes.shares as _,
        &changes.last,
        &changes.silent,
        &changes.probes,
        &changes.rate_limited_for,
        &changes.jitters,
        i32::try_from(policy.failures).unwrap_or(i32::MAX),
        &probe_waits,
        i32::try_from(probe_waits.len()).unwrap_or(i32::MAX),
        breaker::SUCCESS_RECORDED_EVERY.as_secs_f64(),
        breaker::RATE_LIMITED_PROLONGED_MIN.as_secs_f64(),
        i32::try_from(breaker::REASON_MAX).unwrap_or(i32::MAX),
        breaker::CLOSED_BECAUSE,
        i64::try_from(rows.len()).unwrap_or(i64::MAX),
    )
    .fetch_all(pool)
    .await?;
    Ok(RecordedBatch::of(answered, changes))
}

impl RecordedBatch {
    fn of(answered: Vec<Answered>, changes: &Changes) -> Self {
        let mut answer = Self::default();
        for row in answered {
            let webhook = WebhookId(row.id);
            match row.missed {
                None => {
                    answer.deliveries.insert(DeliveryId(row.id), After { queued_at: row.queued_at });
                }
                Some(true) => answer.missed.push(webhook),
                Some(false) => {
                    let opened =
                        News::Opened { reason: row.reason.unwrap_or_default(), failing_since: row.since };
                    let closed = News::Closed { opened_at: row.since };
                    let rate_limited = News::RateLimited { until: row.until };
                    let news = [(row.opened, opened), (row.closed, closed), (row.rate_limited, rate_limited)];
                    let company = changes.company(webhook);
                    let changed = news.into_iter().filter(|(is_so, _)| *is_so == Some(true));
                    answer.lanes.extend(changed.map(|(_, news)| LaneChanged { company, webhook, news }));
                }
            }
        }
        answer
    }
}

/// The attempts as columns, with one element for each row, except `gone`, which has the webhooks to be paused.
struct AttemptColumns<'r> {
    ids: Vec<Uuid>,
    numbers: Vec<i32>,
    statuses: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    waits: Vec<f64>,
    queued: Vec<bool>,
    attempted: Vec<DateTime<Utc>>,
    outcomes: Vec<&'static str>,
    whys: Vec<Option<&'r str>>,
    urls: Vec<Option<&'r str>>,
    addresses: Vec<Option<&'r str>>,
    request_heads: Vec<Option<&'r str>>,
    response_statuses: Vec<Option<i32>>,
    response_heads: Vec<Option<&'r str>>,
    response_bodies: Vec<Option<&'r str>>,
    truncated: Vec<Option<bool>>,
    repeated: Vec<bool>,
    dns: Vec<Option<i32>>,
    connect: Vec<Option<i32>>,
    tls: Vec<Option<i32>>,
    first_byte: Vec<Option<i32>>,
    total: Vec<Option<i32>>,
    gone: Vec<Uuid>,
    gone_why: Vec<&'r str>,
}

impl<'r> AttemptColumns<'r> {
    fn of(rows: &[&'r AttemptRow]) -> Self {
        let text =
            |f: fn(&AttemptRow) -> Option<&str>| rows.iter().map(|r| f(r)).collect::<Vec<Option<&str>>>();
        let phase = |i: usize| rows.iter().map(|r| r.phases_us[i]).collect::<Vec<Option<i32>>>();
        let mut columns = Self {
            ids: rows.iter().map(|r| r.delivery.0).collect(),
            numbers: rows.iter().map(|r| i32::try_from(r.number).unwrap_or(i32::MAX)).collect(),
            statuses: Vec::with_capacity(rows.len()),
            reasons: Vec::with_capacity(rows.len()),
            waits: Vec::with_capacity(rows.len()),
            queued: Vec::with_capacity(rows.len()),
            attempted: rows.iter().map(|r| r.attempted_at).collect(),
            outcomes: rows.iter().map(|r| r.outcome).collect(),
            whys: text(|r| r.why.as_deref()),
            urls: text(|r| r.url.as_deref()),
            addresses: text(|r| r.address.as_deref()),
            request_heads: text(|r| r.request_head.as_deref()),
            response_statuses: rows.iter().map(|r| r.response_status).collect(),
            response_heads: text(|r| r.response_head.as_deref()),
            response_bodies: text(|r| r.response_body.as_deref()),
            truncated: rows.iter().map(|r| r.response_truncated).collect(),
            repeated: rows.iter().map(|r| r.repeated).collect(),
            dns: phase(0),
            connect: phase(1),
            tls: phase(2),
            first_byte: phase(3),
            total: phase(4),
            gone: Vec::new(),
            gone_why: Vec::new(),
        };
        for row in rows {
            columns.becomes(row);
        }
        columns
    }

    /// What becomes of the delivery of a row.
    fn becomes(&mut self, row: &'r AttemptRow) {
        let (status, reason, wait, in_queue) = match &row.becomes {
            Becomes::Delivered => ("delivered", None, Duration::ZERO, false),
            Becomes::Retried { wait, queued } => ("pending", None, *wait, *queued),
            Becomes::Held { why } => {
                self.gone.push(row.webhook.0);
                self.gone_why.push(why.as_str());
                ("held", Some("paused"), Duration::ZERO, false)
            }
            Becomes::Dead { reason } => ("dead", Some(*reason), Duration::ZERO, false),
        };
        self.statuses.push(status);
        self.reasons.push(reason);
        self.waits.push(wait.as_secs_f64());
        self.queued.push(in_queue);
    }
}
