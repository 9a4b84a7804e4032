//! What a breaker does, told a second time: the model that the ledger's statement is held against.

use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use xtwebhooks::model::{
    CompanyId, EventId, OutcomeClass,
    breaker::{Heard, LaneChange, PROBE_WAIT_MAX, Policy, Share},
};

#[path = "../../../src/model/breaker/fixtures.rs"]
mod fixtures;

use self::fixtures::{attempts, change, heard};

/// What the ledger knows of a lane's breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row, over all workers.
    pub failures: u32,
    /// Set while it is open.
    pub opened_at: Option<DateTime<Utc>>,
    /// When one request may try; set exactly while it is open.
    pub next_probe_at: Option<DateTime<Utc>>,
    /// Probes that failed since the opening.
    pub probes: u32,
    /// The first failure of any class since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    /// The event it was of.
    pub failing_event: Option<EventId>,
    /// Whether more than one event has failed since.
    pub failing_many: bool,
}

/// What a change did that others hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing is sent from now on but probes.
    Opened,
    /// The receiver is back.
    Closed,
}

impl Breaker {
    /// Applies a change at `now`. A lane that was open stays so where the same batch ends in what would open it.
    pub fn apply(
        &mut self,
        change: &LaneChange,
        policy: &Policy,
        jitter: f64,
        now: DateTime<Utc>,
    ) -> Option<Transition> {
        let was_open = self.opened_at.is_some();
        if change.succeeded {
            *self = Self {
                opened_at: self.opened_at,
                next_probe_at: self.next_probe_at,
                probes: self.probes,
                ..Self::default()
            };
        }
        self.failures = self.failures.saturating_add(change.failures);
        if let Some(event) = change.failed_event {
            self.failing_since.get_or_insert(now);
            let first = *self.failing_event.get_or_insert(event);
            self.failing_many |= change.failed_many || first != event;
        }
        let asks = change.failures > 0 && (self.failures >= policy.failures || change.share.is_some());
        let wait = |failed| TimeDelta::from_std(probe_wait(policy, failed, jitter)).unwrap_or(TimeDelta::MAX);
        if was_open && change.succeeded && !asks {
            (self.opened_at, self.next_probe_at, self.probes) = (None, None, 0);
            return Some(Transition::Closed);
        }
        if !was_open && !asks {
            return None;
        }
        if !was_open || change.succeeded {
            self.opened_at.get_or_insert(now);
            (self.probes, self.next_probe_at) = (0, Some(now + wait(0)));
        } else if change.probe {
            // Whoever answers a probe is there, whatever he says: he is soon asked again.
            self.probes = if change.failures > 0 { self.probes.saturating_add(1) } else { 0 };
            self.next_probe_at = Some(now + wait(self.probes));
        }
        (!was_open).then_some(Transition::Opened)
    }
}

/// The wait for the next probe when so many have failed; `jitter` is from [`jitter`].
pub fn probe_wait(policy: &Policy, failed: u32, jitter: f64) -> Duration {
    let waits = policy.probe_waits();
    let last = waits.len() - 1;
    waits[usize::try_from(failed).map_or(last, |failed| failed.min(last))].mul_f64(jitter)
}

const POLICY: Policy = Policy { failures: 5, probe_wait_min: Duration::from_secs(5) };

fn at(seconds: f64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::from_std(Duration::from_secs_f64(seconds)).expect("a wait that fits")
}

#[test]
fn each_probe_waits_as_long_as_the_policy_has_it() {
    let seconds: Vec<u64> = (0..9).map(|n| probe_wait(&POLICY, n, 1.0).as_secs()).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(probe_wait(&POLICY, u32::MAX, 1.0), PROBE_WAIT_MAX);
}

#[test]
fn the_life_of_a_breaker() {
    let mut breaker = Breaker::default();
    let mut apply = |letters: &str, probe: bool, seconds: f64| {
        let mut all = attempts(letters);
        for heard in &mut all {
            heard.probe = probe;
        }
        let transition = breaker.apply(&change(&all), &POLICY, 1.0, at(seconds));
        (transition, breaker.clone())
    };
    let opened = (Some(Transition::Opened), Some(at(3.0)), Some(at(8.0)));
    let outline = |(transition, breaker): (Option<Transition>, Breaker)| {
        (transition, breaker.opened_at, breaker.next_probe_at)
    };
    // Counting: what does not count neither adds nor starts again.
    assert_eq!(apply("s", false, 0.0), (None, Breaker::default()));
    assert_eq!(apply("ff", false, 1.0).1.failures, 2);
    let counted = apply("rxft", false, 2.0).1;
    assert_eq!((counted.failures, counted.opened_at, counted.failing_since), (4, None, Some(at(1.0))));
    // Open with the fifth, by whatever worker.
    assert_eq!(outline(apply("u", false, 3.0)), opened);
    // What was under way comes to its end: nothing changes by it.
    let still = apply("ttt", false, 4.0);
    assert_eq!((still.1.failures, outline(still)), (8, (None, opened.1, opened.2)));
    // Probes fail, and wait longer each time.
    for (n, (seconds, next)) in
        [(8.0, 18.0), (18.0, 38.0), (38.0, 78.0), (78.0, 158.0)].into_iter().enumerate()
    {
        let found = apply("f", true, seconds);
        assert_eq!(found.1.probes as usize, n + 1);
        assert_eq!(outline(found), (None, opened.1, Some(at(next))));
    }
    // One is answered, though refused: somebody is there, who is soon asked again.
    let refused = apply("r", true, 158.0);
    assert_eq!((refused.1.probes, outline(refused)), (0, (None, opened.1, Some(at(163.0)))));
    // One succeeds.
    assert_eq!(apply("s", true, 158.5), (Some(Transition::Closed), Breaker::default()));
    // Nothing is left of the outage: it takes five again.
    assert_eq!(outline(apply("ffff", false, 159.0)), (None, None, None));
    assert_eq!(apply("fs", false, 160.0), (None, Breaker::default()));
    // One batch may bring what closes and what opens: it is judged at its end.
    assert_eq!(outline(apply("sfffff", false, 161.0)).0, Some(Transition::Opened));
    assert_eq!(outline(apply("sfffff", true, 170.0)), (None, Some(at(161.0)), Some(at(175.0))));
    assert_eq!(outline(apply("fsf", true, 180.0)), (Some(Transition::Closed), None, None));
}

#[test]
fn a_share_opens_without_a_row_of_failures() {
    let share = Share { failed: 12, attempts: 21 };
    assert!(share.asks_to_open());
    assert_eq!(share.to_string(), "12 of 21 attempts within a minute failed");
    let mut all = attempts("sf");
    all[1].share = Some(share);
    let mut breaker = Breaker::default();
    assert_eq!(breaker.apply(&change(&all), &POLICY, 1.0, at(1.0)), Some(Transition::Opened));
    // A success after it takes it back.
    let mut breaker = Breaker::default();
    all.push(heard(OutcomeClass::Accepted, 3));
    assert_eq!(breaker.apply(&change(&all), &POLICY, 1.0, at(1.0)), None);
    assert_eq!(breaker, Breaker::default());
}

/// What workers hand in: batches of letters, some with their probe, some with a share.
fn batches() -> impl Strategy<Value = Vec<(String, bool, bool, u8)>> {
    prop::collection::vec(("[sftur]{1,7}", any::<bool>(), prop::bool::weighted(0.1), 0_u8..40), 1..60)
}

proptest! {
    /// The reference knows the history alone: the outcomes of all workers in the order in which they were recorded.
    #[test]
    fn it_opens_exactly_when_failures_demand_it_and_closes_with_any_success(batches in batches()) {
        let mut breaker = Breaker::default();
        let (mut history, mut clock, mut is_open) = (VecDeque::new(), 0.0, false);
        for (letters, probe, share, gap) in batches {
            clock += f64::from(gap);
            let mut all = attempts(&letters);
            all[0].probe = probe;
            let last_fails = "ftu".contains(letters.chars().last().unwrap());
            if share && last_fails {
                all.last_mut().unwrap().share = Some(Share { failed: 10, attempts: 20 });
            }
            let before = breaker.clone();
            let transition = breaker.apply(&change(&all), &POLICY, 1.0, at(clock));

            history.extend(letters.chars());
            let row = history.iter().rev().take_while(|letter| **letter != 's').filter(|letter| **letter != 'r').count();
            let asks = (row >= 5 && letters.contains(['f', 't', 'u'])) || (share && last_fails);
            let expected = match (is_open, letters.contains('s')) {
                (false, _) if asks => Some(Transition::Opened),
                (true, true) if !asks => Some(Transition::Closed),
                _ => None,
            };
            prop_assert_eq!(transition, expected, "{} after {:?}", letters, before);
            is_open = if transition.is_some() { !is_open } else { is_open };

            prop_assert_eq!(breaker.failures as usize, row);
            prop_assert_eq!(breaker.opened_at.is_some(), is_open);
            prop_assert_eq!(breaker.next_probe_at.is_some(), is_open, "never stuck");
            if is_open {
                let wait = breaker.next_probe_at.unwrap() - at(clock);
                prop_assert!(wait <= TimeDelta::from_std(PROBE_WAIT_MAX).unwrap());
                let again = probe && before.opened_at.is_some() && !letters.contains('s');
                prop_assert!(!again || wait > TimeDelta::zero(), "a failed probe is waited for");
            }
            let fails = history.back() != Some(&'s');
            prop_assert_eq!(breaker.failing_since.is_some(), fails);
            prop_assert_eq!(breaker.failing_event.is_some(), fails);
        }
    }
}
