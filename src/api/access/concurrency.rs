//! Limits concurrent read requests of each company.
//!
//! Read requests share few connections, and each may hold one until its statement times out. A company may use at most
//! half of them, so that the first page of another company does not wait behind a hundred slow lists. Further requests
//! wait for a permit of their own company, for up to the time limit of a request.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Caller, limits::TRACKED_MAX};
use crate::model::CompanyId;

/// Concurrent read requests of one company, or of one caller for all companies. There are twice as many connections for
/// read requests.
pub const READINGS_MAX: u32 = 4;

/// How long a company's permits are remembered after its last request; longer than any request takes.
const KEPT: Duration = Duration::from_mins(10);

/// Those whose read requests share permits.
#[derive(Clone, Hash, PartialEq, Eq)]
enum ReadingParty {
    Company(CompanyId),
    Actor(String),
}

/// The permits, by party.
pub(super) struct ReadingLimits(Cache<ReadingParty, Arc<Semaphore>>);

impl ReadingLimits {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(TRACKED_MAX as u64).time_to_idle(KEPT).build())
    }

    /// Waits for a permit, which is free again when it is dropped.
    pub(super) async fn take(&self, caller: &Caller) -> Option<OwnedSemaphorePermit> {
        let whose =
            caller.company.map_or_else(|| ReadingParty::Actor(caller.actor.clone()), ReadingParty::Company);
        let permits = self.0.get_with(whose, async { Arc::new(Semaphore::new(READINGS_MAX as usize)) }).await;
        // It is never closed.
        permits.acquire_owned().await.ok()
    }
}
