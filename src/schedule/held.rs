//! Deliveries of paused webhooks: held until the pause ends.

use sqlx::types::Uuid;

use super::{ROWS_MAX, Round, Scheduler, WEBHOOKS_MAX, is_full};
use crate::store::{
    due as rows,
    waiting::{self, WebhookBacklog, Which},
};

impl Scheduler {
    /// Releases what is held for webhooks that are not paused, unless a resume does so at its rate: a worker with an
    /// old view may hold a delivery a moment after its webhook was resumed. Some webhooks each time; the next time
    /// continues after them.
    pub(super) async fn held(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let page =
            waiting::webhooks(pool, Which::Held, round.low_held, round.held_after, WEBHOOKS_MAX).await?;
        round.held_after = page.last().filter(|_| is_full(&page)).map_or(Uuid::nil(), |last| last.0);
        let all: Vec<_> = page.iter().map(|webhook| (*webhook, None)).collect();
        for held in &waiting::standing(pool, round.low, &all).await? {
            match held.standing {
                WebhookBacklog::Open if !held.resuming => {
                    if rows::release_held(pool, round.low_held, held.webhook, ROWS_MAX).await? > 0 {
                        round.cursors.forget(held.webhook);
                        round.visits.add([held.webhook]);
                        // What was held may be older than all that was pending.
                        round.low = round.low_held;
                    }
                }
                WebhookBacklog::Closed => {
                    let why = "webhook deleted or inactive";
                    rows::cancel(pool, round.low_held, held.webhook, why, ROWS_MAX).await?;
                }
                WebhookBacklog::Open | WebhookBacklog::Paused => {}
            }
        }
        Ok(())
    }
}
