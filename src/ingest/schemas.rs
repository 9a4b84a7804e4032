//! What the types of events must look like: the registered schemas, compiled.
//!
//! They are few, and the same for every company, so all of them are kept in memory and read again when a notification
//! says that one has changed, or after [`TTL`]. If no type has one, an event costs a lookup in an empty map.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::{
    model::{
        Decoded,
        event_schema::{OnViolation, TypeSchemas as OfType},
    },
    shutdown::Shutdown,
    store::{
        changes::WebhookChange,
        event_types::{self, WithSchemas},
        ledger::Ledger,
    },
};

/// The longest time for which a lost notification goes unnoticed.
pub const TTL: Duration = Duration::from_secs(10);

/// Every type that has a schema.
type Compiled = HashMap<String, Arc<OfType>>;

/// The schemas as they are now; cheap to clone.
#[derive(Clone)]
pub struct SchemaCache(watch::Receiver<Option<Arc<Compiled>>>);

impl SchemaCache {
    /// Reads the schemas, and follows `changes` until shutdown.
    #[must_use]
    pub fn new(ledger: Ledger, changes: broadcast::Receiver<WebhookChange>, shutdown: &Shutdown) -> Self {
        let (sender, schemas) = watch::channel(None);
        let stop = shutdown.clone();
        shutdown.spawn(async move {
            tokio::select! {
                () = follow(ledger, changes, sender) => {}
                () = stop.requested() => {}
            }
        });
        Self(schemas)
    }

    /// The schemas for the next batch; waits for the first read for as long as it takes.
    pub(super) async fn now(&mut self) -> Judge {
        match self.0.wait_for(Option::is_some).await {
            Ok(schemas) => Judge(schemas.clone().unwrap_or_default()),
            // Changes are no longer followed because the process is stopping: what is ingested now is neither checked
            // nor flagged, as if the schemas had been removed.
            Err(_) => Judge(Arc::default()),
        }
    }
}

/// The schemas at one time.
pub(super) struct Judge(Arc<Compiled>);

impl Judge {
    /// What an event violates, and what becomes of it.
    pub(super) fn judge(
        &self,
        event: &Decoded,
    ) -> Option<(crate::model::event_schema::Violation, OnViolation)> {
        if self.0.is_empty() || event.event_type.is_reserved() {
            return None;
        }
        let schemas = self.0.get(event.event_type.as_str())?;
        Some((schemas.judge(&event.data)?, schemas.on_violation))
    }
}

async fn follow(
    ledger: Ledger,
    mut changes: broadcast::Receiver<WebhookChange>,
    sender: watch::Sender<Option<Arc<Compiled>>>,
) {
    let mut known: Option<Vec<WithSchemas>> = None;
    loop {
        match ledger.read("schemas", |pool| async move { event_types::with_schemas(&pool).await }).await {
            Ok(rows) => {
                if known.as_ref() != Some(&rows) {
                    sender.send_replace(Some(Arc::new(compile(&rows))));
                    known = Some(rows);
                }
            }
            Err(bad) => tracing::error!(%bad, "cannot read the schemas of event types"),
        }
        let changed = async {
            loop {
                match changes.recv().await {
                    Ok(WebhookChange::Webhook(..)) => {}
                    Ok(WebhookChange::EventTypes | WebhookChange::Everything)
                    | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep(TTL) => {}
        }
    }
}

/// A schema is checked before it is registered. One that cannot be compiled all the same is ignored; otherwise it would
/// hold up every event of its type.
fn compile(rows: &[WithSchemas]) -> Compiled {
    let mut compiled = Compiled::new();
    for row in rows {
        let versions = serde_json::from_str::<std::collections::BTreeMap<u32, Value>>(&row.schemas);
        let versions = versions.unwrap_or_default();
        match OfType::compile(&versions, OnViolation::from_word(&row.on_violation)) {
            Ok(schemas) => {
                compiled.insert(row.name.clone(), Arc::new(schemas));
            }
            Err((version, bad)) => {
                tracing::error!(event_type = row.name, version, bad, "a schema is invalid and is ignored");
            }
        }
    }
    compiled
}
