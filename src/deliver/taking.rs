//! When jobs are taken: while the lanes have room, and the ledger takes commits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Lanes, WAITING_MAX, Worker};
use crate::broker::{Consumer, Message};

/// After so long without a commit no request is started.
pub const TROUBLE_AFTER: Duration = Duration::from_secs(5);

/// Takes jobs until shutdown; none while the ledger takes no commits.
pub(super) async fn take(worker: Arc<Worker>, mut consumer: Consumer) {
    let mut ledger = worker.ledger.watch();
    loop {
        let message = tokio::select! {
            message = worker.next(&mut consumer) => message,
            () = trouble(&mut ledger) => {
                worker.stand_by(&mut consumer).await;
                continue;
            }
        };
        let Some(message) = message else { return };
        // Looking at a job may need the ledger as well. It goes on trying while the consumer stands by, for nobody
        // else may be left to notice that the ledger is back.
        let looking = worker.take(message);
        tokio::pin!(looking);
        tokio::select! {
            () = &mut looking => {}
            () = trouble(&mut ledger) => {
                // A stop waits for no ledger that is away: the job comes back from the broker.
                let looking = async {
                    tokio::select! {
                        () = looking => {}
                        () = worker.shutdown.asked() => {}
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

impl Worker {
    /// The next message, once the lanes have room for what it may bring.
    async fn next(&self, consumer: &mut Consumer) -> Option<Message> {
        loop {
            let room = self.room.notified();
            if self.lanes(|lanes| lanes.waiting()) < WAITING_MAX {
                return consumer.next().await;
            }
            tokio::select! {
                () = room => {}
                () = self.shutdown.asked() => return consumer.next().await,
            }
        }
    }

    /// Starts nothing and takes nothing until the ledger takes commits again.
    async fn stand_by(self: &Arc<Self>, consumer: &mut Consumer) {
        tracing::error!(
            "no commit for {TROUBLE_AFTER:?}: no request is started until the ledger takes commits again"
        );
        self.metrics.ledger_failing.set(true);
        self.lanes(Lanes::stop);
        consumer.pause().await;
        let mut ledger = self.ledger.watch();
        tokio::select! {
            _ = ledger.wait_for(Option::is_none) => {}
            () = self.shutdown.asked() => {}
        }
        consumer.resume();
        self.metrics.ledger_failing.set(false);
        if !self.shutdown.is_asked() {
            self.lanes(Lanes::go_on);
            self.start_what_may();
        }
    }
}
