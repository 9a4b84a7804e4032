//! The present state of webhooks, cached: URL, secret, pause and limits are those of now, not of when the job was made.

use std::{collections::HashMap, sync::Arc, time::Duration};

use moka::future::Cache;
use sqlx::types::Uuid;
use tokio::sync::broadcast;
use url::Url;

use crate::{
    model::{Webhook, WebhookId},
    shutdown::Shutdown,
    store::{
        self,
        changes::{Epochs, WebhookChange},
        ledger::{BadRow, Ledger},
        webhooks,
    },
};

/// The longest time for which a lost notification goes unnoticed.
pub const TTL: Duration = Duration::from_secs(10);
/// Webhooks held in the cache.
pub const CACHED_WEBHOOKS_MAX: u64 = 50_000;

/// A webhook, ready to be sent to.
#[derive(Debug)]
pub(super) struct CachedWebhook {
    pub webhook: Webhook,
    /// Its URL, parsed, or what is wrong with it.
    pub url: Result<Url, String>,
    epoch: u64,
}

impl CachedWebhook {
    /// Grows with each change of the webhook or its breaker, and sometimes without one.
    pub(super) fn version(&self) -> u64 {
        self.epoch
    }
}

/// The cache; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    ledger: Ledger,
    known: Cache<WebhookId, Arc<CachedWebhook>>,
    epochs: Epochs,
}

impl Webhooks {
    /// An empty cache that follows `changes` until shutdown.
    #[must_use]
    pub fn new(ledger: Ledger, changes: broadcast::Receiver<WebhookChange>, shutdown: &Shutdown) -> Self {
        let known = Cache::builder().time_to_live(TTL).max_capacity(CACHED_WEBHOOKS_MAX).build();
        Self { ledger, known, epochs: Epochs::follow(changes, |_company, webhook| webhook.0, shutdown) }
    }

    /// The webhook, if the cache has its current state.
    pub(super) async fn cached(&self, id: WebhookId) -> Option<Arc<CachedWebhook>> {
        let known = self.known.get(&id).await?;
        self.is_current(&known).then_some(known)
    }

    /// Whether nothing is known to have changed since this was read. Costs next to nothing.
    pub(super) fn is_current(&self, known: &CachedWebhook) -> bool {
        known.epoch == self.epochs.current(known.webhook.id.0)
    }

    /// Reads webhooks from the ledger, deleted ones too, retrying for as long as it takes. One that is missing from the
    /// result has never existed.
    pub(super) async fn read(
        &self,
        ids: &[WebhookId],
    ) -> Result<HashMap<WebhookId, Arc<CachedWebhook>>, BadRow> {
        let epochs: HashMap<WebhookId, u64> = ids.iter().map(|id| (*id, self.epochs.current(id.0))).collect();
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let ids = &ids;
        let rows = self
            .ledger
            .read("webhooks", |pool| async move {
                webhooks::by_ids(&pool, ids).await.map_err(store::Error::into_sqlx)
            })
            .await?;
        let mut read = HashMap::with_capacity(rows.len());
        for webhook in rows {
            let id = webhook.id;
            let url = webhook.settings.url.parse().map_err(|error: url::ParseError| error.to_string());
            let epoch = epochs.get(&id).copied().unwrap_or_default();
            let known = Arc::new(CachedWebhook { webhook, url, epoch });
            self.known.insert(id, Arc::clone(&known)).await;
            read.insert(id, known);
        }
        Ok(read)
    }
}
