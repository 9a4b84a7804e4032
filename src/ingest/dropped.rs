//! Counts in the background what arrived for erased companies.
//!
//! The messages are acknowledged first: the count is informational, and nothing for another company waits for it. So a
//! count is lost if it cannot be written or the process dies first.

use std::collections::HashMap;

use tokio::sync::mpsc;

use crate::{
    model::CompanyId,
    shutdown::Shutdown,
    store::{erasures, ledger::Ledger},
};

/// The most counts that wait to be written, one for each company of a batch; further ones are lost.
pub const UNCOUNTED_MAX: usize = 10_000;

/// The way to the task that writes them; cheap to clone. The task ends with the last of these.
#[derive(Clone)]
pub(super) struct Dropped(mpsc::Sender<(CompanyId, i64)>);

impl Dropped {
    pub(super) fn start(ledger: Ledger, shutdown: &Shutdown) -> Self {
        let (sender, counts) = mpsc::channel(UNCOUNTED_MAX);
        shutdown.spawn(write(ledger, counts));
        Self(sender)
    }

    /// Counts so many messages for a company, sooner or later.
    pub(super) fn count(&self, company: CompanyId, messages: i64) {
        // Full only while the ledger is unreachable, when nothing can be counted.
        let _ = self.0.try_send((company, messages));
    }
}

async fn write(ledger: Ledger, mut counts: mpsc::Receiver<(CompanyId, i64)>) {
    let mut batch = Vec::new();
    while counts.recv_many(&mut batch, UNCOUNTED_MAX).await > 0 {
        let mut sums = HashMap::new();
        for (company, messages) in batch.drain(..) {
            *sums.entry(company).or_insert(0) += messages;
        }
        let sums: Vec<_> = sums.into_iter().collect();
        if let Err(error) = erasures::dropped(ledger.pool(), &sums).await {
            tracing::warn!(%error, "could not count the events dropped for erased companies");
        }
    }
}
