//! Up to what time jobs were made for a webhook's backlog, so that it is not scanned again from the start. Pure.
//!
//! Within one webhook schedule takes the oldest first, so nothing waits before what it took last. But the entries of
//! what it took stay in the index until that is vacuumed, and looking for the oldest would scan all of them each time.
//! Sometimes a delivery does end up behind the cursor. Where schedule itself causes that (a job that was not confirmed,
//! a rescue, a release) it forgets the cursor; for slow commits the cursor keeps a distance; and all cursors are
//! forgotten after a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    model::{Trigger, WebhookId},
    store::{due::DueDelivery, waiting::Since},
};

/// The distance of a cursor: longer than a commit of ingest or of the recorder should take.
const BEHIND: TimeDelta = TimeDelta::seconds(10);
/// What ends up behind its cursor is found after this time.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Cursors {
    began: Instant,
    marks: HashMap<WebhookId, DateTime<Utc>>,
}

impl Cursors {
    /// No cursors.
    pub(super) fn none() -> Self {
        Self { began: Instant::now(), marks: HashMap::new() }
    }

    /// Before which time nothing of a webhook's backlog waits.
    pub(super) fn since(&mut self, webhook: WebhookId, now: Instant) -> Since {
        if now.saturating_duration_since(self.began) >= FORGOTTEN_AFTER {
            self.marks.clear();
            self.began = now;
        }
        self.marks.get(&webhook).copied()
    }

    /// Forgets the cursor of a webhook: something may now be behind it.
    pub(super) fn forget(&mut self, webhook: WebhookId) {
        self.marks.remove(&webhook);
    }

    /// Forgets every cursor.
    pub(super) fn forget_all(&mut self) {
        self.marks.clear();
    }

    /// Records the jobs that were made; they were of the oldest deliveries of each webhook.
    pub(super) fn advance(&mut self, taken: &[DueDelivery]) {
        // What replays made comes last, whatever its time, and says nothing about the backlog.
        for due in taken.iter().filter(|due| !matches!(due.trigger, Trigger::Replay | Trigger::Recovery)) {
            let mark = due.due_at - BEHIND;
            let known = self.marks.entry(due.webhook).or_insert(mark);
            *known = mark.max(*known);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{CompanyId, DeliveryId, EventId};

    #[test]
    fn a_mark_follows_what_was_taken_at_a_distance_and_is_forgotten() {
        let at = |s: i64| DateTime::from_timestamp(1_700_000_000 + s, 0).expect("a time");
        let webhook = WebhookId(Uuid::from_u128(1));
        let due = |s: i64, trigger| DueDelivery {
            delivery: DeliveryId(Uuid::nil()),
            company: CompanyId(Uuid::nil()),
            webhook,
            event: EventId(Uuid::nil()),
            event_type: "a.b".parse().expect("a type"),
            attempt: 1,
            trigger,
            queued_at: at(100),
            due_at: at(s),
            deaths: 0,
        };
        let (mut cursors, now) = (Cursors::none(), Instant::now());
        assert_eq!(cursors.since(webhook, now), None);
        cursors.advance(&[due(20, Trigger::Event), due(21, Trigger::Event), due(90, Trigger::Replay)]);
        assert_eq!(cursors.since(webhook, now), Some(at(11)));
        let mut released = Cursors { began: now, marks: cursors.marks.clone() };
        released.forget(webhook);
        assert_eq!(released.since(webhook, now), None);
        cursors.advance(&[due(15, Trigger::Event)]);
        assert_eq!(cursors.since(webhook, now), Some(at(11)), "it never goes back");
        assert_eq!(cursors.since(WebhookId(Uuid::from_u128(2)), now), None);
        assert_eq!(cursors.since(webhook, now + FORGOTTEN_AFTER), None);
    }
}
