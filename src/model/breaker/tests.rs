use uuid::Uuid;

use super::{
    fixtures::{attempts, change, heard},
    *,
};

const POLICY: Policy = Policy { failures: 5, probe_wait_min: Duration::from_secs(5) };

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
fn a_batch_keeps_the_longest_rate_limit_the_probe_and_the_last_reason() {
    let mut all = attempts("frs");
    all[0].rate_limited_for = Some(Duration::from_secs(3));
    all[1].probe = true;
    all[2].rate_limited_for = Some(Duration::from_millis(1_500));
    let found = change(&all);
    assert_eq!((found.rate_limited_for, found.probe, found.failures), (Duration::from_secs(3), true, 0));
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
    let seconds: Vec<u64> = POLICY.probe_waits().iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 300]);
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
