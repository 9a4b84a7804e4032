//! The pace of one lane in one worker: slots reserved from the ledger, and when the next can be requested.
//!
//! A slot is an instant of the database's clock at which one request may start. The ledger gives each slot to one
//! worker, a whole interval before the next. It is used between its instant and [`SLOT_MISSED_AFTER`] later, or not at
//! all; so no pause, crash or late worker can make starts bunch up. No IO and no clock: instants are arguments.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::lane::{SLOT_MISSED_AFTER, SLOTS_AHEAD, slot_interval};

/// How far a worker's estimate of the database's clock may be off. A slot is shortened by this much at both ends, so
/// that the start lies within it all the same.
pub(super) const CLOCK_ERROR_MAX: Duration = Duration::from_millis(10);
/// A task that missed its slot waits for another up to this long; otherwise it is parked.
pub(super) const NEAR: Duration = Duration::from_millis(250);
/// What would get a slot within this time stays in its lane: parking costs two writes and a job.
pub(super) const STAYS: Duration = Duration::from_millis(1_250);
/// The slot of what is parked behind a long backlog is estimated no further ahead, because the pace may change.
pub(super) const RECKONED_AHEAD: Duration = Duration::from_secs(30);
/// A parked delivery is due this long before its slot: schedule needs some time to make a job.
const BACK_BEFORE: Duration = Duration::from_millis(500);

/// Whether the time to use a slot is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Not yet; in this time.
    Early(Duration),
    Now,
    /// It is over: the slot is given up.
    Missed,
}

/// Whether a request whose slot is `slot` may start at `now`.
pub(super) fn when(slot: DateTime<Utc>, now: DateTime<Utc>) -> When {
    let behind = now - slot;
    if behind > delta(SLOT_MISSED_AFTER.saturating_sub(CLOCK_ERROR_MAX)) {
        When::Missed
    } else if behind < delta(CLOCK_ERROR_MAX) {
        When::Early((delta(CLOCK_ERROR_MAX) - behind).to_std().unwrap_or_default())
    } else {
        When::Now
    }
}

/// What a worker holds of a lane's pace.
#[derive(Debug)]
pub(super) struct Pace {
    rate: f64,
    every: Duration,
    /// Slots in hand, in their order; the first `ripe` of them are given to tasks now.
    slots: VecDeque<DateTime<Utc>>,
    ripe: usize,
    /// The first slot that was free when the ledger was last asked.
    next_at: Option<DateTime<Utc>>,
    /// The estimated slot of what was parked last. What is parked next goes behind it; otherwise all of it would come
    /// back together, again and again.
    reckoned_at: DateTime<Utc>,
}

impl Pace {
    /// A pace of so many starts a second, with no slots yet.
    pub(super) fn new(rate: f64) -> Self {
        Self {
            rate,
            every: slot_interval(rate),
            slots: VecDeque::new(),
            ripe: 0,
            next_at: None,
            reckoned_at: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// Takes the present rate. Reserved slots stay; the next is asked for again.
    pub(super) fn set_rate(&mut self, rate: f64) {
        if rate.to_bits() != self.rate.to_bits() {
            let slots = std::mem::take(&mut self.slots);
            *self = Self { slots, ripe: self.ripe, ..Self::new(rate) };
        }
    }

    /// The distance of two slots.
    pub(super) fn every(&self) -> Duration {
        self.every
    }

    /// Slots in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.slots.len()
    }

    /// Whether a task may have a slot now.
    pub(super) fn is_ripe(&self) -> bool {
        self.ripe > 0
    }

    /// When asking for a slot makes sense: at once, or when the next is no further than slots are given ahead.
    pub(super) fn ask_at(&self) -> Option<DateTime<Utc>> {
        self.next_at.map(|next| next - delta(SLOTS_AHEAD))
    }

    /// Records the ledger's answer: these slots, and `next_at`, which is free.
    pub(super) fn granted(&mut self, slots: impl IntoIterator<Item = DateTime<Utc>>, next_at: DateTime<Utc>) {
        self.slots.extend(slots);
        self.next_at = Some(next_at);
    }

    /// Gives up missed slots and makes those up to `until` available; returns how many were given up.
    pub(super) fn ripen(&mut self, now: DateTime<Utc>, until: DateTime<Utc>) -> usize {
        let missed = self.slots.iter().take_while(|slot| when(**slot, now) == When::Missed).count();
        self.slots.drain(..missed);
        self.ripe = self.slots.iter().take_while(|slot| **slot <= until).count();
        missed
    }

    /// The first slot that is not ripe.
    pub(super) fn ripens_next(&self) -> Option<DateTime<Utc>> {
        self.slots.get(self.ripe).copied()
    }

    /// A ripe slot, for a task that starts.
    pub(super) fn take(&mut self) -> Option<DateTime<Utc>> {
        self.ripe = self.ripe.checked_sub(1)?;
        self.slots.pop_front()
    }

    /// The next slot in hand, for a task that missed its own, unless it is far.
    pub(super) fn take_near(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.ripen(now, now);
        let near = self.slots.pop_front_if(|slot| *slot <= now + delta(NEAR))?;
        self.ripe = self.ripe.saturating_sub(1);
        Some(near)
    }

    /// How many of the waiting tasks stay: those with a slot, and those that would soon get one.
    pub(super) fn stay(&self, now: DateTime<Utc>) -> usize {
        let left = match self.next_at {
            Some(next) => (now + delta(STAYS) - next).to_std().ok(),
            None => None,
        };
        // A pace is bounded by the table, so the number is small.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is positive"
        )]
        let soon = left.map_or(0, |left| (left.as_secs_f64() / self.every.as_secs_f64()) as usize + 1);
        self.slots.len() + soon
    }

    /// How long to park the task at `position` among those without a slot, behind what was parked before.
    pub(super) fn park(&mut self, position: usize, now: DateTime<Utc>) -> Duration {
        let Some(next) = self.next_at else { return super::PARKED_FOR };
        let next = next.max(now);
        let behind = delta(self.every.saturating_mul(u32::try_from(position).unwrap_or(u32::MAX)));
        let slot_at = next.checked_add_signed(behind).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let last = next.max(now + delta(RECKONED_AHEAD));
        let slot_at = slot_at.max(self.reckoned_at.min(last) + delta(self.every)).min(last);
        self.reckoned_at = slot_at;
        until(slot_at, now)
    }

    /// How long to park a task that missed its slot: until the next free one.
    pub(super) fn park_missed(&self, now: DateTime<Utc>) -> Duration {
        self.next_at.map_or(super::PARKED_FOR, |next| until(next, now))
    }
}

/// How long a delivery is parked whose slot is then.
fn until(slot_at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (slot_at - now).to_std().unwrap_or_default().saturating_sub(BACK_BEFORE).max(BACK_BEFORE)
}

/// Converts to chrono's type; what is too long for it becomes the maximum.
pub(super) fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).expect("a time")
    }

    #[test]
    fn a_slot_is_used_within_its_time_whatever_the_worker_takes_for_the_time() {
        let check = |ms: i64, expected: When| assert_eq!(when(at(0), at(ms)), expected, "{ms} ms");
        check(-500, When::Early(Duration::from_millis(510)));
        check(0, When::Early(Duration::from_millis(10)));
        check(10, When::Now);
        check(40, When::Now);
        check(41, When::Missed);
    }

    #[test]
    fn slots_are_used_in_their_order_and_given_up_when_they_are_missed() {
        let mut pace = Pace::new(10.5);
        pace.granted([at(0), at(100), at(200), at(900)], at(1_000));
        assert_eq!(pace.take(), None, "nothing is ripe");
        assert_eq!(pace.ripen(at(90), at(110)), 1, "the first is missed");
        assert_eq!((pace.take(), pace.take()), (Some(at(100)), None));
        assert_eq!(pace.ripens_next(), Some(at(200)));
        assert_eq!(pace.take_near(at(150)), Some(at(200)));
        assert_eq!(pace.take_near(at(150)), None, "the last is too far");
        assert_eq!(pace.in_hand(), 1);
    }

    #[test]
    fn what_is_parked_comes_back_when_its_slot_is_near() {
        let mut pace = Pace::new(1.05);
        assert_eq!(pace.park(0, at(0)), super::super::PARKED_FOR, "nobody has asked yet");
        pace.granted([], at(4_000));
        let seconds = Duration::from_secs_f64;
        assert_eq!(pace.park(0, at(0)), seconds(3.5));
        assert_eq!(pace.park(3, at(0)), seconds(6.5));
        assert_eq!(pace.park(0, at(0)), seconds(7.5), "behind what was parked before");
        assert_eq!(pace.park_missed(at(0)), seconds(3.5));
        assert_eq!(pace.park(1_000, at(0)), seconds(29.5));
        assert_eq!(pace.park(0, at(0)), seconds(29.5), "no further");
        pace.granted([], at(100_000));
        assert_eq!(pace.park(7, at(0)), seconds(99.5), "never before the next slot");
        assert_eq!(pace.stay(at(0)), 0);
        assert_eq!(pace.stay(at(99_000)), 1);
    }
}
