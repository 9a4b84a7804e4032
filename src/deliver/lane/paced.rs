//! The lanes that have a pace: the slots they ask for, the slots they have, and which of them are about to start.

use std::ops::Bound;

use chrono::{DateTime, Utc};

use super::{Lanes, Overdue, Want, limit_now};
use crate::{
    deliver::pace::{Pace, delta},
    model::WebhookId,
};

/// What to ask the ledger for.
#[derive(Debug, Default)]
pub(in crate::deliver) struct Wants {
    /// The slots that each lane asks for.
    pub lanes: Vec<Want>,
    /// When to check again even if nothing else happens.
    pub again_at: Option<DateTime<Utc>>,
}

/// What became of reserved slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::deliver) struct Ripened {
    /// How many were given up because nothing could start in their time.
    pub missed: usize,
    /// When the next slot comes up.
    pub next_at: Option<DateTime<Utc>>,
}

impl<T> Lanes<T> {
    /// Which lanes need slots, and how many: one for each waiting task that could start. If the ledger said that the
    /// next slot is far off, it is requested again when that is near.
    ///
    /// All lanes together hold no more slots than tasks may wait for one. If that is too little for all, they take
    /// turns; what gets none is parked when it has waited too long.
    pub(in crate::deliver) fn wants(&mut self, now: DateTime<Utc>) -> Wants {
        let mut wants = Wants::default();
        if self.stopped {
            return wants;
        }
        let mut in_hand = 0;
        let after = (Bound::Excluded(self.requested_last), Bound::Unbounded);
        let round = self.paced.range(after).chain(self.paced.range(..=self.requested_last));
        for (&webhook, lane) in round.filter_map(|id| self.by_webhook.get_key_value(id)) {
            let Some(pace) = &lane.pace else { continue };
            in_hand += pace.in_hand();
            let limit = limit_now(lane.limit, self.in_flight, self.in_flight_max);
            let slots = lane.waiting.len().min(limit.saturating_sub(lane.in_flight));
            let slots = slots.saturating_sub(pace.in_hand());
            if slots == 0 {
                continue;
            }
            match pace.ask_at().filter(|at| *at > now) {
                Some(at) => wants.again_at = Some(wants.again_at.map_or(at, |again| again.min(at))),
                None => wants.lanes.push(Want { webhook, every: pace.every(), slots }),
            }
        }
        let mut left = self.paced_waiting_max.saturating_sub(in_hand);
        let share = (left / wants.lanes.len().max(1)).max(1);
        wants.lanes.truncate(left);
        for want in &mut wants.lanes {
            want.slots = want.slots.min(share).min(left);
            left -= want.slots;
            self.requested_last = want.webhook;
        }
        wants
    }

    /// Records the ledger's answer for a lane: its slots, and the first free one after them. Returns what would wait
    /// too long for one.
    pub(in crate::deliver) fn granted(
        &mut self,
        webhook: WebhookId,
        slots: impl IntoIterator<Item = DateTime<Utc>>,
        next_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Vec<Overdue<T>> {
        let mut beyond = Vec::new();
        // A lane that was forgotten meanwhile, or no longer has a pace, does not need them: they pass unused.
        let Some(lane) = self.by_webhook.get_mut(&webhook) else { return beyond };
        let Some(pace) = &mut lane.pace else { return beyond };
        pace.granted(slots, next_at);
        let stay = pace.stay(now);
        lane.take_out(stay, None, now, &mut beyond);
        if lane.in_flight == 0 && lane.waiting.is_empty() {
            self.by_webhook.remove(&webhook);
            self.paced.remove(&webhook);
        }
        beyond
    }

    /// Gives up missed slots, and lets tasks have those that come up within `lead`.
    pub(in crate::deliver) fn ripen(&mut self, now: DateTime<Utc>, lead: std::time::Duration) -> Ripened {
        let mut ripened = Ripened::default();
        let mut ripe = Vec::new();
        for webhook in &self.paced {
            let Some(pace) = self.by_webhook.get_mut(webhook).and_then(|lane| lane.pace.as_mut()) else {
                continue;
            };
            ripened.missed += pace.ripen(now, now + delta(lead));
            if pace.is_ripe() {
                ripe.push(*webhook);
            }
            if let Some(at) = pace.ripens_next() {
                let at = at - delta(lead);
                ripened.next_at = Some(ripened.next_at.map_or(at, |next| next.min(at)));
            }
        }
        for webhook in ripe {
            self.enqueue(webhook);
        }
        ripened
    }

    /// Another slot of the lane for a task that missed its own, unless the next is far off.
    pub(in crate::deliver) fn another_slot(
        &mut self,
        webhook: WebhookId,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        self.pace(webhook)?.take_near(now)
    }

    /// How long to park a task without a slot, as far as the lane knows.
    pub(in crate::deliver) fn park_missed(
        &mut self,
        webhook: WebhookId,
        now: DateTime<Utc>,
    ) -> Option<std::time::Duration> {
        self.pace(webhook).map(|pace| pace.park_missed(now))
    }

    fn pace(&mut self, webhook: WebhookId) -> Option<&mut Pace> {
        self.by_webhook.get_mut(&webhook)?.pace.as_deref_mut()
    }
}
