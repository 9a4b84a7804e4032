//! Wakes the caches when a webhook changes, by LISTEN/NOTIFY.
//!
//! A notification may be lost with its connection, so listeners are told to reload everything after each loss, and the
//! caches also expire. On any error the listener is dropped and created again, because one that met a reset would go on
//! failing forever (transact-rs/sqlx#4014).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
    types::Uuid,
};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{
    model::{CompanyId, WebhookId},
    shutdown::Shutdown,
};

/// The channel that the trigger on `webhooks` notifies, and [`notify_all`].
const CHANNEL: &str = "webhooks_changed";
/// What the trigger on `event_types` notifies there.
const EVENT_TYPES: &str = "event_types";
/// How often the connection is queried, so that a silently lost one is noticed.
const PING_EVERY: Duration = Duration::from_secs(10);
/// The most changes that may wait for a slow cache; if there are more, it is told to reload everything.
pub const CHANGES_MAX: usize = 1024;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookChange {
    /// One webhook of a company.
    Webhook(CompanyId, WebhookId),
    /// The registered event types.
    EventTypes,
    /// Anything: notifications may have been lost.
    Everything,
}

/// Notifies every cache of webhooks whose lanes have changed; for a change of the webhook itself its trigger does so.
///
/// NOTIFY takes a global lock at commit, so it is one statement for many, and never part of a hot one.
pub async fn notify_all(pool: &PgPool, changed: &[(CompanyId, WebhookId)]) -> sqlx::Result<()> {
    let payloads: Vec<String> =
        changed.iter().map(|(company, webhook)| format!("{company} {webhook}")).collect();
    sqlx::query!(
        "-- changes.notify
        select pg_notify($1, payload)
        from unnest($2::text[]) as p (payload)",
        CHANNEL,
        &payloads,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Listens until shutdown and passes on what changed.
pub async fn listen(
    options: PgConnectOptions,
    changes: broadcast::Sender<WebhookChange>,
    shutdown: Shutdown,
) {
    let backoff = || {
        let builder = ExponentialBuilder::default().with_jitter().with_max_delay(Duration::from_secs(5));
        builder.without_max_times().build()
    };
    let mut waits = backoff();
    loop {
        let ended = tokio::select! {
            ended = follow(&options, &changes) => ended,
            () = shutdown.requested() => return,
        };
        // This makes up for whatever changed while not listening.
        let _ = changes.send(WebhookChange::Everything);
        match ended {
            Ok(()) => waits = backoff(),
            Err(error) => {
                tracing::warn!(%error, "not listening for changed webhooks; caches rely on their expiry");
            }
        }
        let wait = waits.next().unwrap_or(PING_EVERY);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// Passes on notifications until the connection is lost.
async fn follow(options: &PgConnectOptions, changes: &broadcast::Sender<WebhookChange>) -> sqlx::Result<()> {
    // A pool for its one connection, because only a pool takes options: a URL alone would lose the application's name.
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let mut listener = PgListener::connect_with(&pool.connect_lazy_with(options.clone())).await?;
    listener.listen(CHANNEL).await?;
    let _ = changes.send(WebhookChange::Everything);
    loop {
        match tokio::time::timeout(PING_EVERY, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => {
                let _ = changes.send(parse(notification.payload()));
            }
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_quiet) => {
                let ping = sqlx::query("select 1").execute(&mut listener);
                match tokio::time::timeout(PING_EVERY, ping).await {
                    Ok(answered) => {
                        answered?;
                    }
                    Err(_silent) => return Err(sqlx::Error::PoolTimedOut),
                }
            }
        }
    }
}

/// Entries of a cache share this many epochs; sharing one costs an unnecessary read, never a stale entry.
const EPOCHS: usize = 1024;

/// Tells a cache which of its entries are stale.
///
/// A load that began before a change must not outlive it. So an entry has the epoch that was current *before* it was
/// read, and is valid only while that epoch is current.
#[derive(Clone, Debug)]
pub struct Epochs(Arc<[AtomicU64]>);

impl Epochs {
    /// Epochs that advance with `changes` until shutdown; `key` says whose entry a change concerns.
    #[must_use]
    pub fn follow(
        mut changes: broadcast::Receiver<WebhookChange>,
        key: fn(CompanyId, WebhookId) -> Uuid,
        shutdown: &Shutdown,
    ) -> Self {
        let epochs = Self((0..EPOCHS).map(|_| AtomicU64::new(0)).collect());
        let (followed, stop) = (epochs.clone(), shutdown.clone());
        shutdown.spawn(async move {
            loop {
                let change = tokio::select! {
                    change = changes.recv() => change,
                    () = stop.requested() => return,
                };
                match change {
                    Ok(WebhookChange::Webhook(company, webhook)) => followed.advance(key(company, webhook)),
                    Ok(WebhookChange::EventTypes) => {}
                    Ok(WebhookChange::Everything) | Err(RecvError::Lagged(_)) => followed.advance_all(),
                    Err(RecvError::Closed) => return,
                }
            }
        });
        epochs
    }

    /// The epoch of an entry now.
    #[must_use]
    pub fn current(&self, key: Uuid) -> u64 {
        self.0[slot(key)].load(Ordering::Acquire)
    }

    fn advance(&self, key: Uuid) {
        self.0[slot(key)].fetch_add(1, Ordering::AcqRel);
    }

    fn advance_all(&self) {
        for epoch in self.0.iter() {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn slot(key: Uuid) -> usize {
    let bytes = key.as_bytes();
    usize::from(u16::from_be_bytes([bytes[14], bytes[15]])) % EPOCHS
}

fn parse(payload: &str) -> WebhookChange {
    if payload == EVENT_TYPES {
        return WebhookChange::EventTypes;
    }
    let ids = payload.split_once(' ').and_then(|(company, webhook)| {
        Some(WebhookChange::Webhook(company.parse().ok()?, webhook.parse().ok()?))
    });
    ids.unwrap_or(WebhookChange::Everything)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_names_company_and_webhook_or_means_everything() {
        let (c, w) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        assert_eq!(parse(&format!("{c} {w}")), WebhookChange::Webhook(CompanyId(c), WebhookId(w)));
        assert_eq!(parse("event_types"), WebhookChange::EventTypes);
        assert_eq!(parse("nonsense"), WebhookChange::Everything);
        assert_eq!(parse(""), WebhookChange::Everything);
    }
}
