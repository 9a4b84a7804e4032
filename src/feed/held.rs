//! Deliveries of paused webhooks: held until the pause ends.

use sqlx::types::Uuid;

use super::{Feed, ROWS_MAX, Round, WEBHOOKS_MAX, is_full};
use crate::store::feed::{self as rows, Standing, Which};

impl Feed {
    /// Releases what is held for webhooks that are not paused, unless a resume does so at its rate: a worker with an
    /// old view may hold a delivery a moment after its webhook was resumed.
    pub(super) async fn held(&self, round: &Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut after = Uuid::nil();
        loop {
            let page = rows::webhooks(pool, Which::Held, round.low, after, WEBHOOKS_MAX).await?;
            for held in &page {
                match held.standing {
                    Standing::Open if !held.resuming => {
                        rows::release_held(pool, round.low, held.webhook, ROWS_MAX).await?;
                    }
                    Standing::Closed => {
                        rows::cancel(pool, round.low, held.webhook, "webhook deleted or inactive", ROWS_MAX)
                            .await?;
                    }
                    Standing::Open | Standing::Paused => {}
                }
            }
            match page.last() {
                Some(last) if is_full(&page) => after = last.webhook.0,
                _ => return Ok(()),
            }
        }
    }
}
