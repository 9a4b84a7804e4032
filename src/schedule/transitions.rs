//! Publishes what happened to lanes and deliveries, and orders what follows from it.
//!
//! ```text
//! lane_transitions, dead_letters ─▶ operational event, confirmed ─▶ announced
//!                 └─▶ closed, and the webhook wants it: a recovery
//! lanes that fail for too long ─▶ paused (which is a transition)
//! ```
//!
//! A crash at any line repeats an event under the same message id, and orders the same recovery under the same id. What
//! happens to an operational event is not announced, and for each webhook only so many events of a type are published
//! in an hour, so that no receiver is flooded by its own trouble.

use std::time::Instant;

use super::{ANNOUNCE_AGAIN_AFTER, ROWS_MAX, Round, Scheduler};
use crate::{
    broker::{Destination, Fate, Headers, Outgoing, Queue},
    model::operational::{ANNOUNCED_PER_HOUR_MAX, Announcement, TransitionKind, WebhookStatus},
    store::lane_transitions::{self as transitions, Unannounced},
    telemetry::labels::AnnouncementFate,
};

/// The most operational events published in one go.
const ANNOUNCED_AT_ONCE_MAX: i64 = 200;
/// Deliveries a second of a recovery where the webhook has no pace of its own.
pub const RECOVERY_RATE: i32 = 50;
/// Bounds of the rate of an order; a webhook's own may lie outside.
const RATES: (f64, f64) = (1.0, 10_000.0);

/// How far the announcements have come.
enum Progress {
    /// Everything is announced.
    All,
    /// There may be more.
    GoesOn,
    /// The broker did not take all of it.
    Refused,
}

impl Progress {
    fn of(rows: usize, all: bool) -> Self {
        match (all, i64::try_from(rows).is_ok_and(|rows| rows >= ANNOUNCED_AT_ONCE_MAX)) {
            (false, _) => Self::Refused,
            (true, true) => Self::GoesOn,
            (true, false) => Self::All,
        }
    }
}

impl Scheduler {
    /// Announces what is not yet announced, oldest first.
    pub(super) async fn announce(&self, round: &mut Round) -> sqlx::Result<()> {
        let progress = [self.announce_transitions().await, self.announce_dead_letters().await];
        for progress in progress {
            match progress {
                Ok(Progress::All) => {}
                // There may be more; they wait for the next round, so that nothing else is delayed.
                Ok(Progress::GoesOn) => round.next.announce = round.next.announce.min(Instant::now()),
                Ok(Progress::Refused) => round.next.announce = Instant::now() + ANNOUNCE_AGAIN_AFTER,
                // What the ledger rejects must not keep schedule from everything else.
                Err(error) if error.as_database_error().is_some() => {
                    tracing::error!(%error, "cannot publish operational events; retrying");
                    round.next.announce = Instant::now() + ANNOUNCE_AGAIN_AFTER;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn announce_transitions(&self) -> sqlx::Result<Progress> {
        let pool = self.ledger.pool();
        let rows = transitions::unannounced(pool, ANNOUNCED_AT_ONCE_MAX).await?;
        for row in
            rows.iter().filter(|row| row.auto_recover && row.changed.transition == TransitionKind::Closed)
        {
            if transitions::recover(pool, &row.changed, rate(row)).await? {
                let WebhookStatus { company, webhook, .. } = row.changed;
                tracing::info!(%company, %webhook, "an outage ended; the deliveries given up during it will be sent again");
                self.metrics.schedule_recoveries.inc();
            }
        }
        let news = rows.iter().map(|row| {
            let news = if row.silent { None } else { row.changed.announcement() };
            (&row.changed, news, row.earlier)
        });
        let (done, all) = self.publish_news(news.collect()).await;
        if !done.is_empty() {
            transitions::announced(pool, &done).await?;
        }
        Ok(Progress::of(rows.len(), all))
    }

    async fn announce_dead_letters(&self) -> sqlx::Result<Progress> {
        let pool = self.ledger.pool();
        let rows = transitions::unannounced_dead_letters(pool, ANNOUNCED_PER_HOUR_MAX, ANNOUNCED_AT_ONCE_MAX)
            .await?;
        let news = rows.iter().map(|row| {
            let news = if row.silent { None } else { row.dead.announcement() };
            (row.dead.delivery, news, row.earlier)
        });
        let (done, all) = self.publish_news(news.collect()).await;
        if !done.is_empty() {
            transitions::dead_letters_announced(pool, &done).await?;
        }
        Ok(Progress::of(rows.len(), all))
    }

    /// Publishes the announcements; returns those that are done, and whether that is all.
    async fn publish_news<T>(&self, news: Vec<(T, Option<Announcement>, i64)>) -> (Vec<T>, bool) {
        let (mut done, mut of, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for (what, news, earlier) in news {
            match news {
                Some(news) if earlier < ANNOUNCED_PER_HOUR_MAX => {
                    of.push(what);
                    messages.push(outgoing(news));
                }
                Some(_) => {
                    self.metrics.schedule_announced.inc(AnnouncementFate::TooMany);
                    done.push(what);
                }
                None => done.push(what),
            }
        }
        let fates = self.publisher.publish(messages).await;
        let count = of.len();
        let confirmed = of.into_iter().zip(fates).filter(|(_, fate)| *fate == Fate::Confirmed);
        let confirmed: Vec<T> = confirmed.map(|(what, _)| what).collect();
        let all = confirmed.len() == count;
        self.metrics.schedule_announced.add(AnnouncementFate::Published, confirmed.len());
        done.extend(confirmed);
        (done, all)
    }

    /// Pauses webhooks that have failed for too long; the pause is a transition, and announced as such.
    pub(super) async fn pause_failing(&self, round: &mut Round) -> sqlx::Result<()> {
        let after = self.config.auto_pause_after;
        let paused = match transitions::pause_failing(self.ledger.pool(), after, ROWS_MAX).await {
            Err(error) if error.as_database_error().is_some() => {
                tracing::error!(%error, "cannot pause webhooks that have failed for too long; retrying");
                return Ok(());
            }
            paused => paused?,
        };
        for webhook in &paused {
            tracing::warn!(%webhook, "a webhook failed for too long and was paused; its events are held");
            self.metrics.schedule_auto_paused.inc();
        }
        if !paused.is_empty() {
            round.next.announce = Instant::now();
        }
        Ok(())
    }
}

/// The rate of a recovery: the webhook's own pace, within the bounds of a replay's rate.
fn rate(row: &Unannounced) -> i32 {
    let rate = row.rate_limit.map(|rate| rate.clamp(RATES.0, RATES.1));
    #[expect(clippy::cast_possible_truncation, reason = "it is between the bounds")]
    rate.map_or(RECOVERY_RATE, |rate| rate as i32)
}

fn outgoing(news: Announcement) -> Outgoing {
    Outgoing {
        to: Destination::Queue(Queue::Events),
        message_id: news.message_id,
        kind: "",
        timestamp: u64::try_from(news.timestamp).ok(),
        headers: Headers::default(),
        body: news.body,
    }
}
