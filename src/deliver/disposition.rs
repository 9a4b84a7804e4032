//! Writes in batches what was not sent (parked, held, cancelled), then settles the jobs.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::task::JobHandle;
use crate::{
    model::DeliveryId,
    shutdown::Shutdown,
    store::{
        dispose::{self, Disposed, Disposition},
        ledger::Ledger,
    },
};

/// The most deliveries parked, held or cancelled in one statement.
pub const ASIDE_BATCH_MAX: usize = 500;

/// One delivery to be parked, held or cancelled.
struct Pending {
    handle: Arc<JobHandle>,
    set: Disposed,
}

/// The way to the task that writes them. What waits here is bounded by the jobs that the worker holds.
pub(super) struct Dispositions(mpsc::UnboundedSender<Pending>);

impl Dispositions {
    pub(super) fn start(ledger: Ledger, shutdown: &Shutdown) -> Self {
        let (sender, entries) = mpsc::unbounded_channel();
        shutdown.spawn(write(ledger, entries));
        Self(sender)
    }

    /// Parks, holds or cancels a delivery, and settles its part of the job once that is committed.
    pub(super) fn send(
        &self,
        handle: &Arc<JobHandle>,
        delivery: DeliveryId,
        aside: Disposition,
        holds_claim: bool,
    ) {
        let set = Disposed { delivery, attempt: handle.job.attempt, aside, holds_claim };
        // The task lives as long as this sender.
        let _ = self.0.send(Pending { handle: Arc::clone(handle), set });
    }
}

async fn write(ledger: Ledger, mut entries: mpsc::UnboundedReceiver<Pending>) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, ASIDE_BATCH_MAX).await > 0 {
        let rows: Vec<Disposed> = batch.iter().map(|entry| entry.set).collect();
        let rows = &rows;
        let written =
            ledger.persist("set aside", |pool| async move { dispose::set_aside(&pool, rows).await }).await;
        for Pending { handle, .. } in batch.drain(..) {
            match &written {
                Ok(()) => handle.settle(false),
                // Nothing in these rows comes from outside, so none can be bad; if one is, its job comes back.
                Err(bad) => tracing::error!(%bad, "a delivery could not be parked, held or cancelled"),
            }
        }
    }
}
