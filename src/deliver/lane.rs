//! Lanes: what may start now, webhook by webhook.
//!
//! A lane allows a limited number of requests in flight in this worker, and if it has a pace, each start takes a slot
//! (`pace.rs`). What may take long is bounded over all lanes (`slow.rs`). What cannot start waits in order; what has
//! waited too long, and would keep waiting at the pace of its lane, is parked. A lane that is merely busy keeps what it
//! will start soon, because parking costs two writes and a job. Free permits go round the lanes, so a webhook with
//! thousands of waiting deliveries delays another by at most one start.
//!
//! An idle lane is forgotten; a lane without a pace pays nothing for those that have one. No IO and no clock:
//! instants are arguments. `pacing.rs` provides the slots.

mod paced;
mod run_queue;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use self::run_queue::RunQueue;
use super::{
    pace::Pace,
    slow::{JobNumber, Slow},
};
use crate::model::{CompanyId, WebhookId};

/// The check for slow requests runs four times a second. A request in flight at this many checks has been so for a
/// second, or will have been before the next one.
const SLOW_AFTER_CHECKS: u32 = 4;

/// A request that was in flight at this many checks took a quarter of a second at least: its receiver takes long.
const LONG_AFTER_CHECKS: u32 = 2;
/// For how many checks that is remembered, also of a lane that is idle meanwhile: a minute.
const LONG_FOR_CHECKS: u32 = 240;

/// The lanes of a worker. `T` is what waits.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    by_webhook: HashMap<WebhookId, Lane<T>>,
    /// Lanes with a waiting task and a free permit, each once, in the order in which they start; and those of them whose
    /// receivers take long.
    run_queue: RunQueue,
    long_queue: RunQueue,
    /// Whether the next turn is that of a lane that takes long.
    long_is_next: bool,
    /// The lanes whose receivers were seen to take long, and the last check at which one did.
    long: HashMap<WebhookId, u32>,
    /// Lanes that came first in the run queue, but may start nothing until fewer jobs are slow: those with nothing in
    /// flight, and the others.
    blocked_first: VecDeque<WebhookId>,
    blocked: VecDeque<WebhookId>,
    /// Lanes with a pace.
    paced: BTreeSet<WebhookId>,
    /// What is in flight, by the key of its permit; and the free keys.
    started: Vec<Option<Started>>,
    free: Vec<usize>,
    slow: Slow,
    in_flight: usize,
    in_flight_max: usize,
    /// Tasks that may wait for slots, in all lanes together.
    paced_waiting_max: usize,
    /// The lane that was the last to ask for slots.
    requested_last: WebhookId,
    /// The number of checks for overdue tasks so far.
    checks: u32,
    stopped: bool,
}

#[derive(Debug)]
struct Lane<T> {
    company: CompanyId,
    in_flight: usize,
    limit: usize,
    waiting: VecDeque<QueuedTask<T>>,
    queue_state: QueueState,
    /// Starts since the last check for overdue tasks, and between the two checks before.
    begun: usize,
    begun_before: usize,
    /// Whether the last request to end took less than a second, and none is in flight for longer.
    answers_in_time: bool,
    /// Requests in flight for a second.
    slow: usize,
    /// Boxed, because most lanes have none.
    pace: Option<Box<Pace>>,
}

#[derive(Debug)]
struct QueuedTask<T> {
    since: Instant,
    job: JobNumber,
    task: T,
}

/// The queue that a lane is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueState {
    None,
    Queued,
    Blocked,
}

/// Something in flight.
#[derive(Debug)]
struct Started {
    webhook: WebhookId,
    job: JobNumber,
    /// The check before its start.
    check: u32,
    /// Whether it has been in flight for a second.
    slow: bool,
    /// Whether it makes its job count.
    counts: bool,
}

/// How a task is offered: the present limits of its lane, and its job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub company: CompanyId,
    pub webhook: WebhookId,
    pub job: JobNumber,
    /// The most requests in flight.
    pub limit: usize,
    /// Starts a second over all workers, if limited.
    pub rate: Option<f64>,
}

/// A task that starts.
#[derive(Debug)]
pub(super) struct Start<T> {
    pub task: T,
    /// Its permit, freed by [`Lanes::ended`].
    pub permit: usize,
    /// Its slot, if the lane has a pace.
    pub slot: Option<DateTime<Utc>>,
}

/// A task that has waited too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overdue<T> {
    pub task: T,
    /// How long to park it at least, if its pace says so.
    pub for_pace: Option<Duration>,
    /// Whether its own lane has used its permits; otherwise other lanes hold them.
    pub is_full: bool,
}

/// What a lane asks the ledger for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Want {
    pub webhook: WebhookId,
    /// The distance of two slots.
    pub every: Duration,
    /// How many slots.
    pub slots: usize,
}

impl<T> Lanes<T> {
    /// Lanes that together allow `in_flight_max` requests in flight, for a worker that holds `prefetch` jobs of a
    /// queue.
    pub(super) fn new(in_flight_max: usize, prefetch: usize) -> Self {
        Self {
            by_webhook: HashMap::new(),
            run_queue: RunQueue::default(),
            long_queue: RunQueue::default(),
            long_is_next: false,
            long: HashMap::new(),
            blocked_first: VecDeque::new(),
            blocked: VecDeque::new(),
            paced: BTreeSet::new(),
            started: Vec::new(),
            free: Vec::new(),
            slow: Slow::new(prefetch),
            in_flight: 0,
            in_flight_max,
            // A quarter of what the worker holds may wait for slots; otherwise fast lanes with a pace would fill it.
            paced_waiting_max: (prefetch / 4).max(1),
            requested_last: WebhookId(uuid::Uuid::nil()),
            checks: 0,
            stopped: false,
        }
    }

    /// Puts a task at the end of its lane.
    pub(super) fn offer(&mut self, offer: Offer, now: Instant, task: T) {
        let webhook = offer.webhook;
        let lane = self.by_webhook.entry(webhook).or_insert_with(|| Lane::new(offer.company, offer.limit));
        lane.limit = offer.limit;
        match (offer.rate, &mut lane.pace) {
            (None, None) => {}
            (Some(rate), Some(pace)) => pace.set_rate(rate),
            (Some(rate), none) => {
                *none = Some(Box::new(Pace::new(rate)));
                self.paced.insert(webhook);
            }
            (None, some) => {
                *some = None;
                self.paced.remove(&webhook);
            }
        }
        lane.waiting.push_back(QueuedTask { since: now, job: offer.job, task });
        self.enqueue(webhook);
    }

    /// The next task that may start, if any. Its permit is taken until [`Lanes::ended`].
    pub(super) fn next(&mut self) -> Option<Start<T>> {
        if self.stopped || self.in_flight >= self.in_flight_max {
            return None;
        }
        let long_has_room = self.long_has_room();
        while let Some(webhook) = self.dequeue() {
            let Some(lane) = self.by_webhook.get_mut(&webhook) else { continue };
            if !long_has_room && self.long.contains_key(&webhook) {
                // It was queued before it was seen to take long.
                lane.queue_state = QueueState::Queued;
                self.long_queue.push(lane.company, webhook);
                continue;
            }
            lane.queue_state = QueueState::None;
            if !lane.may_start(limit_now(lane.limit, self.in_flight, self.in_flight_max)) {
                continue;
            }
            let counts = !lane.answers_in_time;
            let first = lane.in_flight == 0;
            let job = lane.waiting.front().map(|task| task.job);
            if counts && job.is_some_and(|job| !self.slow.has_room_for(job, first)) {
                lane.queue_state = QueueState::Blocked;
                if first { &mut self.blocked_first } else { &mut self.blocked }.push_back(webhook);
                continue;
            }
            let slot = lane.pace.as_mut().and_then(|pace| pace.take());
            let Some(QueuedTask { job, task, .. }) = lane.waiting.pop_front() else { continue };
            lane.in_flight += 1;
            lane.begun += 1;
            self.in_flight += 1;
            if counts {
                self.slow.add(job);
            }
            let permit = self.permit(Started { webhook, job, check: self.checks, slow: false, counts });
            self.enqueue(webhook);
            return Some(Start { task, permit, slot });
        }
        None
    }

    /// The next lane of the run queue: one that was blocked and no longer is, else the first in line.
    fn dequeue(&mut self) -> Option<WebhookId> {
        for (row, first) in [(&mut self.blocked_first, true), (&mut self.blocked, false)] {
            while self.slow.has_room(first)
                && let Some(webhook) = row.pop_front()
            {
                if self.by_webhook.get(&webhook).is_some_and(|lane| lane.queue_state == QueueState::Blocked) {
                    return Some(webhook);
                }
            }
        }
        self.long_is_next = !self.long_is_next && self.long_has_room();
        if self.long_has_room() && (self.long_is_next || self.run_queue.is_empty()) {
            self.long_queue.pop().or_else(|| self.run_queue.pop())
        } else {
            self.run_queue.pop()
        }
    }

    /// Whether a lane that takes long may have another permit.
    fn long_has_room(&self) -> bool {
        self.in_flight * 4 < self.in_flight_max * 3
    }

    fn permit(&mut self, started: Started) -> usize {
        if let Some(key) = self.free.pop() {
            self.started[key] = Some(started);
            return key;
        }
        self.started.push(Some(started));
        self.started.len() - 1
    }

    /// Frees the permit of a task that was started.
    pub(super) fn ended(&mut self, permit: usize) {
        let Some(started) = self.started.get_mut(permit).and_then(Option::take) else { return };
        self.free.push(permit);
        self.in_flight -= 1;
        if started.counts {
            self.slow.remove(started.job);
        }
        let webhook = started.webhook;
        if self.checks - started.check < LONG_AFTER_CHECKS {
            self.long.remove(&webhook);
        } else {
            self.long.insert(webhook, self.checks);
        }
        let Some(lane) = self.by_webhook.get_mut(&webhook) else { return };
        lane.in_flight -= 1;
        lane.slow -= usize::from(started.slow);
        lane.answers_in_time = lane.slow == 0 && self.checks - started.check < SLOW_AFTER_CHECKS;
        if lane.in_flight == 0 && lane.waiting.is_empty() {
            self.by_webhook.remove(&webhook);
            self.paced.remove(&webhook);
            return;
        }
        if lane.queue_state == QueueState::Blocked && (lane.answers_in_time || lane.in_flight == 0) {
            lane.queue_state = QueueState::None;
        }
        self.enqueue(webhook);
    }

    /// Takes out what has waited since before `since`, except as many at the front of each lane as it started since the
    /// last check or has slots for: they start soon. Call it once in the time that something may wait.
    pub(super) fn overdue(&mut self, since: Instant, now: DateTime<Utc>) -> Vec<Overdue<T>> {
        self.checks += 1;
        self.find_slow();
        let mut overdue = Vec::new();
        if self.stopped {
            return overdue;
        }
        let lanes = self.paced.iter().filter_map(|id| self.by_webhook.get(id));
        let paced_waiting: usize = lanes.map(|lane| lane.waiting.len()).sum();
        let crowded = paced_waiting > self.paced_waiting_max;
        let paced = &mut self.paced;
        self.by_webhook.retain(|webhook, lane| {
            let stay = lane.begun.max(lane.begun_before);
            let stay = match &lane.pace {
                None => stay,
                Some(pace) if crowded => pace.in_hand(),
                // No slot is asked for if no permit is free.
                Some(pace) if lane.in_flight < lane.limit => pace.stay(now).max(pace.in_hand() + stay),
                Some(pace) => pace.in_hand() + stay,
            };
            lane.begun_before = std::mem::take(&mut lane.begun);
            lane.take_out(stay, Some(since), now, &mut overdue);
            let lives = lane.in_flight > 0 || !lane.waiting.is_empty();
            if !lives && lane.pace.is_some() {
                paced.remove(webhook);
            }
            lives
        });
        self.prune_queues();
        overdue
    }

    /// Finds what has now been in flight for long, and for a second.
    fn find_slow(&mut self) {
        let checks = self.checks;
        self.long.retain(|_, seen| checks - *seen <= LONG_FOR_CHECKS);
        for started in self.started.iter_mut().flatten() {
            if checks - started.check >= LONG_AFTER_CHECKS {
                self.long.insert(started.webhook, checks);
            }
            if started.slow || self.checks - started.check < SLOW_AFTER_CHECKS {
                continue;
            }
            started.slow = true;
            if !std::mem::replace(&mut started.counts, true) {
                self.slow.add(started.job);
            }
            if let Some(lane) = self.by_webhook.get_mut(&started.webhook) {
                lane.slow += 1;
                lane.answers_in_time = false;
            }
        }
    }

    /// Drops lanes that are gone or have nothing waiting, so that the queues are no longer than the number of lanes.
    fn prune_queues(&mut self) {
        let lanes = &mut self.by_webhook;
        let mut kept = HashSet::new();
        let mut stays = |webhook: &WebhookId, queue_state| {
            lanes.get_mut(webhook).is_some_and(|lane| {
                let stays =
                    lane.queue_state == queue_state && !lane.waiting.is_empty() && kept.insert(*webhook);
                if lane.waiting.is_empty() {
                    lane.queue_state = QueueState::None;
                }
                stays
            })
        };
        for queue in [&mut self.run_queue, &mut self.long_queue] {
            queue.retain(|webhook| stays(webhook, QueueState::Queued));
        }
        for queue in [&mut self.blocked_first, &mut self.blocked] {
            queue.retain(|webhook| stays(webhook, QueueState::Blocked));
        }
    }

    /// From now on nothing starts.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Things may start again.
    pub(super) fn go_on(&mut self) {
        self.stopped = false;
    }

    /// Tasks started and not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn enqueue(&mut self, webhook: WebhookId) {
        if let Some(lane) = self.by_webhook.get_mut(&webhook)
            && lane.queue_state == QueueState::None
            && lane.may_start(limit_now(lane.limit, self.in_flight, self.in_flight_max))
        {
            lane.queue_state = QueueState::Queued;
            let is_long = self.long.contains_key(&webhook);
            let queue = if is_long { &mut self.long_queue } else { &mut self.run_queue };
            queue.push(lane.company, webhook);
        }
    }
}

impl<T> Lane<T> {
    fn new(company: CompanyId, limit: usize) -> Self {
        Self {
            company,
            in_flight: 0,
            limit,
            waiting: VecDeque::new(),
            queue_state: QueueState::None,
            begun: 0,
            begun_before: 0,
            answers_in_time: false,
            slow: 0,
            pace: None,
        }
    }

    /// Whether there is a waiting task, a permit, and a slot if one is needed.
    fn may_start(&self, limit: usize) -> bool {
        self.in_flight < limit
            && !self.waiting.is_empty()
            && self.pace.as_ref().is_none_or(|pace| pace.is_ripe())
    }

    /// Takes out all but the first `stay`; only what waits since before `since`, if that is given.
    fn take_out(
        &mut self,
        stay: usize,
        since: Option<Instant>,
        now: DateTime<Utc>,
        out: &mut Vec<Overdue<T>>,
    ) {
        let stay = stay.min(self.waiting.len());
        let late = |waiting: &QueuedTask<T>| since.is_none_or(|since| waiting.since < since);
        let count = self.waiting.iter().skip(stay).take_while(|waiting| late(waiting)).count();
        let slots = self.pace.as_ref().map_or(0, |pace| pace.in_hand());
        for (n, waiting) in self.waiting.drain(stay..stay + count).enumerate() {
            let position = (stay + n).saturating_sub(slots);
            let for_pace = self.pace.as_mut().map(|pace| pace.park(position, now));
            out.push(Overdue {
                task: waiting.task,
                for_pace,
                is_full: self.in_flight >= self.limit.min(FEW),
            });
        }
    }
}

/// From half full on, a lane that holds this many gets no more.
const FEW: usize = 4;

/// The present limit of a lane: the last half of the permits is for lanes that hold few; otherwise some receivers that
/// do not answer would hold them all. A lane that is passed over holds some, and is queued again when one of them
/// ends.
fn limit_now(limit: usize, in_flight: usize, in_flight_max: usize) -> usize {
    if in_flight * 2 >= in_flight_max { limit.min(FEW) } else { limit }
}
