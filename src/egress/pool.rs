//! Connections that can be used again, by origin.
//!
//! Idle connections are few and short-lived, so one lock over all of them suffices. It is held only for a lookup in a
//! map; closing happens outside it.
#![expect(clippy::vec_box, reason = "a connection is about a kilobyte and moves with every request")]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::connection::ReceiverConnection;

/// How many idle connections are kept per origin: a whole burst to one receiver finds its connections again.
const IDLE_PER_ORIGIN_MAX: usize = 256;

/// How many idle connections are kept in all; each holds a file descriptor.
const IDLE_IN_ALL_MAX: usize = 2048;

/// How often what has been idle for too long is closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The idle connections of a client.
#[derive(Default)]
pub(super) struct Pool {
    shelf: Mutex<IdlePool>,
}

#[derive(Default)]
struct IdlePool {
    /// By `scheme://host:port`, as the URL is normalised. The last one put is the first one taken.
    idle: HashMap<String, Vec<Box<ReceiverConnection>>>,
    count: usize,
    /// Whether a task sweeps; it ends with the last idle connection.
    swept: bool,
}

impl Pool {
    /// A connection to this origin that is still alive.
    pub async fn take(&self, origin: &str) -> Option<Box<ReceiverConnection>> {
        while let Some(mut link) = self.pop(origin) {
            if link.is_alive().await {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection for the next request to this origin, if there is room.
    pub fn put(self: &Arc<Self>, origin: &str, link: Box<ReceiverConnection>) {
        if self.lock().put(origin, link) {
            self.sweep();
        }
    }

    fn pop(&self, origin: &str) -> Option<Box<ReceiverConnection>> {
        self.lock().pop(origin)
    }

    /// Closes what is stale, until nothing is left or the client is gone.
    fn sweep(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                let Some(pool) = pool.upgrade() else { return };
                let (stale, done) = pool.lock().remove_stale(Instant::now());
                drop(stale);
                if done {
                    return;
                }
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, IdlePool> {
        // Nothing in here can be half done when a thread panics, so poison means nothing.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdlePool {
    /// True if a sweeping task must be started.
    fn put(&mut self, origin: &str, link: Box<ReceiverConnection>) -> bool {
        if self.count >= IDLE_IN_ALL_MAX {
            return false;
        }
        match self.idle.get_mut(origin) {
            Some(links) if links.len() >= IDLE_PER_ORIGIN_MAX => return false,
            Some(links) => links.push(link),
            None => {
                self.idle.insert(origin.to_owned(), vec![link]);
            }
        }
        self.count += 1;
        !std::mem::replace(&mut self.swept, true)
    }

    fn pop(&mut self, origin: &str) -> Option<Box<ReceiverConnection>> {
        let link = self.idle.get_mut(origin)?.pop()?;
        self.count -= 1;
        Some(link)
    }

    /// Takes out what is stale; true when nothing is left to sweep.
    fn remove_stale(&mut self, now: Instant) -> (Vec<Box<ReceiverConnection>>, bool) {
        let mut stale = Vec::new();
        self.idle.retain(|_, links| {
            stale.extend(links.extract_if(.., |link| link.is_stale(now)));
            !links.is_empty()
        });
        self.count -= stale.len();
        self.swept = !self.idle.is_empty();
        (stale, !self.swept)
    }
}
