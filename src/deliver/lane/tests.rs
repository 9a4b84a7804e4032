//! Single steps of the lanes, and any interleaving of them.

use chrono::TimeDelta;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    deliver::pace::{When, when},
    model::lane::{SLOTS_AHEAD, slot_interval},
};

fn webhook(n: u16) -> WebhookId {
    WebhookId(Uuid::from_u128(n.into()))
}

/// Every webhook has a company of its own.
fn offer(n: u16, limit: usize, job: JobNumber) -> Offer {
    Offer { company: CompanyId(webhook(n).0), webhook: webhook(n), job, limit, rate: None }
}

fn noon() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

fn tasks<T>(overdue: Vec<Overdue<T>>) -> Vec<T> {
    overdue.into_iter().map(|overdue| overdue.task).collect()
}

/// Tasks that wait.
fn waiting<T>(lanes: &Lanes<T>) -> usize {
    lanes.by_webhook.values().map(|lane| lane.waiting.len()).sum()
}

/// Nothing is left of any lane.
fn forgotten<T>(lanes: &Lanes<T>) -> bool {
    lanes.by_webhook.is_empty()
        && lanes.run_queue.is_empty()
        && lanes.long_queue.is_empty()
        && lanes.blocked.is_empty()
        && lanes.blocked_first.is_empty()
        && lanes.paced.is_empty()
        && lanes.slow.count() == 0
        && lanes.in_flight == 0
        && lanes.started.iter().all(Option::is_none)
}

#[test]
fn a_webhook_with_many_waiting_costs_another_one_turn() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    for task in 0..50 {
        lanes.offer(offer(1, 100, task), now, (1, task));
    }
    lanes.offer(offer(2, 100, 50), now, (2, 0));
    let started: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|start| start.task).take(3).collect();
    assert_eq!(started, [(1, 0), (2, 0), (1, 1)]);
}

#[test]
fn a_company_with_many_webhooks_costs_another_one_turn() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    let greedy = CompanyId(Uuid::from_u128(1_000));
    for n in 1..=50 {
        for task in 0..2 {
            lanes.offer(Offer { company: greedy, ..offer(n, 100, task) }, now, (n, task));
        }
    }
    lanes.offer(offer(99, 100, 50), now, (99, 0));
    let started: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|start| start.task).take(3).collect();
    assert_eq!(started, [(1, 0), (99, 0), (2, 0)]);
}

#[test]
fn receivers_that_take_long_never_hold_the_last_quarter() {
    let (mut lanes, since) = (Lanes::new(16, 500), Instant::now());
    // Nothing has waited for too long.
    let now = since + Duration::from_secs(9);
    // Each answers after half a second, and its lane is idle, and forgotten, in between.
    let offer_all = |lanes: &mut Lanes<u16>, first: u16| {
        for n in first..first + 30 {
            lanes.offer(offer(n, 100, n.into()), now, n);
        }
    };
    offer_all(&mut lanes, 0);
    let mut seen = Vec::new();
    while seen.len() < 30 {
        let started: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
        assert!(!started.is_empty());
        for _ in 0..LONG_AFTER_CHECKS {
            lanes.overdue(since, noon());
        }
        seen.extend(started.iter().map(|start| start.task));
        for start in started {
            lanes.ended(start.permit);
        }
    }
    assert!(lanes.by_webhook.is_empty());
    offer_all(&mut lanes, 0);
    let mut started: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    assert_eq!(started.len(), 12, "three quarters of the permits");
    // Another one starts at once, and so do all that are not known to take long.
    for n in 100..104 {
        lanes.offer(offer(n, 100, n.into()), now, n);
        started.push(lanes.next().expect("a permit"));
        assert_eq!(started.last().map(|start| start.task), Some(n));
    }
    lanes.offer(offer(104, 100, 104), now, 104);
    assert!(lanes.next().is_none(), "all permits are taken");
    // After a minute of silence nothing is known of them.
    for start in started {
        lanes.ended(start.permit);
    }
    for _ in 0..=LONG_FOR_CHECKS {
        lanes.overdue(since, noon());
    }
    assert!(lanes.long.is_empty());
}

#[test]
fn a_full_lane_keeps_its_order_and_gives_back_what_waited_too_long() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    let at = |ms| now + Duration::from_millis(ms);
    for task in 0..4_u64 {
        lanes.offer(offer(1, 1, task), at(task * 100), task);
    }
    let first = lanes.next().expect("a permit");
    assert_eq!(first.task, 0);
    assert!(lanes.next().is_none());
    // One was started since the last check, so the next one may start soon.
    assert_eq!(tasks(lanes.overdue(at(250), noon())), [2]);
    assert_eq!(tasks(lanes.overdue(at(250), noon())), [0_u64; 0]);
    // Nothing was started since the two checks before: nothing starts soon.
    assert_eq!(tasks(lanes.overdue(at(250), noon())), [1]);
    lanes.ended(first.permit);
    let last = lanes.next().expect("a permit");
    assert_eq!(last.task, 3);
    lanes.ended(last.permit);
    lanes.overdue(at(250), noon());
    assert!(forgotten(&lanes), "an idle lane is forgotten");
}

#[test]
fn a_busy_lane_parks_nothing_that_it_will_soon_start() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    for task in 0..100 {
        lanes.offer(offer(1, 10, task), now, task);
    }
    for _ in 0..40 {
        let start = lanes.next().expect("a permit");
        lanes.ended(start.permit);
    }
    let overdue = lanes.overdue(now + Duration::from_secs(1), noon());
    assert_eq!(tasks(overdue), (80..100).collect::<Vec<_>>(), "40 started, 40 will soon");
    assert_eq!(waiting(&lanes), 40);
}

#[test]
fn receivers_that_do_not_answer_leave_places_for_the_others() {
    let (mut lanes, now) = (Lanes::new(16, 500), Instant::now());
    for task in 0..100 {
        lanes.offer(offer(1, 100, task), now, (1, task));
    }
    let mut hung: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    assert_eq!(hung.len(), 8, "half of the permits");
    lanes.offer(offer(2, 100, 100), now, (2, 0));
    let other = lanes.next().expect("a permit");
    assert_eq!(other.task, (2, 0));
    // One of the first ends: it has more than few, so the permit is kept for others.
    lanes.ended(hung.remove(0).permit);
    assert!(lanes.next().is_none());
    lanes.ended(other.permit);
    lanes.ended(hung.remove(0).permit);
    assert_eq!(lanes.next().map(|start| start.task), Some((1, 8)), "less than half is taken");
}

/// Lets a second pass for whatever is in flight.
fn a_second<T>(lanes: &mut Lanes<T>, now: Instant) {
    for _ in 0..SLOW_AFTER_CHECKS {
        lanes.overdue(now, noon());
    }
}

#[test]
fn slow_jobs_fill_half_of_the_prefetch_and_others_go_on_starting() {
    let (mut lanes, now) = (Lanes::new(100, 12), Instant::now());
    // A lane that answers in time has something in flight all along.
    lanes.offer(offer(9, 50, 900), now, 900);
    let quick = lanes.next().expect("a permit");
    lanes.offer(offer(9, 50, 901), now, 901);
    lanes.ended(quick.permit);
    let quick = lanes.next().expect("a permit");
    assert_eq!(lanes.slow.count(), 0);
    // Two lanes fall silent, with a bundle of a job's deliveries among what they get.
    for (n, job) in [(1, 1), (2, 1), (1, 2), (2, 3), (1, 4), (2, 5)] {
        lanes.offer(offer(n, 50, job), now, job);
    }
    let mut silent: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    assert_eq!(silent.iter().map(|start| start.task).collect::<Vec<_>>(), [1, 1, 2, 3]);
    assert_eq!(lanes.slow.count(), 3, "a quarter of the prefetch, and a bundle is one job");
    // A lane that nobody knows has its first request, up to half of the prefetch.
    for n in 20..24 {
        lanes.offer(offer(n, 50, n.into()), now, n.into());
        lanes.offer(offer(n, 50, 100 + u64::from(n)), now, 100 + u64::from(n));
    }
    silent.extend(std::iter::from_fn(|| lanes.next()));
    assert_eq!(silent[4..].iter().map(|start| start.task).collect::<Vec<_>>(), [20, 21, 22]);
    assert_eq!(lanes.slow.count(), 6);
    // The lane that answers in time is not held up, and its requests do not count.
    for job in 902..912 {
        lanes.offer(offer(9, 50, job), now, job);
        let start = lanes.next().expect("others keep starting");
        assert_eq!(start.task, job);
        lanes.ended(start.permit);
    }
    lanes.ended(quick.permit);
    // One of the new ones answers: what waits in its lane goes on, and then the next has its first.
    lanes.ended(silent.remove(4).permit);
    let mut next: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    next.sort_by_key(|start| start.task);
    assert_eq!(next.iter().map(|start| start.task).collect::<Vec<_>>(), [23, 120]);
    // What would exceed the half is parked.
    a_second(&mut lanes, now + Duration::from_millis(1));
    assert_eq!(waiting(&lanes), 0);
    silent.into_iter().chain(next).for_each(|start| lanes.ended(start.permit));
    lanes.overdue(now, noon());
    assert!(forgotten(&lanes));
}

#[test]
fn what_answered_in_time_and_falls_silent_counts_after_a_second() {
    let (mut lanes, now) = (Lanes::new(100, 4), Instant::now());
    lanes.offer(offer(1, 50, 0), now, 0);
    let first = lanes.next().expect("a permit");
    lanes.offer(offer(1, 50, 1), now, 1);
    lanes.ended(first.permit);
    for job in 2..6 {
        lanes.offer(offer(1, 50, job), now, job);
    }
    let silent: Vec<_> = std::iter::from_fn(|| lanes.next()).collect();
    assert_eq!((silent.len(), lanes.slow.count()), (5, 0), "nobody could know");
    a_second(&mut lanes, now);
    assert_eq!(lanes.slow.count(), 5);
    lanes.offer(offer(1, 50, 7), now, 7);
    lanes.offer(offer(2, 50, 8), now, 8);
    assert!(lanes.next().is_none(), "neither the silent lane nor one that nobody knows");
    silent.iter().take(4).for_each(|start| lanes.ended(start.permit));
    let started: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|start| start.task).collect();
    assert_eq!(started, [8], "the one that nobody knows");
}

#[test]
fn a_million_webhooks_touched_once_each_leave_nothing_behind() {
    let (mut lanes, now) = (Lanes::new(256, 500), Instant::now());
    for n in 0..1_000_000_u64 {
        let webhook = WebhookId(Uuid::from_u128(n.into()));
        let rate = (n % 3 == 0).then_some(50.0);
        lanes.offer(Offer { company: CompanyId(webhook.0), webhook, job: n, limit: 32, rate }, now, n);
        match n % 3 {
            0 => {
                lanes.granted(webhook, [noon()], noon() + TimeDelta::seconds(1), noon());
                lanes.ripen(noon(), Duration::ZERO);
            }
            // Never started: parked.
            1 => {
                lanes.stop();
                lanes.go_on();
                let overdue = lanes.overdue(now + Duration::from_secs(1), noon());
                assert_eq!(tasks(overdue), [n]);
                continue;
            }
            _ => {}
        }
        let start = lanes.next().expect("a permit");
        assert_eq!((start.task, start.slot.is_some()), (n, n % 3 == 0));
        lanes.ended(start.permit);
    }
    lanes.overdue(now, noon());
    assert!(forgotten(&lanes));
    assert!(lanes.started.len() < 10 && lanes.by_webhook.capacity() < 100, "{}", lanes.by_webhook.capacity());
}

#[test]
fn the_limit_of_a_lane_may_come_change_and_go_while_tasks_wait() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    let at = |rate, job| Offer { rate, ..offer(1, 50, job) };
    lanes.offer(at(Some(1.0), 0), now, 0);
    assert!(lanes.next().is_none(), "no slot yet");
    assert_eq!(
        lanes.wants(noon()).lanes,
        [Want { webhook: webhook(1), every: slot_interval(1.0), slots: 1 }]
    );
    lanes.granted(webhook(1), [], noon() + TimeDelta::milliseconds(1_200), noon());
    assert!(lanes.wants(noon()).lanes.is_empty(), "the next is far");
    lanes.offer(at(Some(50.0), 1), now, 1);
    assert_eq!(lanes.wants(noon()).lanes[0].every, slot_interval(50.0), "requested again");
    lanes.offer(at(None, 2), now, 2);
    let started: Vec<_> = std::iter::from_fn(|| lanes.next()).map(|s| (s.task, s.slot)).collect();
    assert_eq!(started, [(0, None), (1, None), (2, None)], "the limit is gone");
}

#[test]
fn what_would_wait_too_long_for_its_slot_is_parked_until_about_then() {
    let (mut lanes, now) = (Lanes::new(100, 500), Instant::now());
    for job in 0..200 {
        lanes.offer(Offer { rate: Some(10.5), ..offer(1, 50, job) }, now, job);
    }
    let want = lanes.wants(noon()).lanes[0];
    assert_eq!((want.every, want.slots), (Duration::from_millis(100), 50));
    let slots = (0..10).map(|n| noon() + TimeDelta::milliseconds(n * 100));
    let beyond = lanes.granted(webhook(1), slots, noon() + TimeDelta::seconds(1), noon());
    assert_eq!(beyond.len(), 200 - 10 - 3, "ten have a slot, three get one within 1.25 s");
    let waits: Vec<_> = beyond.iter().filter_map(|overdue| overdue.for_pace).collect();
    assert_eq!(waits[0], Duration::from_millis(800), "half a second before its slot");
    assert!(waits.is_sorted() && waits.len() == beyond.len());
    assert_eq!(waiting(&lanes), 13);
    // Those stay, however long they wait.
    assert!(lanes.overdue(now + Duration::from_secs(1), noon()).is_empty());
}

mod interleavings {
    use super::*;

    /// How far a worker's clock may be off, in ms.
    const OFF_MAX: i64 = 9;
    const WEBHOOKS: u16 = 4;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pass(i64),
        Offer(usize, u16),
        /// Slots are reserved; the answer comes with the next step of this kind, or `Answer`.
        Ask(usize),
        Answer(usize),
        Ripen(usize),
        Start(usize),
        /// A task that has been started looks whether its slot has come.
        Begin(usize, usize),
        End(usize, usize),
        Overdue(usize),
        Crash(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let w = 0..3_usize;
        let step = prop_oneof![
            6 => (0_i64..60).prop_map(Step::Pass),
            6 => (w.clone(), 0..WEBHOOKS).prop_map(|(w, n)| Step::Offer(w, n)),
            4 => w.clone().prop_map(Step::Ask),
            4 => w.clone().prop_map(Step::Answer),
            6 => w.clone().prop_map(Step::Ripen),
            6 => w.clone().prop_map(Step::Start),
            6 => (w.clone(), 0_usize..64).prop_map(|(w, i)| Step::Begin(w, i)),
            4 => (w.clone(), 0_usize..64).prop_map(|(w, i)| Step::End(w, i)),
            1 => w.clone().prop_map(Step::Overdue),
            1 => w.prop_map(Step::Crash),
        ];
        prop::collection::vec(step, 0..600)
    }

    /// What the statement `lanes.reserve_slots` does.
    fn reserve(
        next: &mut Option<DateTime<Utc>>,
        at: DateTime<Utc>,
        want: Want,
    ) -> (Vec<DateTime<Utc>>, DateTime<Utc>) {
        let (every, ahead) =
            (TimeDelta::from_std(want.every).unwrap(), TimeDelta::from_std(SLOTS_AHEAD).unwrap());
        let first = next.unwrap_or(at).min(at + ahead + every).max(at + TimeDelta::milliseconds(15));
        let slots: Vec<_> = (0..want.slots)
            .map(|n| first + every * i32::try_from(n).unwrap())
            .take_while(|slot| *slot <= at + ahead)
            .collect();
        let after = first + every * i32::try_from(slots.len()).unwrap();
        *next = Some(after);
        (slots, after)
    }

    struct Worker {
        lanes: Lanes<u16>,
        off: i64,
        answers: Vec<(WebhookId, Vec<DateTime<Utc>>, DateTime<Utc>)>,
        /// Started, waiting for their slot.
        early: Vec<(u16, usize, DateTime<Utc>)>,
        running: Vec<(u16, usize)>,
    }

    struct World {
        ms: i64,
        /// The slots of each webhook in the ledger.
        next: Vec<Option<DateTime<Utc>>>,
        rates: Vec<Option<f64>>,
        limit: usize,
        workers: Vec<Worker>,
        begun: Instant,
        job: JobNumber,
        offered: usize,
        parked: usize,
        lost: usize,
        /// Starts of each webhook, by the database's clock and by that of its worker.
        starts: Vec<(u16, i64, i64)>,
    }

    impl World {
        fn now(&self, w: usize) -> DateTime<Utc> {
            noon() + TimeDelta::milliseconds(self.ms + self.workers[w].off)
        }

        fn instant(&self) -> Instant {
            self.begun + Duration::from_millis(u64::try_from(self.ms).unwrap())
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Pass(ms) => self.ms += ms,
                Step::Offer(w, n) => {
                    let offer = Offer { rate: self.rates[usize::from(n)], ..offer(n, self.limit, self.job) };
                    let now = self.instant();
                    self.workers[w].lanes.offer(offer, now, n);
                    self.job += 1;
                    self.offered += 1;
                }
                Step::Ask(w) => {
                    self.step(Step::Answer(w));
                    let (now, true_now) = (self.now(w), noon() + TimeDelta::milliseconds(self.ms));
                    for want in self.workers[w].lanes.wants(now).lanes {
                        let n = usize::try_from(want.webhook.0.as_u128()).unwrap();
                        let (slots, next) = reserve(&mut self.next[n], true_now, want);
                        self.workers[w].answers.push((want.webhook, slots, next));
                    }
                }
                Step::Answer(w) => {
                    let now = self.now(w);
                    for (webhook, slots, next) in std::mem::take(&mut self.workers[w].answers) {
                        self.parked += self.workers[w].lanes.granted(webhook, slots, next, now).len();
                    }
                }
                Step::Ripen(w) => {
                    let now = self.now(w);
                    self.workers[w].lanes.ripen(now, Duration::from_millis(20));
                }
                Step::Start(w) => {
                    let Some(start) = self.workers[w].lanes.next() else { return };
                    match start.slot {
                        Some(slot) => self.workers[w].early.push((start.task, start.permit, slot)),
                        None => self.workers[w].running.push((start.task, start.permit)),
                    }
                }
                Step::Begin(w, i) => self.begin(w, i),
                Step::End(w, i) => {
                    let worker = &mut self.workers[w];
                    if !worker.running.is_empty() {
                        let (_, permit) = worker.running.swap_remove(i % worker.running.len());
                        worker.lanes.ended(permit);
                        self.lost += 1;
                    }
                }
                Step::Overdue(w) => {
                    let ago = u64::try_from(self.ms).unwrap().saturating_sub(250);
                    let (since, now) = (self.begun + Duration::from_millis(ago), self.now(w));
                    self.parked += self.workers[w].lanes.overdue(since, now).len();
                }
                Step::Crash(w) => {
                    let worker = &mut self.workers[w];
                    self.lost += waiting(&worker.lanes) + worker.early.len() + worker.running.len();
                    let off = -worker.off;
                    *worker = Worker::new(off);
                }
            }
        }

        fn begin(&mut self, w: usize, i: usize) {
            let (now, ms) = (self.now(w), self.ms);
            let worker = &mut self.workers[w];
            if worker.early.is_empty() {
                return;
            }
            let i = i % worker.early.len();
            let (n, permit, slot) = worker.early[i];
            match when(slot, now) {
                When::Early(_) => {}
                When::Now => {
                    worker.early.remove(i);
                    worker.running.push((n, permit));
                    self.starts.push((n, ms, ms + worker.off));
                }
                When::Missed => {
                    if let Some(slot) = worker.lanes.another_slot(webhook(n), now) {
                        worker.early[i].2 = slot;
                    } else {
                        worker.early.remove(i);
                        worker.lanes.ended(permit);
                        self.parked += 1;
                    }
                }
            }
        }

        fn within_limits(&self, total: usize) -> Result<(), TestCaseError> {
            for worker in &self.workers {
                let open = worker.early.len() + worker.running.len();
                prop_assert_eq!(open, worker.lanes.in_flight());
                prop_assert!(open <= total);
                for n in 0..WEBHOOKS {
                    let of = worker.early.iter().map(|e| e.0).chain(worker.running.iter().map(|r| r.0));
                    prop_assert!(of.filter(|of| *of == n).count() <= self.limit);
                }
            }
            Ok(())
        }

        fn at_their_pace(&self) -> Result<(), TestCaseError> {
            for n in 0..WEBHOOKS {
                let Some(rate) = self.rates[usize::from(n)] else { continue };
                let of: Vec<_> = self.starts.iter().filter(|(of, ..)| *of == n).collect();
                for mut times in
                    [of.iter().map(|s| s.1).collect::<Vec<_>>(), of.iter().map(|s| s.2).collect()]
                {
                    times.sort_unstable();
                    for (i, from) in times.iter().enumerate() {
                        for (j, to) in times.iter().enumerate().skip(i) {
                            #[expect(clippy::cast_precision_loss, reason = "small")]
                            let (count, w) = ((j - i + 1) as f64, (to - from) as f64 / 1_000.0);
                            prop_assert!(
                                count <= rate * w.max(1.0) + 1.0 + 1e-9,
                                "{count} starts in {w} s at {rate}/s"
                            );
                        }
                    }
                }
            }
            Ok(())
        }

        /// Goes on as if nothing were wrong, until nothing is left.
        fn come_to_rest(&mut self) -> Result<(), TestCaseError> {
            for round in 0..2_000 {
                self.ms += 5;
                for w in 0..self.workers.len() {
                    self.step(Step::Ask(w));
                    self.step(Step::Answer(w));
                    self.step(Step::Ripen(w));
                    loop {
                        let before = self.workers[w].lanes.in_flight();
                        self.step(Step::Start(w));
                        if self.workers[w].lanes.in_flight() == before {
                            break;
                        }
                    }
                    for i in (0..self.workers[w].early.len()).rev() {
                        self.begin(w, i);
                    }
                    for _ in 0..self.workers[w].running.len() {
                        self.step(Step::End(w, 0));
                    }
                    if round % 50 == 0 {
                        self.step(Step::Overdue(w));
                    }
                }
            }
            for worker in &mut self.workers {
                prop_assert!(forgotten(&worker.lanes), "{:?}", worker.lanes);
            }
            prop_assert_eq!(self.offered, self.lost + self.parked);
            Ok(())
        }
    }

    impl Worker {
        fn new(off: i64) -> Self {
            let (answers, early, running) = (Vec::new(), Vec::new(), Vec::new());
            Self { lanes: Lanes::new(TOTAL, PREFETCH), off, answers, early, running }
        }
    }

    const TOTAL: usize = 6;
    const PREFETCH: usize = 16;

    proptest! {
        #[test]
        fn no_interleaving_exceeds_a_limit_or_the_pace_or_leaves_a_lane_stuck(
            steps in steps(),
            limit in 1_usize..4,
            rates in prop::collection::vec(prop_oneof![Just(None), Just(Some(2.0)), Just(Some(7.0)), Just(Some(50.0))], 4),
            offs in prop::collection::vec(-OFF_MAX..=OFF_MAX, 3),
        ) {
            let mut world = World {
                ms: 10_000,
                next: vec![None; 4],
                rates,
                limit,
                workers: offs.into_iter().map(Worker::new).collect(),
                begun: Instant::now(),
                job: 0,
                offered: 0,
                parked: 0,
                lost: 0,
                starts: Vec::new(),
            };
            for step in steps {
                world.step(step);
                world.within_limits(TOTAL)?;
            }
            world.come_to_rest()?;
            world.at_their_pace()?;
        }
    }
}
