//! How many readings one has under way at once.
//!
//! Readings share few connections, and each may hold one for as long as a statement of theirs may take. With no more
//! than half of them for any one company, another's first page does not wait behind its hundred slow lists. What
//! exceeds the half waits for a turn of its own company, as long as a request may take.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Caller, limits::TOLD_APART_MAX};
use crate::model::CompanyId;

/// Readings that one company has under way at once, or one who reads of all companies; there are twice as many
/// connections for readings.
pub const READINGS_MAX: u32 = 4;

/// How long after its last request a company's turns are kept; longer than any request takes.
const KEPT: Duration = Duration::from_mins(10);

/// Whose turns are counted together.
#[derive(Clone, Hash, PartialEq, Eq)]
enum ReadingParty {
    Company(CompanyId),
    Actor(String),
}

/// The turns of all.
pub(super) struct ReadingLimits(Cache<ReadingParty, Arc<Semaphore>>);

impl ReadingLimits {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(TOLD_APART_MAX as u64).time_to_idle(KEPT).build())
    }

    /// Waits for a turn, which ends when what is returned is dropped.
    pub(super) async fn take(&self, caller: &Caller) -> Option<OwnedSemaphorePermit> {
        let whose =
            caller.company.map_or_else(|| ReadingParty::Actor(caller.actor.clone()), ReadingParty::Company);
        let turns = self.0.get_with(whose, async { Arc::new(Semaphore::new(READINGS_MAX as usize)) }).await;
        // It is never closed.
        turns.acquire_owned().await.ok()
    }
}
