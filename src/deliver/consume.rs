//! Decides when jobs are consumed: while the lanes have room and the ledger accepts commits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::{DeliverWorker, Lanes, WAITING_MAX};
use crate::{
    broker::{Consumer, Message},
    model::JobClass,
};

/// After this time without a commit no request is started.
pub const TROUBLE_AFTER: Duration = Duration::from_secs(5);

/// What waits in the lanes, by the class of its job.
#[derive(Default)]
pub(super) struct Backlogs {
    prompt: Arc<Backlog>,
    ordinary: Arc<Backlog>,
}

#[derive(Default)]
struct Backlog {
    /// Deliveries.
    waiting: AtomicUsize,
    /// Notified when there is room again.
    room: Notify,
}

/// Counts one waiting delivery until it is dropped.
pub(super) struct WaitGuard(Arc<Backlog>);

impl Backlogs {
    fn of(&self, class: JobClass) -> &Arc<Backlog> {
        match class {
            JobClass::Prompt => &self.prompt,
            JobClass::Ordinary => &self.ordinary,
        }
    }

    /// Counts one more waiting delivery.
    pub(super) fn join(&self, class: JobClass) -> WaitGuard {
        let backlog = self.of(class);
        backlog.waiting.fetch_add(1, Ordering::AcqRel);
        WaitGuard(Arc::clone(backlog))
    }
}

impl Backlog {
    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Acquire) < WAITING_MAX
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == WAITING_MAX {
            self.0.room.notify_waiters();
        }
    }
}

/// Consumes jobs until shutdown; none while the ledger accepts no commits.
pub(super) async fn take(worker: Arc<DeliverWorker>, mut consumer: Consumer, class: JobClass) {
    let mut ledger = worker.ledger.watch();
    loop {
        let message = tokio::select! {
            message = worker.next(&mut consumer, class) => message,
            () = trouble(&mut ledger) => {
                worker.stand_by(&mut consumer).await;
                continue;
            }
        };
        let Some(message) = message else { return };
        // Admitting a job may need the ledger as well. It keeps trying while the consumer stands by; otherwise nothing
        // might be left to notice that the ledger is back.
        let looking = worker.take(message, class);
        tokio::pin!(looking);
        tokio::select! {
            () = &mut looking => {}
            () = trouble(&mut ledger) => {
                // A stop does not wait for an unreachable ledger: the broker redelivers the job.
                let looking = async {
                    tokio::select! {
                        () = looking => {}
                        () = worker.shutdown.requested() => {}
                    }
                };
                tokio::join!(looking, worker.stand_by(&mut consumer));
            }
        }
    }
}

/// Resolves when commits have failed for [`TROUBLE_AFTER`].
async fn trouble(ledger: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let since = *ledger.borrow_and_update();
        let over = async {
            match since {
                Some(since) => tokio::time::sleep_until((since + TROUBLE_AFTER).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            changed = ledger.changed() => if changed.is_err() {
                std::future::pending::<()>().await;
            },
        }
    }
}

impl DeliverWorker {
    /// The next message, once the lanes have room for what it may bring.
    async fn next(&self, consumer: &mut Consumer, class: JobClass) -> Option<Message> {
        let backlog = self.backlogs.of(class);
        loop {
            let room = backlog.room.notified();
            if backlog.has_room() {
                return consumer.next().await;
            }
            tokio::select! {
                () = room => {}
                () = self.shutdown.requested() => return consumer.next().await,
            }
        }
    }

    /// Starts nothing and consumes nothing until the ledger accepts commits again.
    async fn stand_by(self: &Arc<Self>, consumer: &mut Consumer) {
        tracing::error!(
            "no commit for {TROUBLE_AFTER:?}: starting no requests until the ledger accepts commits again"
        );
        self.metrics.ledger_failing.set(true);
        self.lanes(Lanes::stop);
        consumer.pause().await;
        let mut ledger = self.ledger.watch();
        tokio::select! {
            _ = ledger.wait_for(Option::is_none) => {}
            () = self.shutdown.requested() => {}
        }
        consumer.resume();
        self.metrics.ledger_failing.set(false);
        if !self.shutdown.is_requested() {
            self.lanes(Lanes::go_on);
            self.start_what_may();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_keep_none_of_the_other_kind_out() {
        let backlogs = Backlogs::default();
        let rooms = || (backlogs.ordinary.has_room(), backlogs.prompt.has_room());
        let mut ordinary: Vec<WaitGuard> =
            (0..WAITING_MAX).map(|_| backlogs.join(JobClass::Ordinary)).collect();
        assert_eq!(rooms(), (false, true));
        let prompt: Vec<WaitGuard> = (0..WAITING_MAX).map(|_| backlogs.join(JobClass::Prompt)).collect();
        assert_eq!(rooms(), (false, false));
        ordinary.pop();
        assert_eq!(rooms(), (true, false));
        drop(prompt);
        assert_eq!(rooms(), (true, true));
    }
}
