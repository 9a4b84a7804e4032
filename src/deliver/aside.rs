//! Writes in batches what was not sent: parked, held, cancelled. Then the job is settled.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::hand::Hand;
use crate::{
    model::DeliveryId,
    shutdown::Shutdown,
    store::{
        ledger::Ledger,
        set_aside::{self, Aside, SetAside},
    },
};

/// Deliveries set aside in one statement.
pub const ASIDE_BATCH_MAX: usize = 500;

/// One delivery to be set aside.
struct Entry {
    hand: Arc<Hand>,
    set: SetAside,
}

/// The way to the task that writes them. What waits here is bounded by the jobs that the worker holds.
pub(super) struct Asides(mpsc::UnboundedSender<Entry>);

impl Asides {
    pub(super) fn start(ledger: Ledger, shutdown: &Shutdown) -> Self {
        let (sender, entries) = mpsc::unbounded_channel();
        shutdown.spawn(write(ledger, entries));
        Self(sender)
    }

    /// Sets a delivery aside and settles its part of the job once that is committed.
    pub(super) fn send(&self, hand: &Arc<Hand>, delivery: DeliveryId, aside: Aside, holds_claim: bool) {
        let set = SetAside { delivery, attempt: hand.job.attempt, aside, holds_claim };
        // The task lives as long as this sender.
        let _ = self.0.send(Entry { hand: Arc::clone(hand), set });
    }
}

async fn write(ledger: Ledger, mut entries: mpsc::UnboundedReceiver<Entry>) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, ASIDE_BATCH_MAX).await > 0 {
        let rows: Vec<SetAside> = batch.iter().map(|entry| entry.set).collect();
        let rows = &rows;
        let written =
            ledger.persist("set aside", |pool| async move { set_aside::set_aside(&pool, rows).await }).await;
        for Entry { hand, .. } in batch.drain(..) {
            match &written {
                Ok(()) => hand.settle(false),
                // Nothing in these rows comes from outside, so none can be bad; should one be, its job comes back.
                Err(bad) => tracing::error!(%bad, "a delivery could not be set aside"),
            }
        }
    }
}
