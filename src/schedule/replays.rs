//! Replays, resumes and discards: each is a row, expanded chunk by chunk at its rate.

use std::time::{Duration, Instant};

use sqlx::types::Uuid;

use super::{ROWS_MAX, Round, Scheduler, paces::LanePaces};
use crate::{
    broker::{CONTENT_TYPE_KEPT, Destination, Fate, Headers, Outgoing, Queue},
    model::{id::first_at, replay::ReplayKind, webhook::Held},
    store::{
        due as rows,
        fault::{Fault, fault},
        partitions,
        replay_rows::{self as orders, OpenDeadLetter},
        replay_sources::next_chunk,
        replays::Open,
    },
};

/// Open replays handled in one round; the next round continues after them.
const ORDERS_MAX: i64 = 100;
/// After this time schedule turns to what is due; the other replays come next time.
const ORDERS_TIME: Duration = Duration::from_millis(250);
/// Dead messages published in one go: each may be as large as any message.
const LETTERS_MAX: i64 = 16;
/// How far ahead of its rate a replay may be expanded.
const AHEAD: Duration = Duration::from_secs(1);
/// A replay that did not come round for this long is done; if it does come again, it starts a second ahead.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

impl Scheduler {
    /// Continues with the next open replays.
    pub(super) async fn orders(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let open = orders::open(pool, round.orders_after, ORDERS_MAX).await?;
        round.orders_after = match open.last() {
            Some(last) if i64::try_from(open.len()).is_ok_and(|n| n >= ORDERS_MAX) => last.id.0,
            _ => Uuid::nil(),
        };
        let began = Instant::now();
        for order in &open {
            match self.go_on(round, order).await {
                // A replay that the ledger rejects must not keep schedule from everything else.
                Err(error) if error.as_database_error().is_some() => {
                    tracing::error!(%error, replay = %order.id, "a replay cannot be expanded; retrying");
                }
                done => done?,
            }
            if began.elapsed() > ORDERS_TIME {
                round.orders_after = order.id.0;
                break;
            }
        }
        round.paces.forget(Instant::now(), FORGOTTEN_AFTER);
        orders::finish(pool).await?;
        Ok(())
    }

    async fn go_on(&self, round: &mut Round, order: &Open) -> sqlx::Result<()> {
        let pacing = LanePaces { per_second: order.rate.into(), begins_with: AHEAD, most: AHEAD };
        let allowed = round.paces.allowed(order.id.0, pacing, Instant::now()).min(ROWS_MAX);
        if allowed == 0 {
            return Ok(());
        }
        round.paces.took(order.id.0, allowed);
        match (order.kind, order.held) {
            (ReplayKind::Resume, Held::Deliver) => {
                if let Some(webhook) = order.webhook {
                    round.cursors.forget(webhook);
                    round.visits.add([webhook]);
                }
                // What was held may be older than all that was pending.
                round.low = round.low_held;
                self.resume(round.low_held, order, allowed).await
            }
            (ReplayKind::Resume, Held::Discard) => self.discard(round.low_held, order).await,
            _ if !order.filter.messages.is_empty() => self.publish_again(order, allowed).await,
            _ => {
                // What it makes is placed at its start, which may be days ago.
                round.low = round.low.min(first_at(order.started_at));
                round.low_held = round.low_held.min(round.low);
                self.expand(order, allowed).await
            }
        }
    }

    /// Releases held deliveries at the rate of the resume, and ends it with the last.
    async fn resume(&self, low: Uuid, order: &Open, allowed: i64) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let released = match order.webhook {
            Some(webhook) => rows::release_held(pool, low, webhook, allowed).await?,
            None => 0,
        };
        let last = i64::try_from(released).unwrap_or(i64::MAX) < allowed;
        orders::resumed(pool, order.id, released, last).await
    }

    /// Cancels what was held when the resume was asked for.
    async fn discard(&self, low: Uuid, order: &Open) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let cancelled = orders::discard(pool, order, low, ROWS_MAX).await?;
        let last = i64::try_from(cancelled).unwrap_or(i64::MAX) < ROWS_MAX;
        orders::resumed(pool, order.id, cancelled, last).await
    }

    /// Makes the next deliveries of a replay or recovery.
    async fn expand(&self, order: &Open, allowed: i64) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let chunk = next_chunk(pool, order, allowed).await?;
        match orders::expand(pool, order, &chunk).await {
            Err(error) if fault(&error) == Fault::NoPartition => {
                partitions::ensure(pool, order.started_at.date_naive(), 1).await?;
                orders::expand(pool, order, &chunk).await
            }
            done => done,
        }
    }

    /// Publishes dead messages as they came; ingest handles them like any other.
    async fn publish_again(&self, order: &Open, allowed: i64) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let allowed = allowed.min(LETTERS_MAX);
        let dead_letters = orders::dead_letters(pool, order, allowed).await?;
        let fates = self.publisher.publish(dead_letters.iter().map(outgoing).collect()).await;
        let confirmed: Vec<_> = dead_letters
            .iter()
            .zip(&fates)
            .take_while(|(_, fate)| **fate == Fate::Confirmed)
            .map(|(l, _)| l.id)
            .collect();
        let all = confirmed.len() == dead_letters.len();
        let last = all && i64::try_from(dead_letters.len()).unwrap_or(i64::MAX) < allowed;
        orders::published(pool, order, &confirmed, last).await
    }
}

fn outgoing(letter: &OpenDeadLetter) -> Outgoing {
    let mut headers = Headers::default();
    let kept: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&letter.headers).unwrap_or_default();
    for (name, value) in &kept {
        if name.starts_with("xt-") && name != CONTENT_TYPE_KEPT {
            continue;
        }
        if let Some(text) = value.as_str() {
            headers.set_str(name, text);
        } else if let Some(number) = value.as_i64() {
            headers.set_i64(name, number);
        }
    }
    // Always set: without it the message would count as one of ours.
    headers.set_str("xt-routing-key", letter.routing_key.as_deref().unwrap_or_default());
    Outgoing {
        to: Destination::Queue(Queue::Events),
        message_id: letter.message_id.clone().unwrap_or_else(|| letter.id.to_string()),
        kind: "",
        timestamp: None,
        headers,
        body: letter.body.clone().into(),
    }
}
