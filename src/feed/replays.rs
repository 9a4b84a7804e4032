//! Orders to send again, to resume, to discard: each a row, expanded chunk by chunk at its rate.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::types::Uuid;

use super::{Feed, ROWS_MAX, Round};
use crate::{
    broker::{Destination, Fate, Headers, Outgoing, Queue},
    model::{ReplayId, id::first_at},
    store::{
        fault::{Fault, fault},
        feed as rows, partitions,
        replay_rows::{self as orders, Held, Letter, Open},
        replay_sources::next_chunk,
    },
};

/// Open orders looked at in one round; the next round goes on behind them.
const ORDERS_MAX: i64 = 100;
/// After so long feed turns to what is due; the other orders come next time.
const ORDERS_TIME: Duration = Duration::from_millis(250);
/// Dead messages published in one go: each may be as large as any message.
const LETTERS_MAX: i64 = 16;
/// How far ahead of its rate an order may be expanded.
const AHEAD_SECONDS: f64 = 1.0;
/// An order that did not come round for so long is done; one that did after all begins a second ahead again.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// How much each order's rate allows at the moment. Nothing is made up for: what could not be expanded while feed
/// stood still, or before it became active here, comes at the rate as well.
#[derive(Default)]
pub(super) struct Paces(HashMap<Uuid, Pace>);

struct Pace {
    at: Instant,
    allowed: f64,
}

impl Paces {
    /// How many more an order may make now; these are then taken.
    fn take(&mut self, order: ReplayId, rate: i32, now: Instant) -> i64 {
        let rate = f64::from(rate);
        let most = (rate * AHEAD_SECONDS).max(1.0);
        let pace = self.0.entry(order.0).or_insert(Pace { at: now, allowed: most });
        pace.allowed = (pace.allowed + (now - pace.at).as_secs_f64() * rate).min(most);
        pace.at = now;
        #[expect(clippy::cast_possible_truncation, reason = "a rate is at most 10,000")]
        let whole = (pace.allowed as i64).min(ROWS_MAX);
        #[expect(clippy::cast_precision_loss, reason = "at most ROWS_MAX")]
        let taken = whole as f64;
        pace.allowed -= taken;
        whole
    }

    /// Forgets the orders that were not asked for within this time: they are done.
    fn forget(&mut self, now: Instant, unasked: Duration) {
        self.0.retain(|_, pace| now - pace.at <= unasked);
    }
}

impl Feed {
    /// Goes on with the next open orders.
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
                // An order that the ledger refuses must not keep feed from everything else.
                Err(error) if error.as_database_error().is_some() => {
                    tracing::error!(%error, replay = %order.id, "an order cannot be worked on; it is tried again");
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
        let allowed = round.paces.take(order.id, order.rate, Instant::now());
        if allowed == 0 {
            return Ok(());
        }
        match (order.kind.as_str(), order.held) {
            ("resume", Held::Deliver) => self.resume(round.low, order, allowed).await,
            ("resume", Held::Discard) => self.discard(round.low, order).await,
            _ if !order.filter.messages.is_empty() => self.publish_again(order, allowed).await,
            _ => {
                // What it makes is placed at its start, which may be days ago.
                round.low = round.low.min(first_at(order.started_at));
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

    /// Publishes dead messages as they came; ingest takes them as it would have.
    async fn publish_again(&self, order: &Open, allowed: i64) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let allowed = allowed.min(LETTERS_MAX);
        let letters = orders::letters(pool, order, allowed).await?;
        let fates = self.publisher.publish(letters.iter().map(outgoing).collect()).await;
        let confirmed: Vec<_> = letters
            .iter()
            .zip(&fates)
            .take_while(|(_, fate)| **fate == Fate::Confirmed)
            .map(|(l, _)| l.id)
            .collect();
        let all = confirmed.len() == letters.len();
        let last = all && i64::try_from(letters.len()).unwrap_or(i64::MAX) < allowed;
        orders::published(pool, order, &confirmed, last).await
    }
}

fn outgoing(letter: &Letter) -> Outgoing {
    let mut headers = Headers::default();
    let kept: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&letter.headers).unwrap_or_default();
    for (name, value) in &kept {
        if let (Some(text), false) = (value.as_str(), name.starts_with("xt-")) {
            headers.set_str(name, text);
        }
    }
    if let Some(key) = &letter.routing_key {
        headers.set_str("xt-routing-key", key);
    }
    Outgoing {
        to: Destination::Queue(Queue::Events),
        message_id: letter.message_id.clone().unwrap_or_else(|| letter.id.to_string()),
        kind: "",
        timestamp: None,
        headers,
        body: letter.body.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_begins_a_second_ahead_and_makes_up_for_nothing() {
        let (start, order) = (Instant::now(), ReplayId(Uuid::from_u128(1)));
        let check = |rate: i32, taken_at_ms: &[u64], expected: &[i64]| {
            let mut paces = Paces::default();
            let at = |ms: &u64| start + Duration::from_millis(*ms);
            let taken: Vec<i64> = taken_at_ms.iter().map(|ms| paces.take(order, rate, at(ms))).collect();
            assert_eq!(taken, expected, "at a rate of {rate}");
        };
        check(10, &[0, 0, 500, 1000, 1050], &[10, 0, 5, 5, 0]);
        check(1, &[0, 500, 1000, 1500, 2000], &[1, 0, 1, 0, 1]);
        // An hour of standing still gives a second's worth, not an hour's.
        check(10, &[0, 3_600_000, 3_600_100], &[10, 10, 1]);
        check(10_000, &[0, 0], &[ROWS_MAX, ROWS_MAX]);
    }
}
