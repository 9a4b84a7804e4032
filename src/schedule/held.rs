//! Deliveries of paused webhooks: held until the pause ends.

use sqlx::types::Uuid;

use super::{ROWS_MAX, Round, Scheduler, WEBHOOKS_MAX, is_full};
use crate::store::{
    due as rows,
    waiting::{self, WebhookBacklog, Which},
};

impl Scheduler {
    /// Releases what is held for webhooks that are not paused, unless a resume does so at its rate: a worker with an
    /// old view may hold a delivery a moment after its webhook was resumed.
    pub(super) async fn held(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut after = Uuid::nil();
        loop {
            let page = waiting::webhooks(pool, Which::Held, round.low, after, WEBHOOKS_MAX).await?;
            let all: Vec<_> = page.iter().map(|webhook| (*webhook, None)).collect();
            for held in &waiting::standing(pool, round.low, &all).await? {
                match held.standing {
                    WebhookBacklog::Open if !held.resuming => {
                        if rows::release_held(pool, round.low, held.webhook, ROWS_MAX).await? > 0 {
                            round.cursors.forget(held.webhook);
                        }
                    }
                    WebhookBacklog::Closed => {
                        rows::cancel(pool, round.low, held.webhook, "webhook deleted or inactive", ROWS_MAX)
                            .await?;
                    }
                    WebhookBacklog::Open | WebhookBacklog::Paused => {}
                }
            }
            match page.last() {
                Some(last) if is_full(&page) => after = last.0,
                _ => return Ok(()),
            }
        }
    }
}
