//! Deliveries whose workers died: put into quarantine, and given up if they end the worker there too.
//!
//! The broker counts how often it hands a message out, but each time a claim expires, a new message is made for its
//! delivery. So the ledger counts as well: a claim that finds an expired one adds a death, and recording an attempt
//! sets the count back. Dead-letter adds one when the broker has handed out a delivery too often in quarantine. After
//! [`QUARANTINE_AFTER_DEATHS`] a delivery goes to the quarantine queue, where messages are tried alone, so that its
//! neighbours are safe and a further death is its own doing.

use super::Scheduler;
use crate::{
    broker::topology::QUARANTINE_DELIVERY_LIMIT,
    model::DeadReason,
    store::{
        due::DueDelivery,
        give_up::{QUARANTINE_AFTER_DEATHS, give_up},
    },
    telemetry::labels::DeadLetterKind,
};

impl Scheduler {
    /// Whether a delivery goes into quarantine.
    pub(super) fn is_for_quarantine(due: &DueDelivery) -> bool {
        due.deaths >= QUARANTINE_AFTER_DEATHS
    }

    /// Gives up what has ended its workers in quarantine as well, and returns the others.
    pub(super) async fn without_killers(&self, due: Vec<DueDelivery>) -> sqlx::Result<Vec<DueDelivery>> {
        let deaths_max = QUARANTINE_AFTER_DEATHS + QUARANTINE_DELIVERY_LIMIT;
        let (killers, others): (Vec<DueDelivery>, Vec<DueDelivery>) =
            due.into_iter().partition(|due| due.deaths >= deaths_max);
        for DueDelivery { delivery, attempt, deaths, .. } in killers {
            let reason = format!("{} {deaths} times", DeadReason::EndedTheWorker);
            tracing::error!(%delivery, reason, "a delivery was given up");
            give_up(self.ledger.pool(), &[delivery], attempt, &reason).await?;
            self.metrics.dead_letter_stored.inc(DeadLetterKind::Delivery);
        }
        Ok(others)
    }
}
