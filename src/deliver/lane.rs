//! Lanes: what may start now, webhook by webhook.
//!
//! A lane lets at most its limit of requests be in flight in this worker; what cannot start waits in its order, and
//! what has waited too long, and would go on waiting at the pace of its lane, is given back to be parked. A lane that
//! is merely busy keeps what its turn will soon come to: parking costs two writes and a job. Free places go round the
//! lanes, so that a webhook with
//! thousands waiting costs another no more than one turn. No IO and no clock: instants come in as arguments.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::model::WebhookId;

/// The lanes of a worker. `T` is what waits.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    by_webhook: HashMap<WebhookId, Lane<T>>,
    /// Lanes with somebody waiting and a place free, each once, in the order of their turns.
    turns: VecDeque<WebhookId>,
    in_flight: usize,
    in_flight_max: usize,
    waiting: usize,
    stopped: bool,
}

#[derive(Debug)]
struct Lane<T> {
    in_flight: usize,
    limit: usize,
    waiting: VecDeque<(Instant, T)>,
    has_turn: bool,
    /// Starts since the last look for what is overdue, and between the two looks before.
    started: usize,
    started_before: usize,
}

impl<T> Lanes<T> {
    /// Lanes that together let `in_flight_max` requests be in flight.
    pub(super) fn new(in_flight_max: usize) -> Self {
        Self {
            by_webhook: HashMap::new(),
            turns: VecDeque::new(),
            in_flight: 0,
            in_flight_max,
            waiting: 0,
            stopped: false,
        }
    }

    /// Puts a task at the end of its lane. `limit` is the lane's present one.
    pub(super) fn offer(&mut self, webhook: WebhookId, limit: usize, now: Instant, task: T) {
        let lane = self.by_webhook.entry(webhook).or_insert_with(|| Lane {
            in_flight: 0,
            limit,
            waiting: VecDeque::new(),
            has_turn: false,
            started: 0,
            started_before: 0,
        });
        lane.limit = limit;
        lane.waiting.push_back((now, task));
        self.waiting += 1;
        self.give_turn(webhook);
    }

    /// The next task that may start, if any. Its place is taken until [`Lanes::ended`].
    pub(super) fn next(&mut self) -> Option<T> {
        if self.stopped || self.in_flight >= self.in_flight_max {
            return None;
        }
        while let Some(webhook) = self.turns.pop_front() {
            let Some(lane) = self.by_webhook.get_mut(&webhook) else { continue };
            lane.has_turn = false;
            if lane.in_flight >= limit_now(lane.limit, self.in_flight, self.in_flight_max) {
                continue;
            }
            let Some((_, task)) = lane.waiting.pop_front() else { continue };
            lane.in_flight += 1;
            lane.started += 1;
            self.in_flight += 1;
            self.waiting -= 1;
            self.give_turn(webhook);
            return Some(task);
        }
        None
    }

    /// Frees the place of a task that was started.
    pub(super) fn ended(&mut self, webhook: WebhookId) {
        let Some(lane) = self.by_webhook.get_mut(&webhook) else { return };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if lane.in_flight == 0 && lane.waiting.is_empty() {
            self.by_webhook.remove(&webhook);
        } else {
            self.give_turn(webhook);
        }
    }

    /// Takes out what has waited since before `since`, but for as many at the front of each lane as it started since
    /// the last look: their turn comes soon. To be called once in the time that something may wait.
    pub(super) fn overdue(&mut self, since: Instant) -> Vec<T> {
        let mut overdue = Vec::new();
        if self.stopped {
            return overdue;
        }
        self.by_webhook.retain(|_, lane| {
            let soon = lane.started.max(lane.started_before).min(lane.waiting.len());
            lane.started_before = std::mem::take(&mut lane.started);
            let late = lane.waiting.iter().skip(soon).take_while(|(at, _)| *at < since).count();
            overdue.extend(lane.waiting.drain(soon..soon + late).map(|(_, task)| task));
            lane.in_flight > 0 || !lane.waiting.is_empty()
        });
        self.waiting -= overdue.len();
        overdue
    }

    /// From now on nothing starts.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Things may start again.
    pub(super) fn go_on(&mut self) {
        self.stopped = false;
    }

    /// Tasks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Tasks started and not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn give_turn(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.by_webhook.get_mut(&webhook)
            && !lane.has_turn
            && !lane.waiting.is_empty()
            && lane.in_flight < limit_now(lane.limit, self.in_flight, self.in_flight_max)
        {
            lane.has_turn = true;
            self.turns.push_back(webhook);
        }
    }
}

/// From half full on, a lane that holds this many gets no more.
const FEW: usize = 4;

/// The limit of a lane as it stands: the last half of the places is for lanes that hold few, or some receivers that
/// do not answer would hold them all. Who is passed over holds some, and gets its turn back when one of them ends.
fn limit_now(limit: usize, in_flight: usize, in_flight_max: usize) -> usize {
    if in_flight * 2 >= in_flight_max { limit.min(FEW) } else { limit }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn webhook(n: u16) -> WebhookId {
        WebhookId(Uuid::from_u128(n.into()))
    }

    #[test]
    fn a_webhook_with_many_waiting_costs_another_one_turn() {
        let (mut lanes, now) = (Lanes::new(100), Instant::now());
        for task in 0..50 {
            lanes.offer(webhook(1), 100, now, (1, task));
        }
        lanes.offer(webhook(2), 100, now, (2, 0));
        let started: Vec<_> = std::iter::from_fn(|| lanes.next()).take(3).collect();
        assert_eq!(started, [(1, 0), (2, 0), (1, 1)]);
    }

    #[test]
    fn a_full_lane_keeps_its_order_and_gives_back_what_waited_too_long() {
        let (mut lanes, now) = (Lanes::new(100), Instant::now());
        let at = |ms| now + Duration::from_millis(ms);
        for task in 0..4_u64 {
            lanes.offer(webhook(1), 1, at(task * 100), task);
        }
        assert_eq!(lanes.next(), Some(0));
        assert_eq!(lanes.next(), None);
        // One was started since the last look, so the next one's turn may come soon.
        assert_eq!(lanes.overdue(at(250)), [2]);
        assert_eq!(lanes.overdue(at(250)), [0_u64; 0]);
        // Nothing was started since the two looks before: nobody's turn comes soon.
        assert_eq!(lanes.overdue(at(250)), [1]);
        lanes.ended(webhook(1));
        assert_eq!(lanes.next(), Some(3));
        lanes.ended(webhook(1));
        assert!(lanes.by_webhook.is_empty(), "an idle lane is forgotten");
    }

    #[test]
    fn a_busy_lane_parks_nothing_that_it_will_soon_start() {
        let (mut lanes, now) = (Lanes::new(100), Instant::now());
        for task in 0..100 {
            lanes.offer(webhook(1), 10, now, task);
        }
        for _ in 0..40 {
            assert!(lanes.next().is_some());
            lanes.ended(webhook(1));
        }
        let overdue = lanes.overdue(now + Duration::from_secs(1));
        assert_eq!(overdue, (80..100).collect::<Vec<_>>(), "40 started, 40 will soon");
        assert_eq!(lanes.waiting(), 40);
    }

    #[test]
    fn receivers_that_do_not_answer_leave_places_for_the_others() {
        let (mut lanes, now) = (Lanes::new(16), Instant::now());
        for task in 0..100 {
            lanes.offer(webhook(1), 100, now, (1, task));
        }
        let hung = std::iter::from_fn(|| lanes.next()).count();
        assert_eq!(hung, 8, "half of the places");
        lanes.offer(webhook(2), 100, now, (2, 0));
        assert_eq!(lanes.next(), Some((2, 0)));
        // One of the first ends: it has more than few, so the place is kept for others.
        lanes.ended(webhook(1));
        assert_eq!(lanes.next(), None);
        lanes.ended(webhook(2));
        lanes.ended(webhook(1));
        assert_eq!(lanes.next(), Some((1, 8)), "less than half is taken");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Offer(u16),
        Start,
        End(usize),
        Overdue(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_u16..4).prop_map(Step::Offer),
            3 => Just(Step::Start),
            2 => (0_usize..64).prop_map(Step::End),
            1 => (0_u8..20).prop_map(Step::Overdue),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_interleaving_exceeds_a_limit_or_loses_a_task(steps in steps(), limit in 1_usize..4, total in 1_usize..6) {
            let (mut lanes, now) = (Lanes::new(total), Instant::now());
            let (mut offered, mut given_back) = (0_u32, 0);
            let mut running: Vec<u16> = Vec::new();
            let (mut ended, mut clock) = (0, 0_u64);
            for step in steps {
                clock += 1;
                match step {
                    Step::Offer(w) => {
                        lanes.offer(webhook(w), limit, now + Duration::from_millis(clock), w);
                        offered += 1;
                    }
                    Step::Start => running.extend(lanes.next()),
                    Step::End(i) if !running.is_empty() => {
                        let w = running.swap_remove(i % running.len());
                        lanes.ended(webhook(w));
                        ended += 1;
                    }
                    Step::End(_) => {}
                    Step::Overdue(age) => {
                        let since = now + Duration::from_millis(clock.saturating_sub(age.into()));
                        given_back += lanes.overdue(since).len();
                    }
                }
                prop_assert!(running.len() <= total);
                for w in 0..4 {
                    prop_assert!(running.iter().filter(|r| **r == w).count() <= limit);
                }
            }
            // Nobody is stuck: with everything ended, all that waits can start.
            let mut rest = 0;
            loop {
                for w in running.drain(..) {
                    lanes.ended(webhook(w));
                    ended += 1;
                }
                let Some(w) = lanes.next() else { break };
                running.push(w);
                rest += 1;
            }
            prop_assert!(lanes.by_webhook.is_empty());
            prop_assert_eq!((lanes.in_flight(), lanes.waiting()), (0, 0));
            prop_assert_eq!(offered as usize, ended + given_back);
            prop_assert!(rest <= offered as usize);
        }
    }
}
