//! Rows of days that no test can wait for.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use xtwebhooks::model::{CompanyId, DeliveryId, EventId, WebhookId};

use super::app::App;

/// Runs any SQL.
pub async fn execute(app: &App, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&app.pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Writes an event that happened then, and what it owes a webhook, as ingest would have.
pub async fn owe(app: &App, company: Uuid, webhook: Uuid, at: DateTime<Utc>, status: &str) -> DeliveryId {
    execute(app, &format!("select ensure_partitions('{}', 1)", at.date_naive())).await;
    let event = EventId::derive(at, CompanyId(company), &Uuid::new_v4().to_string());
    let delivery = DeliveryId::derive(event, WebhookId(webhook));
    sqlx::query(
        r#"with event as (
            insert into events (id, company_id, event_type, message_id, "timestamp", received_at, data, body_hash,
                                matched, matched_as_of, fanned_out)
            values ($1, $2, 'ticket.created', $1::text, $5, $6, '{"kept":  "as it was"}', 0, 1, $6, true)
        )
        insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, due_at, created_at)
        values ($3, $2, $4, $1, 'ticket.created', 'event', $7, $6, $6)"#,
    )
    .bind(event.0)
    .bind(company)
    .bind(delivery.0)
    .bind(webhook)
    .bind(at.timestamp())
    .bind(at)
    .bind(status)
    .execute(&app.pool)
    .await
    .expect("it can be written");
    delivery
}
