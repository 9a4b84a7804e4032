use std::collections::VecDeque;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const POLICY: Policy = Policy { failures: 5, probe_wait_min: Duration::from_secs(5) };

fn at(seconds: f64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::from_std(Duration::from_secs_f64(seconds)).unwrap()
}

fn heard(class: OutcomeClass, event: u128) -> Heard {
    Heard {
        company: CompanyId(Uuid::nil()),
        event: EventId(Uuid::from_u128(event)),
        operational: false,
        class,
        probe: false,
        hold_back: None,
        share: None,
    }
}

fn change(heard: &[Heard]) -> Change {
    let mut change = Change::default();
    for heard in heard {
        change.add(heard, heard.class.as_str());
    }
    change
}

/// Attempts by a letter each: s success, f server error, t timed out, u unreachable, r refused, x throttled.
fn attempts(letters: &str) -> Vec<Heard> {
    let of = |(n, letter)| {
        let class = match letter {
            's' => OutcomeClass::Accepted,
            'f' => OutcomeClass::ServerError,
            't' => OutcomeClass::TimedOut,
            'u' => OutcomeClass::Unreachable,
            'x' => OutcomeClass::Throttled,
            _ => OutcomeClass::Refused,
        };
        heard(class, n as u128)
    };
    letters.chars().enumerate().map(of).collect()
}

#[test]
fn only_what_says_that_nobody_works_there_counts() {
    let counted: Vec<_> = OutcomeClass::ALL.into_iter().filter(|class| counts(*class)).collect();
    assert_eq!(counted, [OutcomeClass::ServerError, OutcomeClass::TimedOut, OutcomeClass::Unreachable]);
}

#[test]
fn a_batch_is_folded_to_what_it_does_at_its_end() {
    let check = |letters: &str, succeeded, failures, failed: Option<u128>, many| {
        let found = change(&attempts(letters));
        let failed = failed.map(|n| EventId(Uuid::from_u128(n)));
        assert_eq!(
            (found.attempts as usize, found.succeeded, found.failures, found.failed_event, found.failed_many),
            (letters.len(), succeeded, failures, failed, many),
            "{letters}"
        );
        assert!(!found.is_silent(), "{letters}");
    };
    check("", false, 0, None, false);
    check("s", true, 0, None, false);
    check("ftu", false, 3, Some(0), true);
    check("fsf", true, 1, Some(2), false);
    check("ffs", true, 0, None, false);
    check("rfr", false, 1, Some(0), true);
    check("x", false, 0, Some(0), false);
    check("sxf", true, 1, Some(1), true);
}

#[test]
fn a_batch_keeps_the_longest_hold_back_the_probe_and_the_last_reason() {
    let mut all = attempts("frs");
    all[0].hold_back = Some(Duration::from_secs(3));
    all[1].probe = true;
    all[2].hold_back = Some(Duration::from_millis(1_500));
    let found = change(&all);
    assert_eq!((found.hold_back, found.probe, found.failures), (Duration::from_secs(3), true, 0));
    assert_eq!(found.last, "", "what was before the success is no reason");

    let mut found = change(&attempts("f"));
    found.add(&heard(OutcomeClass::Unreachable, 9), &"ö".repeat(1_000));
    assert_eq!(found.last.chars().count(), REASON_MAX);
    found.add(&heard(OutcomeClass::Refused, 9), "refused");
    assert_eq!(found.last.chars().count(), REASON_MAX, "what does not count is no reason");
}

#[test]
fn failures_of_operational_events_alone_are_silent() {
    let check = |kinds: &[(char, bool)], expected| {
        let letters: String = kinds.iter().map(|(letter, _)| letter).collect();
        let mut all = attempts(&letters);
        for (heard, (_, operational)) in all.iter_mut().zip(kinds) {
            heard.operational = *operational;
        }
        assert_eq!(change(&all).is_silent(), expected, "{kinds:?}");
    };
    check(&[('f', true), ('f', true)], true);
    check(&[('f', true), ('f', false)], false);
    check(&[('f', false), ('s', true), ('f', true)], true);
    check(&[('r', true)], false);
    check(&[('f', true), ('s', false)], false);
}

#[test]
fn probes_wait_twice_as_long_each_time_up_to_five_minutes() {
    let seconds: Vec<u64> = (0..9).map(|n| POLICY.probe_wait(n, 1.0).as_secs()).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(POLICY.probe_wait(u32::MAX, 1.0), PROBE_WAIT_MAX);
    let check = |random: f64, expected: f64| assert!((jitter(random) - expected).abs() < 1e-9, "{random}");
    check(0.0, 0.8);
    check(0.5, 1.0);
    check(1.0, 1.2);
    check(7.0, 1.2);
    check(f64::NAN, 1.0);
    // Whatever the setting, there is a wait, and it has its bound.
    for wait in [Duration::ZERO, Duration::from_hours(1)] {
        let policy = Policy { failures: 1, probe_wait_min: wait };
        assert!(policy.probe_waits().iter().all(|wait| (1..=300_000).contains(&wait.as_millis())));
        assert!(policy.probe_waits().len() < 32);
    }
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
    // Counting: what does not count neither adds nor begins anew.
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
