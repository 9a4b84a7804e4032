//! Which webhooks want what: the webhooks of a company that are not deleted, cached.
//!
//! An entry is at most [`TTL`] old, and a change that the database notifies us of makes it stale at once.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio::sync::broadcast;

use crate::{
    model::CompanyId,
    shutdown::Shutdown,
    store::{
        changes::{Epochs, WebhookChange},
        ledger::Ledger,
        subscribed::{self, OfCompany, Subscribed},
    },
};

/// The longest time for which a lost notification goes unnoticed.
pub const TTL: Duration = Duration::from_secs(10);
/// Webhooks held in the cache, over all companies.
pub const CACHED_WEBHOOKS_MAX: u64 = 200_000;

/// The active webhooks of a company at an instant.
#[derive(Debug)]
pub(super) struct CompanySubscriptions {
    pub as_of: DateTime<Utc>,
    pub webhooks: Vec<Subscribed>,
    /// Whether it is being erased: what arrives for it is dropped.
    pub erased: bool,
    epoch: u64,
}

/// The cache; cheap to clone.
#[derive(Clone)]
pub struct Subscriptions {
    ledger: Ledger,
    companies: Cache<CompanyId, Arc<CompanySubscriptions>>,
    epochs: Epochs,
}

impl Subscriptions {
    /// An empty cache that follows `changes` until shutdown.
    #[must_use]
    pub fn new(ledger: Ledger, changes: broadcast::Receiver<WebhookChange>, shutdown: &Shutdown) -> Self {
        let companies = Cache::builder()
            .time_to_live(TTL)
            .max_capacity(CACHED_WEBHOOKS_MAX)
            .weigher(|_, company: &Arc<CompanySubscriptions>| {
                u32::try_from(company.webhooks.len() + 1).unwrap_or(u32::MAX)
            })
            .build();
        let epochs = Epochs::follow(changes, |company, _webhook| company.0, shutdown);
        Self { ledger, companies, epochs }
    }

    /// The active webhooks of a company; waits for the ledger as long as it takes.
    pub(super) async fn of(&self, company: CompanyId) -> Arc<CompanySubscriptions> {
        if let Some(cached) = self.companies.get(&company).await
            && cached.epoch == self.epochs.current(company.0)
        {
            return cached;
        }
        let loaded = Arc::new(self.load(company).await);
        self.companies.insert(company, Arc::clone(&loaded)).await;
        loaded
    }

    async fn load(&self, company: CompanyId) -> CompanySubscriptions {
        loop {
            let epoch = self.epochs.current(company.0);
            let loaded = self
                .ledger
                .read("subscriptions", |pool| async move { subscribed::of_company(&pool, company).await });
            match loaded.await {
                Ok(OfCompany { as_of, webhooks, erased }) => {
                    return CompanySubscriptions { as_of, webhooks, erased, epoch };
                }
                Err(bad) => {
                    // A read has no bad rows; whatever this is, it is our own fault, and nothing is decided without the
                    // result.
                    tracing::error!(%company, %bad, "cannot read the webhooks of a company");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}
