//! Keeps the pace of lanes that have one: reserves slots from the ledger, starts tasks as their slots come up, and
//! lets each request begin within its slot.
//!
//! ```text
//! task waits ─▶ slot reserved ─▶ up to LEAD before it: permit taken, claimed ─▶ at the slot: request
//!     └─▶ parked: next slot far       missed: the lane's next, if near ◀───────────┘  else parked, claim cleared
//! ```
//!
//! Two tasks of a worker do this, because a slow ledger must not delay slots that are already reserved. Lanes without a
//! pace never come here. Begin with `pace.rs`, which decides.

use std::{
    collections::HashSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Notify;

use super::{
    DeliverWorker, PARK_AFTER,
    lane::Want,
    pace::{When, delta, when},
    task::Task,
};
use crate::{
    model::WebhookId,
    store::{
        dispose::Disposition,
        lanes::{self, Reserved, SlotRequest},
    },
    telemetry::labels::{JobResult, ParkedFor, SlotFate},
};

/// Lanes in one reservation.
pub const RESERVE_BATCH_MAX: usize = 200;
/// The least and the most time before its slot at which a task starts: most tasks must claim first.
const LEAD_MIN: Duration = Duration::from_millis(10);
const LEAD_MAX: Duration = Duration::from_millis(150);

/// How the parts of a worker notify the tasks that keep the pace.
#[derive(Debug, Default)]
pub(super) struct SlotKeeper {
    /// A lane may need slots.
    wanting: Notify,
    /// Slots have come.
    granted: Notify,
    /// How long claims take at present, in microseconds: a slow one counts at once and is slowly forgotten.
    claim_us: AtomicU64,
}

impl SlotKeeper {
    /// A lane with a pace has changed.
    pub(super) fn look(&self) {
        self.wanting.notify_one();
    }

    /// Records how long a claim took.
    pub(super) fn claimed_within(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Claims are made one after another, so there is no other writer.
        let before = self.claim_us.load(Ordering::Relaxed);
        self.claim_us.store(took.max(before - before / 8), Ordering::Relaxed);
    }

    /// How long before its slot a task is started.
    fn lead(&self) -> Duration {
        Duration::from_micros(self.claim_us.load(Ordering::Relaxed))
            .saturating_mul(2)
            .clamp(LEAD_MIN, LEAD_MAX)
    }
}

/// Reserves slots whenever a lane needs some, in batches of whatever has arrived.
pub(super) async fn reserve(worker: Weak<DeliverWorker>) {
    loop {
        let Some(worker) = worker.upgrade() else { return };
        let looked = worker.pacing.wanting.notified();
        let now = worker.clock.now();
        let wants = worker.lanes(|lanes| lanes.wants(now));
        if wants.lanes.is_empty() {
            let again = wants.again_at.map_or(Duration::MAX, |at| (at - now).to_std().unwrap_or_default());
            tokio::select! {
                () = looked => {}
                () = tokio::time::sleep(again.min(PARK_AFTER)) => {}
            }
            continue;
        }
        for part in wants.lanes.chunks(RESERVE_BATCH_MAX) {
            worker.reserve(part).await;
        }
        worker.pacing.granted.notify_one();
    }
}

/// Starts tasks as their slots come up.
pub(super) async fn ripen(worker: Weak<DeliverWorker>) {
    loop {
        let Some(worker) = worker.upgrade() else { return };
        let granted = worker.pacing.granted.notified();
        let (now, lead) = (worker.clock.now(), worker.pacing.lead());
        let ripened = worker.lanes(|lanes| lanes.ripen(now, lead));
        worker.start_what_may();
        if ripened.missed > 0 {
            worker.metrics.deliver_slots.add(SlotFate::Missed, ripened.missed);
            worker.pacing.look();
        }
        let next = ripened.next_at.map_or(PARK_AFTER, |at| (at - now).to_std().unwrap_or_default());
        tokio::select! {
            () = granted => {}
            () = tokio::time::sleep(next.min(PARK_AFTER)) => {}
        }
    }
}

impl DeliverWorker {
    async fn reserve(&self, wants: &[Want]) {
        let requests: Vec<SlotRequest> = wants
            .iter()
            .map(|want| SlotRequest { webhook: want.webhook, every: want.every, slots: want.slots })
            .collect();
        let (requests, lead) = (&requests, self.pacing.lead());
        let reserved = self
            .ledger
            .persist("reserve slots", |pool| async move { lanes::reserve_slots(&pool, requests, lead).await })
            .await;
        match reserved {
            Ok(reserved) => {
                let answered: HashSet<WebhookId> = reserved.iter().map(|answer| answer.webhook).collect();
                let missing =
                    wants.iter().map(|want| want.webhook).filter(|id| !answered.contains(id)).collect();
                self.reserved(wants, reserved);
                self.make_lanes(missing).await;
            }
            // Nothing here comes from outside; if it is rejected all the same, what waits is parked.
            Err(bad) => tracing::error!(%bad, "cannot reserve slots"),
        }
    }

    /// Creates the rows of lanes that got no answer, because without a row nothing of theirs would ever start.
    async fn make_lanes(&self, missing: Vec<WebhookId>) {
        if missing.is_empty() {
            return;
        }
        tracing::warn!(?missing, "webhooks have no row in `lanes`; creating it");
        let missing = &missing;
        let made = self
            .ledger
            .persist("create lanes", |pool| async move { lanes::make(&pool, missing).await })
            .await;
        if let Err(bad) = made {
            tracing::error!(%bad, "cannot create a lane");
        }
        // If the webhook itself is gone, its lane is asked for again until its deliveries are cancelled.
        tokio::time::sleep(PARK_AFTER).await;
    }

    fn reserved(&self, wants: &[Want], reserved: Vec<Reserved>) {
        let now = self.clock.now();
        for answer in reserved {
            let Some(want) = wants.iter().find(|want| want.webhook == answer.webhook) else { continue };
            let slots = (0..answer.slots).map(|n| answer.first + delta(want.every.saturating_mul(n)));
            let beyond = self.lanes(|lanes| lanes.granted(answer.webhook, slots, answer.next_at, now));
            self.metrics.deliver_slots.add(SlotFate::Reserved, answer.slots as usize);
            for overdue in beyond {
                self.park(&overdue.task, overdue.for_pace.unwrap_or_default(), ParkedFor::Pace, false);
            }
        }
    }

    /// Waits for the task's slot, or for another if it is too late for its own. Returns when the request starts; `None`
    /// if it cannot start soon.
    pub(super) async fn at_slot(&self, task: &Task, slot: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut slot = slot;
        loop {
            let now = self.clock.now();
            match when(slot, now) {
                When::Early(wait) => tokio::time::sleep(wait).await,
                When::Now => return Some(now),
                When::Missed => {
                    self.metrics.deliver_slots.inc(SlotFate::Missed);
                    slot = self.lanes(|lanes| lanes.another_slot(task.known.webhook.id, now))?;
                    self.pacing.look();
                }
            }
        }
    }

    /// Parks a delivery in the ledger for at least this long.
    pub(super) fn park(&self, task: &Task, wait: Duration, why: ParkedFor, holds_claim: bool) {
        self.metrics.deliver_jobs.inc(JobResult::Parked);
        self.metrics.deliver_parked.inc(why);
        self.dispositions.send(&task.handle, task.delivery, Disposition::Parked(wait), holds_claim);
    }

    /// Parks until an instant or a little later, so that what is parked together does not come back together.
    pub(super) fn park_until(&self, task: &Task, until: DateTime<Utc>, why: ParkedFor) {
        let wait = (until - self.clock.now()).max(TimeDelta::zero()).to_std().unwrap_or_default();
        let wait = wait.saturating_add(super::PARKED_FOR.mul_f64(fastrand::f64()));
        self.park(task, wait, why, false);
    }

    /// How long a task that missed its slot is to be parked.
    pub(super) fn until_next_slot(&self, task: &Task) -> Duration {
        let now = self.clock.now();
        let wait = self.lanes(|lanes| lanes.park_missed(task.known.webhook.id, now));
        wait.unwrap_or(super::PARKED_FOR)
    }
}

/// The tasks that keep the pace, until they are dropped.
pub(super) struct Keepers([tokio::task::AbortHandle; 2]);

impl Keepers {
    pub(super) fn start(worker: &Arc<DeliverWorker>) -> Self {
        let weak = || Arc::downgrade(worker);
        Self([tokio::spawn(reserve(weak())).abort_handle(), tokio::spawn(ripen(weak())).abort_handle()])
    }
}

impl Drop for Keepers {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}
