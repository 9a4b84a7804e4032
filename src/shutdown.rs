//! Soft and hard shutdown.
//!
//! The first SIGTERM or SIGINT starts a soft shutdown: nothing new starts, and work in progress is finished and
//! recorded within `SHUTDOWN_GRACE`. A second signal, or the end of the grace, ends the process at once; what was
//! unfinished then comes back from the broker and the ledger.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The two levels of stopping, and the tasks that a stop waits for.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Resolves when nothing new may start.
    pub async fn requested(&self) {
        self.soft.cancelled().await;
    }

    /// Whether nothing new may start.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Resolves when the grace is over.
    pub async fn forced(&self) {
        self.hard.cancelled().await;
    }

    /// Starts a shutdown, as a signal would.
    pub fn request(&self) {
        self.soft.cancel();
    }

    /// Runs a task that a stop waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Waits for a signal, then for the tasks, but no longer than `grace` or a second signal.
    /// True if every task ended.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub async fn on_signals(&self, grace: Duration) -> std::io::Result<bool> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = self.soft.cancelled() => {}
        }
        tracing::info!(grace_seconds = grace.as_secs(), "stopping; finishing work in progress");
        self.soft.cancel();
        self.tasks.close();
        let finished = tokio::select! {
            () = self.tasks.wait() => true,
            () = tokio::time::sleep(grace) => false,
            _ = term.recv() => false,
            _ = int.recv() => false,
        };
        self.hard.cancel();
        Ok(finished)
    }
}
