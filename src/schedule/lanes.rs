//! How many jobs the lane of a webhook can take now. Pure; instants are arguments.
//!
//! A job that cannot start is parked, and costs two passes through the broker for nothing. So schedule offers a lane no
//! more than it will start: less and less to a lane whose workers have no room, until they have; nothing while it is
//! rate-limited; one delivery for each due probe of an open breaker; for a paced lane what starts within the next
//! second. The workers decide. What is kept here only prevents offering the same slot or probe again and again; losing
//! it costs a parked job or two.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::paces::{LanePaces, Paces};
use crate::{
    model::{
        WebhookId,
        lane::{May, SLOTS_AHEAD, slot_interval},
    },
    store::waiting::LaneSnapshot,
};

/// A paced lane starts with what can start within this time: enough to bridge two rounds of schedule.
pub const PACED_BEGINS_WITH: Duration = Duration::from_millis(250);
/// A probe or a slot for which a job was made is offered again after this time, if no worker has taken it.
pub const OFFERED_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A paced lane for which nothing waited this long starts from the beginning.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// How many jobs a second are made for a lane once it has had no room: this many, half with each further report of no
/// room, and twice as many with each second without one.
pub const FULL_BEGINS_PER_SECOND: f64 = 256.0;
/// The least that is made a second for a lane without room, to find out whether it has some again.
pub const FULL_LEAST_PER_SECOND: f64 = 1.0;
/// How often more is tried.
const WIDENED_EVERY: Duration = Duration::from_secs(1);
/// An older report says nothing about the present.
const FULL_LASTS: TimeDelta = TimeDelta::seconds(2);

/// What is kept about lanes that limit how many jobs are made.
#[derive(Default)]
pub(super) struct Lanes {
    paces: Paces,
    offered: HashMap<WebhookId, Offered>,
    narrowed: HashMap<WebhookId, Narrowed>,
}

/// A lane whose workers had no room.
struct Narrowed {
    per_second: f64,
    full_at: DateTime<Utc>,
    changed: Instant,
}

/// The probe or the slot for which the last job was made.
struct Offered {
    of: Option<DateTime<Utc>>,
    at: Instant,
}

/// How a lane limits how many jobs are made.
enum Limit {
    /// No jobs may be made.
    Closed,
    /// By its share of the window alone.
    Free,
    /// One for this probe or slot.
    One(Option<DateTime<Utc>>),
    /// By its pace, and by how many slots are left within the next second.
    Paced { interval: Duration, slots: i64 },
}

fn limit(lane: &LaneSnapshot) -> Limit {
    match (lane.standing.may(lane.now), lane.rate_limit) {
        (May::Wait(_), _) => Limit::Closed,
        (May::Probe, _) if lane.probe_leased_until.is_some_and(|until| until > lane.now) => Limit::Closed,
        (May::Probe, _) => Limit::One(lane.standing.open.map(|open| open.next_probe_at)),
        (May::Start, None) => Limit::Free,
        (May::Start, Some(rate)) => {
            let interval = slot_interval(rate);
            let lead = lane.next_slot_at.map_or(TimeDelta::zero(), |next| next - lane.now);
            let lead = lead.to_std().unwrap_or_default();
            match SLOTS_AHEAD.checked_sub(lead) {
                // The present pace cannot have caused that. The next reservation brings it closer.
                None if lead > SLOTS_AHEAD + interval => Limit::One(lane.next_slot_at),
                None => Limit::Closed,
                // Slots this far apart get one job each; the slot has moved on once a worker has reserved it.
                Some(_) if interval >= PACED_BEGINS_WITH => Limit::One(lane.next_slot_at),
                Some(left) => {
                    let slots = left.as_nanos() / interval.as_nanos().max(1);
                    Limit::Paced { interval, slots: i64::try_from(slots).unwrap_or(i64::MAX) }
                }
            }
        }
    }
}

/// Whether the lane itself lets nothing start now, whatever its pace.
pub(super) fn is_shut(lane: &LaneSnapshot) -> bool {
    lane.standing.may(lane.now) != May::Start
}

/// Whether jobs are made for a lane at its pace, so that it has room again in the next round.
pub(super) fn is_paced(lane: &LaneSnapshot) -> bool {
    matches!(limit(lane), Limit::Paced { .. })
}

impl Lanes {
    /// How many jobs may be made for a webhook now.
    pub(super) fn room(&mut self, webhook: WebhookId, lane: &LaneSnapshot, now: Instant) -> i64 {
        match limit(lane) {
            Limit::Closed => 0,
            Limit::Free => match self.narrowed(webhook, lane, now) {
                None => i64::MAX,
                Some(per_second) => {
                    let pacing = LanePaces { per_second, begins_with: Duration::ZERO, most: SLOTS_AHEAD };
                    self.paces.allowed(webhook.0, pacing, now).max(0)
                }
            },
            Limit::One(of) => {
                let again = |offered: &Offered| {
                    offered.of == of && now.saturating_duration_since(offered.at) < OFFERED_AGAIN_AFTER
                };
                i64::from(!self.offered.get(&webhook).is_some_and(again))
            }
            Limit::Paced { interval, slots } => {
                let per_second = interval.as_secs_f64().recip();
                let pacing = LanePaces { per_second, begins_with: PACED_BEGINS_WITH, most: SLOTS_AHEAD };
                self.paces.allowed(webhook.0, pacing, now).min(slots)
            }
        }
    }

    /// Records the jobs that were made.
    pub(super) fn jobs_made(&mut self, webhook: WebhookId, lane: &LaneSnapshot, count: i64, now: Instant) {
        match limit(lane) {
            Limit::One(of) if count > 0 => {
                self.offered.insert(webhook, Offered { of, at: now });
            }
            Limit::Paced { .. } => self.paces.took(webhook.0, count),
            Limit::Free if self.narrowed.contains_key(&webhook) => self.paces.took(webhook.0, count),
            Limit::Closed | Limit::Free | Limit::One(_) => {}
        }
    }

    /// How many jobs a second a lane may have because it had no room lately.
    fn narrowed(&mut self, webhook: WebhookId, lane: &LaneSnapshot, now: Instant) -> Option<f64> {
        let full_at = lane.full_at.filter(|at| lane.now - *at < FULL_LASTS);
        let Some(known) = self.narrowed.get_mut(&webhook) else {
            let full_at = full_at?;
            let narrowed = Narrowed { per_second: FULL_BEGINS_PER_SECOND, full_at, changed: now };
            self.narrowed.insert(webhook, narrowed);
            return Some(FULL_BEGINS_PER_SECOND);
        };
        if let Some(full_at) = full_at.filter(|at| *at > known.full_at) {
            known.per_second = (known.per_second / 2.0).max(FULL_LEAST_PER_SECOND);
            (known.full_at, known.changed) = (full_at, now);
        } else if now.saturating_duration_since(known.changed) >= WIDENED_EVERY {
            (known.per_second, known.changed) = (known.per_second * 2.0, now);
            if known.per_second > FULL_BEGINS_PER_SECOND * 2.0 {
                self.narrowed.remove(&webhook);
                self.paces.forget_one(webhook.0);
                return None;
            }
        }
        Some(known.per_second)
    }

    /// Forgets lanes for which nothing has waited for a while.
    pub(super) fn forget(&mut self, now: Instant) {
        self.paces.forget(now, IDLE_AFTER);
        self.narrowed.retain(|_, narrowed| now.saturating_duration_since(narrowed.changed) <= IDLE_AFTER);
        self.offered.retain(|_, offered| now.saturating_duration_since(offered.at) < OFFERED_AGAIN_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lane::{OpenBreaker, Standing};

    const WEBHOOK: WebhookId = WebhookId(uuid::Uuid::from_u128(1));

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + ms).expect("a time")
    }

    fn lane() -> LaneSnapshot {
        LaneSnapshot {
            now: at(0),
            standing: Standing::default(),
            probe_leased_until: None,
            rate_limit: None,
            next_slot_at: None,
            full_at: None,
        }
    }

    fn open(next_probe_at: i64) -> Standing {
        Standing {
            open: Some(OpenBreaker { since: at(-60_000), next_probe_at: at(next_probe_at) }),
            rate_limited_until: None,
        }
    }

    #[test]
    fn a_lane_limits_how_many_jobs_are_made() {
        let check = |lane: LaneSnapshot, expected: i64| {
            assert_eq!(Lanes::default().room(WEBHOOK, &lane, Instant::now()), expected, "{lane:?}");
        };
        check(lane(), i64::MAX);
        let rate_limited = |ms| Standing { rate_limited_until: Some(at(ms)), ..Standing::default() };
        check(LaneSnapshot { standing: rate_limited(1), ..lane() }, 0);
        check(LaneSnapshot { standing: rate_limited(0), ..lane() }, i64::MAX);
        check(LaneSnapshot { standing: open(1), ..lane() }, 0);
        check(LaneSnapshot { standing: open(0), ..lane() }, 1);
        check(LaneSnapshot { standing: open(0), probe_leased_until: Some(at(1)), ..lane() }, 0);
        check(LaneSnapshot { standing: open(0), probe_leased_until: Some(at(0)), ..lane() }, 1);
        let paced =
            |rate, next_slot| LaneSnapshot { rate_limit: Some(rate), next_slot_at: next_slot, ..lane() };
        // A quarter of a second's worth of 50/s less the twentieth by which slots are wider apart.
        check(paced(50.0, None), 11);
        check(paced(50.0, Some(at(-9_000))), 11);
        // Workers have reserved nearly a whole second, or more.
        check(paced(50.0, Some(at(900))), 4);
        check(paced(50.0, Some(at(1_000))), 0);
        check(paced(50.0, Some(at(1_020))), 0);
        // From a slower pace: a worker is to draw it near.
        check(paced(50.0, Some(at(1_500))), 1);
        check(paced(0.01, Some(at(1_000))), 1);
        check(paced(0.01, Some(at(1_001))), 0);
        check(paced(0.01, Some(at(3_600_000))), 1);
        check(paced(0.01, None), 1);
        check(LaneSnapshot { standing: open(0), ..paced(0.01, Some(at(60_000))) }, 1);
    }

    #[test]
    fn a_lane_without_room_gets_fewer_and_fewer_jobs_and_more_once_it_has_some() {
        let (mut lanes, start) = (Lanes::default(), Instant::now());
        // The jobs of each second, by rounds of 50 ms; a worker reports every 250 ms while the lane is full.
        let mut second = |n: i64, full: bool| {
            let mut jobs = 0;
            for ms in (n * 1_000..(n + 1) * 1_000).step_by(50) {
                let full_at = full.then(|| at(ms - ms % 250));
                let lane = LaneSnapshot { now: at(ms), full_at, ..lane() };
                let now = start + Duration::from_millis(u64::try_from(ms).expect("positive"));
                let room = lanes.room(WEBHOOK, &lane, now).min(32);
                lanes.jobs_made(WEBHOOK, &lane, room, now);
                lanes.forget(now);
                jobs += room;
            }
            jobs
        };
        assert_eq!(second(0, false), 640);
        let full: Vec<i64> = (1..6).map(|n| second(n, true)).collect();
        assert!(full[0] < 160 && full[1] < 20, "{full:?}");
        assert!(full[3..].iter().all(|jobs| *jobs <= 2), "{full:?}");
        let free: Vec<i64> = (6..20).map(|n| second(n, false)).collect();
        assert!(free[0] <= 4 && free.is_sorted(), "{free:?}");
        assert_eq!(free.last(), Some(&640), "{free:?}");
    }

    #[test]
    fn a_probe_is_offered_once_until_it_moves_or_nobody_takes_it() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let due = LaneSnapshot { standing: open(0), ..lane() };
        assert_eq!(lanes.room(WEBHOOK, &due, now), 1);
        // No job was made: it is still on offer.
        lanes.jobs_made(WEBHOOK, &due, 0, now);
        assert_eq!(lanes.room(WEBHOOK, &due, now), 1);
        lanes.jobs_made(WEBHOOK, &due, 1, now);
        assert_eq!(lanes.room(WEBHOOK, &due, now), 0);
        let next = LaneSnapshot { standing: open(-1), ..lane() };
        assert_eq!(lanes.room(WEBHOOK, &next, now), 1);
        let later = now + OFFERED_AGAIN_AFTER;
        assert_eq!(lanes.room(WEBHOOK, &due, later), 1);
        lanes.forget(later);
        assert!(lanes.offered.is_empty());
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a minute's worth of small numbers")]
    fn a_paced_lane_never_gets_jobs_more_than_a_second_ahead() {
        // As many jobs as it may have, in rounds of any length.
        for (rate, round_ms) in [(50.0, 50_u64), (50.0, 333), (1_000.0, 50), (10.0, 1_700), (7.0, 90)] {
            let (mut lanes, start, lane) =
                (Lanes::default(), Instant::now(), LaneSnapshot { rate_limit: Some(rate), ..lane() });
            let (mut jobs, mut ms) = (0, 0);
            while ms < 60_000 {
                let now = start + Duration::from_millis(ms);
                let room = lanes.room(WEBHOOK, &lane, now);
                lanes.jobs_made(WEBHOOK, &lane, room, now);
                lanes.forget(now);
                jobs += room;
                let startable = ms as f64 / 1_000.0 / slot_interval(rate).as_secs_f64();
                assert!(
                    jobs as f64 <= startable + rate + 1.0,
                    "{rate}/s by {round_ms} ms: {jobs} after {ms} ms"
                );
                ms += round_ms;
            }
            let startable = 60.0 / slot_interval(rate).as_secs_f64();
            if round_ms <= 1_000 {
                assert!(jobs as f64 >= startable * 0.98, "{rate}/s by {round_ms} ms: {jobs} of {startable}");
            }
        }
    }

    #[test]
    fn a_slow_lane_gets_one_job_for_each_slot() {
        let (mut lanes, start) = (Lanes::default(), Instant::now());
        let interval = slot_interval(2.0);
        let interval_ms = i64::try_from(interval.as_millis()).expect("small");
        // A worker that reserves each slot as soon as its delivery arrives, a round later.
        let (mut next_slot, mut jobs, mut arrived) = (0_i64, 0, 0);
        for round in 0..1_200 {
            let ms = round * 50;
            for _ in 0..arrived {
                next_slot = next_slot.max(ms) + interval_ms;
            }
            let lane = LaneSnapshot {
                now: at(ms),
                rate_limit: Some(2.0),
                next_slot_at: Some(at(next_slot)),
                ..lane()
            };
            let now = start + Duration::from_millis(u64::try_from(ms).expect("positive"));
            let room = lanes.room(WEBHOOK, &lane, now);
            lanes.jobs_made(WEBHOOK, &lane, room, now);
            arrived = room;
            jobs += room;
            assert!(next_slot - ms <= 1_000 + interval_ms, "more than a second ahead");
        }
        let startable = 60_000 / interval_ms;
        assert!((startable..=startable + 3).contains(&jobs), "{jobs} of {startable}");
    }
}
