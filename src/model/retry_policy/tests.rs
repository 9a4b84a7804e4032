use super::*;
use crate::model::{OutcomeClass, fixtures};

const DAY: Duration = Duration::from_hours(24);

fn next(policy: &RetryPolicy, attempt: u32, outcome: &Outcome) -> NextStep {
    policy.next(attempt, outcome, Trigger::Event, 0.5, DAY)
}

fn tier(tier: RetryTier) -> NextStep {
    NextStep::Retry { wait: Wait::Tier(tier) }
}

fn ledger(seconds: f64) -> NextStep {
    NextStep::Retry { wait: Wait::Ledger(Duration::from_secs_f64(seconds)) }
}

fn dead(reason: DeadReason) -> NextStep {
    NextStep::DeadLetter { reason }
}

#[test]
fn every_outcome_has_its_next_step() {
    let held = || NextStep::Hold { why: "the receiver answered 410 Gone".to_owned() };
    let again = || tier(RetryTier::S1);
    let given_up = || dead(DeadReason::AttemptsExhausted);
    // Class, then what follows the first attempt, the third of three, and a test.
    let check = |class: OutcomeClass, first: NextStep, last: NextStep, test: NextStep| {
        let (policy, outcome) = (RetryPolicy::default(), fixtures::outcome(class));
        for trigger in [Trigger::Event, Trigger::Replay, Trigger::Recovery] {
            assert_eq!(policy.next(1, &outcome, trigger, 0.5, DAY), first, "{class} first, {trigger}");
            assert_eq!(policy.next(3, &outcome, trigger, 0.5, DAY), last, "{class} last, {trigger}");
        }
        assert_eq!(policy.next(1, &outcome, Trigger::Test, 0.5, DAY), test, "{class} of a test");
    };
    for class in OutcomeClass::ALL {
        match class {
            OutcomeClass::Accepted => check(class, NextStep::Done, NextStep::Done, NextStep::Done),
            OutcomeClass::Gone => check(class, held(), held(), given_up()),
            OutcomeClass::Blocked => {
                check(class, dead(DeadReason::Blocked), dead(DeadReason::Blocked), dead(DeadReason::Blocked));
            }
            OutcomeClass::Fault => {
                check(class, dead(DeadReason::Fault), dead(DeadReason::Fault), dead(DeadReason::Fault));
            }
            OutcomeClass::Redirected
            | OutcomeClass::Refused
            | OutcomeClass::Throttled
            | OutcomeClass::ServerError
            | OutcomeClass::TimedOut
            | OutcomeClass::Unreachable
            | OutcomeClass::Cut => check(class, again(), given_up(), given_up()),
        }
    }
}

#[test]
fn a_count_waits_twice_as_long_each_time_up_to_64_seconds() {
    let policy = RetryPolicy::from_count(ATTEMPTS_MAX).unwrap();
    let check = |attempt: u32, expected: NextStep| {
        let outcome = fixtures::outcome(OutcomeClass::ServerError);
        assert_eq!(next(&policy, attempt, &outcome), expected, "after attempt {attempt}");
    };
    check(1, tier(RetryTier::S1));
    check(2, tier(RetryTier::S2));
    check(3, tier(RetryTier::S4));
    check(4, tier(RetryTier::S8));
    check(5, tier(RetryTier::S16));
    check(6, tier(RetryTier::S32));
    check(7, tier(RetryTier::S64));
    check(8, tier(RetryTier::S64));
    check(19, tier(RetryTier::S64));
    check(20, dead(DeadReason::AttemptsExhausted));
    check(21, dead(DeadReason::AttemptsExhausted));
    check(u32::MAX, dead(DeadReason::AttemptsExhausted));
    assert_eq!(wait_max(&policy), Duration::from_secs(64));
    assert_eq!(wait_max(&RetryPolicy::from_count(1).unwrap()), Duration::ZERO);
}

/// The longest wait that a policy asks for by itself, jitter included.
fn wait_max(policy: &RetryPolicy) -> Duration {
    let waits = (1..policy.attempts_max()).map(|attempt| policy.wait(attempt, 1.0).duration());
    waits.max().unwrap_or_default()
}

#[test]
fn a_schedule_waits_in_the_ledger_with_a_fifth_of_jitter_either_way() {
    let policy: RetryPolicy = "5s,5m,2h".parse().unwrap();
    let check = |attempt: u32, jitter: f64, expected: NextStep| {
        let outcome = fixtures::outcome(OutcomeClass::TimedOut);
        let step = policy.next(attempt, &outcome, Trigger::Event, jitter, DAY);
        assert_eq!(step, expected, "after attempt {attempt} with {jitter}");
    };
    check(1, 0.0, ledger(4.0));
    check(1, 0.5, ledger(5.0));
    check(1, 1.0, ledger(6.0));
    check(2, 0.5, ledger(300.0));
    check(3, 0.0, ledger(5_760.0));
    check(3, 1.0, ledger(8_640.0));
    check(4, 0.5, dead(DeadReason::AttemptsExhausted));
    // Jitter is the caller's; whatever it is, no wait leaves its bounds.
    check(1, -7.0, ledger(4.0));
    check(1, 7.0, ledger(6.0));
    check(1, f64::NAN, ledger(5.0));
    assert_eq!(wait_max(&policy), Duration::from_mins(144));
}

#[test]
fn a_retry_after_lengthens_the_wait_and_never_shortens_it() {
    let schedule: RetryPolicy = "1m".parse().unwrap();
    let count = RetryPolicy::default();
    let bound = Duration::from_hours(1);
    let check = |policy: &RetryPolicy, requested: u64, expected: NextStep| {
        let retry_after = Some(Duration::from_secs(requested));
        for outcome in [Outcome::Throttled { retry_after }, Outcome::ServerError { status: 503, retry_after }]
        {
            let step = policy.next(1, &outcome, Trigger::Event, 0.5, bound);
            assert_eq!(step, expected, "{policy} when {requested} s are asked for by {outcome:?}");
        }
    };
    check(&count, 0, tier(RetryTier::S1));
    check(&count, 1, tier(RetryTier::S1));
    check(&count, 2, ledger(2.0));
    check(&count, 120, ledger(120.0));
    check(&count, 3_600, ledger(3_600.0));
    check(&count, 86_400, ledger(3_600.0));
    check(&schedule, 59, ledger(60.0));
    check(&schedule, 61, ledger(61.0));

    let throttled = Outcome::Throttled { retry_after: Some(DAY) };
    assert_eq!(next(&count, 3, &throttled), dead(DeadReason::AttemptsExhausted));
    let step = count.next(1, &throttled, Trigger::Event, 0.5, Duration::ZERO);
    assert_eq!(step, tier(RetryTier::S1));
}

#[test]
fn no_policy_outside_its_bounds_can_be_made() {
    let check = |made: Result<RetryPolicy, BadRetryPolicy>, expected: Result<u32, BadRetryPolicy>| {
        assert_eq!(made.map(|policy| policy.attempts_max()), expected);
    };
    check(RetryPolicy::from_count(0), Err(BadRetryPolicy::Count(0)));
    check(RetryPolicy::from_count(1), Ok(1));
    check(RetryPolicy::from_count(20), Ok(20));
    check(RetryPolicy::from_count(21), Err(BadRetryPolicy::Count(21)));
    check(RetryPolicy::from_schedule(vec![]), Err(BadRetryPolicy::Entries(0)));
    check(RetryPolicy::from_schedule(vec![1; 20]), Ok(21));
    check(RetryPolicy::from_schedule(vec![1; 21]), Err(BadRetryPolicy::Entries(21)));
    check(RetryPolicy::from_schedule(vec![5, 0]), Err(BadRetryPolicy::Wait(0)));
    check(RetryPolicy::from_schedule(vec![86_400]), Ok(2));
    check(RetryPolicy::from_schedule(vec![86_401]), Err(BadRetryPolicy::Wait(86_401)));
    check(Ok(RetryPolicy::default()), Ok(3));
    check("patient".parse(), Ok(10));
    check(RetryPolicy::from_schedule(preset("patient").unwrap().to_vec()), Ok(10));
}

#[test]
fn schedules_are_read_and_written_back() {
    let check = |text: &str, expected: Result<(&[u32], &str), BadRetryPolicy>| {
        let read = text.parse::<RetryPolicy>();
        let written = read.as_ref().map(|policy| (policy.schedule().unwrap(), policy.to_string()));
        let expected = expected.map(|(waits, text)| (waits, text.to_owned()));
        assert_eq!(written.map_err(Clone::clone), expected, "{text:?}");
        if let Ok(policy) = &read {
            assert_eq!(policy.to_string().parse().as_ref(), Ok(policy), "{text:?} is not read back");
            assert_eq!(RetryPolicy::from_schedule(policy.schedule().unwrap().to_vec()).as_ref(), Ok(policy));
        }
    };
    check("patient", Ok((&[5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400], "patient")));
    check("5s,5m,2h", Ok((&[5, 300, 7200], "5s,5m,2h")));
    check(" 5s , 90s ", Ok((&[5, 90], "5s,90s")));
    check("1h 30m", Ok((&[5400], "90m")));
    check("1day", Ok((&[86_400], "24h")));
    let unreadable = |word: &str| Err(BadRetryPolicy::Unreadable(word.to_owned()));
    check("", unreadable(""));
    check("5s,,2h", unreadable(""));
    check("5", unreadable("5"));
    check("soon", unreadable("soon"));
    check("-5s", unreadable("-5s"));
    check("500ms", unreadable("500ms"));
    check("0s", Err(BadRetryPolicy::Wait(0)));
    check("25h", Err(BadRetryPolicy::Wait(90_000)));
    check("1000years", Err(BadRetryPolicy::Wait(31_557_600_000)));
    assert_eq!(RetryPolicy::default().schedule(), None);
    assert_eq!(RetryPolicy::default().to_string(), "3 attempts");
}

#[test]
fn tiers_are_named_by_their_seconds_and_each_doubles_the_one_before() {
    for (n, tier) in RetryTier::ALL.into_iter().enumerate() {
        assert_eq!(tier.seconds(), 1 << n);
        assert_eq!(tier.as_str(), format!("{}s", tier.seconds()));
    }
}

#[test]
fn reasons_are_read_back_from_the_ledgers_words() {
    for reason in DeadReason::ALL {
        assert_eq!(DeadReason::of(reason.as_str()), Some(reason));
    }
    assert_eq!(DeadReason::of("ended the worker 3 times"), Some(DeadReason::EndedTheWorker));
    assert_eq!(DeadReason::of("something else"), None);
}

#[test]
fn a_retry_after_the_end_is_given_up() {
    let check = |step: NextStep, end: Option<i64>, expected: NextStep| {
        assert_eq!(
            step.clone().ending(fixtures::at(1_000), end.map(fixtures::at)),
            expected,
            "{step:?} {end:?}"
        );
    };
    check(ledger(60.0), None, ledger(60.0));
    check(ledger(60.0), Some(1_061), ledger(60.0));
    check(ledger(60.0), Some(1_060), ledger(60.0));
    check(ledger(60.0), Some(1_059), dead(DeadReason::TooOld));
    check(tier(RetryTier::S1), Some(1_000), dead(DeadReason::TooOld));
    check(tier(RetryTier::S1), Some(500), dead(DeadReason::TooOld));
    check(NextStep::Done, Some(500), NextStep::Done);
    check(dead(DeadReason::Blocked), Some(500), dead(DeadReason::Blocked));
}
