//! The share of a worker's own attempts that fail: it opens the breaker of a receiver that fails often, but never five
//! times in a row.
//!
//! A webhook is watched from its first failure, and forgotten when it has not failed for a minute or when it has
//! changed (its breaker or its settings), because earlier attempts then say nothing about later ones. So what is kept
//! is bounded by the webhooks that failed lately, and by [`WATCHED_MAX`].

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use crate::model::id::WebhookId;

/// Fewer attempts than this do not count as a share.
pub const SHARE_ATTEMPTS_MIN: u32 = 20;
/// How far back attempts count.
pub const SHARE_WINDOW: Duration = Duration::from_mins(1);
/// The most webhooks watched at once. Others that fail are not watched: failures in a row still open their breakers.
pub const WATCHED_MAX: usize = 10_000;

/// Parts of the window: it moves on by one at a time.
const PARTS: usize = 12;
const PART: Duration = Duration::from_secs(SHARE_WINDOW.as_secs() / PARTS as u64);

/// How many of how many attempts failed within [`SHARE_WINDOW`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Attempts that failed and count.
    pub failed: u32,
    /// All attempts.
    pub attempts: u32,
}

impl Share {
    /// Whether it opens a breaker: at least half of at least [`SHARE_ATTEMPTS_MIN`].
    #[must_use]
    pub const fn asks_to_open(self) -> bool {
        self.attempts >= SHARE_ATTEMPTS_MIN && self.failed >= self.attempts.div_ceil(2)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} attempts within a minute failed", self.failed, self.attempts)
    }
}

/// The shares of one worker.
#[derive(Debug)]
pub struct FailureRatios {
    began: Instant,
    swept: u64,
    watched: HashMap<WebhookId, Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    /// The state of the webhook that its attempts were made in.
    version: u64,
    /// The part of time that was counted in last, and that of the last failure.
    latest: u64,
    failed_in: u64,
    parts: [Share; PARTS],
}

impl FailureRatios {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { began: now, swept: 0, watched: HashMap::new() }
    }

    /// Records an attempt. Returns the share if this one is a failure and the breaker should open. `version` grows with
    /// each change of the webhook or its breaker: attempts of an older one no longer count.
    pub fn note(&mut self, webhook: WebhookId, version: u64, fails: bool, now: Instant) -> Option<Share> {
        let part = self.part(now);
        if part > self.swept {
            self.swept = part;
            self.watched.retain(|_, watched| watched.failed_in + PARTS as u64 > part);
        }
        if self.watched.get(&webhook).is_some_and(|watched| watched.version < version) {
            self.watched.remove(&webhook);
        }
        if fails && self.watched.len() < WATCHED_MAX {
            let fresh = || Watched { version, latest: part, ..Watched::default() };
            self.watched.entry(webhook).or_insert_with(fresh);
        }
        let watched = self.watched.get_mut(&webhook).filter(|watched| watched.version == version)?;
        watched.count(part, fails);
        Some(watched.share()).filter(|share| fails && share.asks_to_open())
    }

    /// Starts again with a webhook whose breaker this worker has changed, before that comes back as a new version.
    pub fn forget(&mut self, webhook: WebhookId) {
        self.watched.remove(&webhook);
    }

    /// The number of the part of time that `now` is in.
    fn part(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / PART.as_secs()
    }
}

impl Watched {
    fn count(&mut self, part: u64, fails: bool) {
        let part = part.max(self.latest);
        // The parts between were empty; more than all parts need not be cleared.
        for past in (self.latest + 1..=part).rev().take(PARTS) {
            self.parts[place(past)] = Share::default();
        }
        self.latest = part;
        let here = &mut self.parts[place(part)];
        here.attempts = here.attempts.saturating_add(1);
        if fails {
            here.failed = here.failed.saturating_add(1);
            self.failed_in = part;
        }
    }

    fn share(&self) -> Share {
        self.parts.iter().fold(Share::default(), |sum, part| Share {
            failed: sum.failed.saturating_add(part.failed),
            attempts: sum.attempts.saturating_add(part.attempts),
        })
    }
}

fn place(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn webhook(n: u128) -> WebhookId {
        WebhookId(Uuid::from_u128(n))
    }

    #[test]
    fn half_of_twenty_within_a_minute_ask_to_open() {
        let check = |outcomes: &str, gap: Duration, expected: Option<(usize, Share)>| {
            let now = Instant::now();
            let mut shares = FailureRatios::new(now);
            let found = outcomes.chars().zip(0_u32..).find_map(|(outcome, n)| {
                let share = shares.note(webhook(1), 0, outcome == 'f', now + gap * n)?;
                Some((n as usize, share))
            });
            assert_eq!(found, expected, "{outcomes} each {gap:?}");
        };
        let second = Duration::from_secs(1);
        check(&"fs".repeat(40), second, Some((20, Share { failed: 11, attempts: 21 })));
        check(&"ffs".repeat(40), second, Some((19, Share { failed: 14, attempts: 20 })));
        check(&"fss".repeat(40), second, None);
        // Slower than twenty a minute there is no share.
        check(&"f".repeat(40), second * 4, None);
        // What was before the first failure is not known.
        check(
            &format!("{}{}", "s".repeat(200), "fs".repeat(20)),
            second / 10,
            Some((220, Share { failed: 11, attempts: 21 })),
        );
        check(&"s".repeat(200), second, None);
    }

    #[test]
    fn what_was_before_a_change_of_the_webhook_says_nothing_of_what_comes() {
        let now = Instant::now();
        let mut shares = FailureRatios::new(now);
        let mut fail = |version, times: u32| {
            let found = (0..times).filter_map(|_| shares.note(webhook(1), version, true, now));
            found.last().map(|share| share.failed)
        };
        assert_eq!(fail(0, 30), Some(30));
        // Another worker closed the breaker.
        assert_eq!(fail(1, 19), None);
        // What was under way before that does not count.
        assert_eq!(fail(0, 30), None);
        assert_eq!(fail(1, 1), Some(20));
    }

    #[test]
    fn who_has_not_failed_for_a_minute_is_forgotten_and_no_more_are_watched_than_may_be() {
        let now = Instant::now();
        let mut shares = FailureRatios::new(now);
        for n in 0..WATCHED_MAX as u128 + 100 {
            shares.note(webhook(n), 0, true, now);
            shares.note(webhook(n + 1_000_000), 0, false, now);
        }
        assert_eq!(shares.watched.len(), WATCHED_MAX, "those that never failed are not watched");
        shares.note(webhook(3), 0, true, now + SHARE_WINDOW / 2);
        shares.note(webhook(4), 0, false, now + SHARE_WINDOW / 2);
        shares.note(webhook(5), 0, false, now + SHARE_WINDOW);
        assert_eq!(shares.watched.len(), 1);
        shares.forget(webhook(3));
        assert_eq!(shares.watched.len(), 0);
    }

    proptest! {
        #[test]
        fn the_share_is_that_of_the_last_minute(steps in prop::collection::vec((0_u64..30, any::<bool>()), 1..200)) {
            let began = Instant::now();
            let mut shares = FailureRatios::new(began);
            let (mut clock, mut parts): (u64, Vec<(u64, bool)>) = (0, Vec::new());
            for (gap, fails) in steps {
                // Mostly dense, so that there are shares.
                clock += gap / 10;
                let found = shares.note(webhook(1), 0, fails, began + Duration::from_secs(clock));
                let now = clock / PART.as_secs();
                let failed_lately = |parts: &[(u64, bool)]| parts.iter().any(|(part, fails)| *fails && part + 12 > now);
                if !failed_lately(&parts) {
                    parts.clear();
                }
                if fails || !parts.is_empty() {
                    parts.push((now, fails));
                }
                let within = || parts.iter().filter(|(part, _)| part + 12 > now);
                let share = Share {
                    failed: within().map(|(_, fails)| u32::from(*fails)).sum(),
                    attempts: within().map(|_| 1).sum(),
                };
                prop_assert_eq!(found, (fails && share.asks_to_open()).then_some(share));
            }
        }
    }
}
