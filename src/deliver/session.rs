//! The session of this worker process, and which of its jobs are fresh.
//!
//! Claims name the session. Its lease is renewed here; if the process is killed, the lease runs out and others may claim
//! what it had claimed, without waiting for the timeout of the requests.
//!
//! A fresh job starts without a claim. An ingest that must publish a job a second time does not know whether the first
//! one is out. It first moves the *fresh limit* in the ledger: jobs queued up to that time must claim, like the second
//! one. Every worker reads the limit each [`LIMIT_EVERY`], and where it has not been able to for [`LIMIT_KNOWN`], no job
//! is fresh. For what it had started before, it then makes the claim. The second job waits
//! longer, in the retry queue of [`AGAIN_TIER`], so that it meets claims wherever the first one got.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    model::{DeliveryId, job::AGAIN_TIER},
    store::sessions::{self, SESSION_EVERY},
};

/// How often the fresh limit is read.
pub const LIMIT_EVERY: Duration = Duration::from_millis(500);
/// How long a worker relies on the limit that it read last.
pub const LIMIT_KNOWN: Duration = Duration::from_millis(1_500);
const _: () = assert!(LIMIT_KNOWN.as_millis() < AGAIN_TIER.seconds() as u128 * 1_000);

/// The session of a worker. Begins with its first renewal; until then no job is fresh.
pub(super) struct Session {
    pub id: Uuid,
    fresh: Mutex<Fresh>,
}

struct Fresh {
    /// Jobs queued up to then are not fresh.
    limit: DateTime<Utc>,
    /// When the last successful reading of the limit began.
    read_at: Option<Instant>,
    /// Up to when requests that began without a claim have one now.
    claimed_upto: DateTime<Utc>,
    /// First attempts that began without a claim and are not recorded yet. As many as requests may be in flight, and
    /// what the recorder holds.
    started: HashMap<DeliveryId, StartedJob>,
}

#[derive(Clone, Copy)]
struct StartedJob {
    queued_at: DateTime<Utc>,
    /// How long a claim for it would last.
    lease: Duration,
}

/// A first attempt that began without a claim; dropped once it is recorded.
pub(super) struct Started {
    session: Arc<Session>,
    delivery: DeliveryId,
}

impl Drop for Started {
    fn drop(&mut self) {
        self.session.fresh().started.remove(&self.delivery);
    }
}

impl Session {
    pub(super) fn new() -> Arc<Self> {
        let epoch = DateTime::UNIX_EPOCH;
        let fresh = Fresh { limit: epoch, read_at: None, claimed_upto: epoch, started: HashMap::new() };
        Arc::new(Self { id: Uuid::new_v4(), fresh: Mutex::new(fresh) })
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a first attempt begin without a claim, unless its job is too old for that by the fresh limit, or the limit
    /// is not known.
    pub(super) fn start(
        self: &Arc<Self>,
        delivery: DeliveryId,
        queued_at: DateTime<Utc>,
        lease: Duration,
        now: Instant,
    ) -> Option<Started> {
        let mut fresh = self.fresh();
        let is_known =
            fresh.read_at.is_some_and(|read_at| now.saturating_duration_since(read_at) <= LIMIT_KNOWN);
        if !is_known || queued_at <= fresh.limit || fresh.started.contains_key(&delivery) {
            return None;
        }
        fresh.started.insert(delivery, StartedJob { queued_at, lease });
        Some(Started { session: Arc::clone(self), delivery })
    }

    /// Whether a first attempt of this delivery began here without a claim and is not recorded yet.
    pub(super) fn has_started(&self, delivery: DeliveryId) -> bool {
        self.fresh().started.contains_key(&delivery)
    }

    /// Takes a limit in that was read from `began` on; returns what must be claimed because of it.
    fn learn(&self, limit: DateTime<Utc>, began: Instant) -> Vec<(DeliveryId, Duration)> {
        let mut fresh = self.fresh();
        fresh.limit = fresh.limit.max(limit);
        fresh.read_at = Some(began);
        let (from, upto) = (fresh.claimed_upto, fresh.limit);
        if from >= upto {
            return Vec::new();
        }
        let doubtful = |job: &StartedJob| job.queued_at > from && job.queued_at <= upto;
        let started = fresh.started.iter().filter(|(_, job)| doubtful(job));
        started.map(|(delivery, job)| (*delivery, job.lease)).collect()
    }

    /// Renews the session and follows the fresh limit for as long as it runs.
    pub(super) async fn keep(self: Arc<Self>, pool: PgPool) {
        let mut ticks = tokio::time::interval(LIMIT_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renewed_at: Option<Instant> = None;
        loop {
            ticks.tick().await;
            let began = Instant::now();
            let renews = renewed_at.is_none_or(|at| began.saturating_duration_since(at) >= SESSION_EVERY);
            let read = if renews {
                sessions::renew(&pool, self.id).await
            } else {
                sessions::fresh_limit(&pool).await
            };
            let limit = match read {
                Ok(limit) => limit,
                Err(error) => {
                    tracing::debug!(%error, "the session was not renewed; no job is fresh until it is");
                    continue;
                }
            };
            if renews {
                renewed_at = Some(began);
            }
            let doubtful = self.learn(limit, began);
            if !doubtful.is_empty()
                && let Err(error) = sessions::claim_started(&pool, self.id, &doubtful).await
            {
                // The limit stays unclaimed, so the next tick tries again.
                tracing::debug!(%error, "requests under way were not claimed yet");
                continue;
            }
            let mut fresh = self.fresh();
            fresh.claimed_upto = fresh.claimed_upto.max(limit);
        }
    }

    /// Ends the session, which holds nothing any more: others need not wait for its lease.
    pub(super) async fn end(&self, pool: &PgPool) {
        if let Err(error) = sessions::end(pool, self.id).await {
            tracing::debug!(%error, "the session was not ended; its lease will run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_fresh_while_the_limit_is_known_and_before_it() {
        let session = Session::new();
        let at = |s: i64| DateTime::from_timestamp(1_700_000_000 + s, 0).expect("a time");
        let delivery = |n: u128| DeliveryId(Uuid::from_u128(n));
        let (lease, now) = (Duration::from_secs(40), Instant::now());
        assert!(session.start(delivery(1), at(5), lease, now).is_none(), "nothing is known yet");
        assert_eq!(session.learn(DateTime::UNIX_EPOCH, now), []);
        let first = session.start(delivery(1), at(5), lease, now).expect("fresh");
        assert!(session.start(delivery(1), at(5), lease, now).is_none(), "it is under way");
        let second = session.start(delivery(2), at(6), lease, now + LIMIT_KNOWN).expect("fresh");
        let late = now + LIMIT_KNOWN + Duration::from_millis(1);
        assert!(session.start(delivery(3), at(7), lease, late).is_none(), "the limit may have moved");

        assert_eq!(session.learn(at(5), late), [(delivery(1), lease)]);
        session.fresh().claimed_upto = at(5);
        assert!(session.start(delivery(4), at(5), lease, late).is_none(), "it is before the limit");
        drop(first);
        assert_eq!(session.learn(at(6), late), [(delivery(2), lease)]);
        assert_eq!(session.learn(at(6), late), [(delivery(2), lease)], "until it is claimed");
        session.fresh().claimed_upto = at(6);
        assert_eq!(session.learn(at(6), late), []);
        drop(second);
        assert!(session.fresh().started.is_empty());
    }
}
