//! An attempt as its row tells it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Row;
use crate::support::app::App;

/// What `webhook_deliveries` says; of an earlier attempt the part that `webhook_delivery_attempts` has.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Record {
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub status: String,
    pub reason: Option<String>,
    pub attempts: i32,
    pub due_at: DateTime<Utc>,
    pub queued_at: Option<DateTime<Utc>>,
    pub claimed_until: Option<DateTime<Utc>>,
    pub repeats: i16,
    pub rescues: i16,
    pub delivered_at: Option<DateTime<Utc>>,
    pub attempted_at: Option<DateTime<Utc>>,
    pub outcome: Option<String>,
    pub why: Option<String>,
    pub url: Option<String>,
    pub address: Option<String>,
    pub request_head: Option<String>,
    pub response_status: Option<i32>,
    pub response_head: Option<String>,
    pub response_body: Option<String>,
    pub response_truncated: Option<bool>,
    pub repeated: Option<bool>,
    pub dns_us: Option<i32>,
    pub connect_us: Option<i32>,
    pub first_byte_us: Option<i32>,
    pub total_us: Option<i32>,
}

/// The delivery to the webhook of that name.
pub async fn record(app: &App, webhook: &str) -> Record {
    let sql = "select d.* from webhook_deliveries d join webhooks w on w.id = d.webhook_id where w.name = $1";
    sqlx::query_as(sql)
        .bind(webhook)
        .fetch_one(&app.pool)
        .await
        .unwrap_or_else(|error| panic!("{webhook}: {error}"))
}

/// Its attempts before the last, in their order.
pub async fn earlier(app: &App, delivery: Uuid) -> Vec<Record> {
    let sql =
        "select d.id, d.webhook_id, d.status, d.reason, d.due_at, d.queued_at, d.claimed_until, d.repeats,
                      d.rescues, d.delivered_at, a.number as attempts, a.*
        from webhook_delivery_attempts a
        join webhook_deliveries d on d.id = a.delivery_id
        where d.id = $1
        order by a.number";
    sqlx::query_as(sql).bind(delivery).fetch_all(&app.pool).await.expect("read")
}

impl Record {
    /// The parts of the attempt are there as far as it came.
    pub fn check_parts(&self, row: &Row) {
        let name = row.name;
        assert_eq!(self.url.as_deref(), Some(&*row.url), "{name}");
        assert_eq!(self.repeated, Some(false), "{name}");
        let head = self.request_head.as_deref().unwrap_or_default();
        let number = format!("x-xtsystems-attempt: {}\n", self.attempts);
        assert_eq!(head.contains(&number), row.outcome != "fault", "{name}: {head}");
        let answered = self.response_status.is_some();
        let parts =
            [self.response_head.is_some(), self.response_body.is_some(), self.response_truncated.is_some()];
        assert_eq!(parts, [answered; 3], "{name}");
        assert_eq!(self.first_byte_us.is_some(), answered, "{name}");
        let is_connected = !["no connection", "no URL", "no such name", "no address"].contains(&name);
        assert_eq!(self.address.is_some(), is_connected, "{name}");
        let total = self.total_us.expect("it took its time");
        let (least, most) = match (row.outcome, name) {
            ("timed_out", _) => (1_000_000, 10_000_000),
            (_, "/200") => (300_000, 10_000_000),
            _ => (0, 10_000_000),
        };
        assert!((least..most).contains(&total), "{name}: {total} us");
        match name {
            "/201" => assert_eq!(self.response_body.as_deref(), Some("made")),
            // PostgreSQL cannot hold the character that stood between.
            "/500" => assert_eq!(self.response_body.as_deref(), Some("oh\u{fffd}no")),
            "/301" => assert!(self.response_head.as_deref().unwrap_or_default().contains("location: /200\n")),
            "/drip" => assert!(self.response_body.as_deref().unwrap_or_default().starts_with("xx")),
            "no such name" => assert!(self.dns_us.is_some() && self.connect_us.is_none()),
            _ => {}
        }
    }
}
