//! Which webhooks a round visits. Pure; instants are arguments.
//!
//! A webhook is visited while something of it is due. One that only waits, for a retry of tomorrow or for the end of a
//! pause, is not: however many of those there are, they take no time from the others. A lane that can start nothing is
//! visited again after a while, the later the more such lanes there are.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use sqlx::types::Uuid;

use crate::model::WebhookId;

/// Webhooks visited in one round; the next round continues after them.
pub const VISITS_MAX: usize = 500;
/// How many lanes that can start nothing are visited a second.
pub const SHUT_VISITS_PER_SECOND: f64 = 1_000.0;
/// How soon such a lane is visited again at the earliest.
const SHUT_VISITED_AFTER: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Visits {
    /// With something due.
    ready: BTreeSet<WebhookId>,
    /// With something due that cannot start now, and when they are visited again.
    shut: HashMap<WebhookId, Instant>,
    /// When the first of them is.
    next_shut: Option<Instant>,
    /// Where the next round continues.
    after: Option<WebhookId>,
}

impl Visits {
    /// Something of these is due, or may be.
    pub(super) fn add(&mut self, webhooks: impl IntoIterator<Item = WebhookId>) {
        let shut = &self.shut;
        self.ready.extend(webhooks.into_iter().filter(|webhook| !shut.contains_key(webhook)));
    }

    /// The next webhooks to visit.
    pub(super) fn page(&mut self, now: Instant) -> Vec<WebhookId> {
        if self.next_shut.is_some_and(|next| next <= now) {
            let ready = &mut self.ready;
            self.shut.retain(|webhook, next| *next > now || !ready.insert(*webhook));
            self.next_shut = self.shut.values().min().copied();
        }
        let after = self.after.unwrap_or(WebhookId(Uuid::nil()));
        let page: Vec<WebhookId> = (self.ready.range(after..).filter(|webhook| **webhook != after))
            .chain(self.ready.range(..=after))
            .take(VISITS_MAX)
            .copied()
            .collect();
        self.after = page.last().copied();
        page
    }

    /// Whether there are more than one round visits.
    pub(super) fn has_more(&self) -> bool {
        self.ready.len() > VISITS_MAX
    }

    /// Nothing more of a webhook is due.
    pub(super) fn done(&mut self, webhook: WebhookId) {
        self.ready.remove(&webhook);
    }

    /// What is due of a webhook cannot start now.
    pub(super) fn shut(&mut self, webhook: WebhookId, now: Instant) {
        self.ready.remove(&webhook);
        #[expect(clippy::cast_precision_loss, reason = "a count of lanes")]
        let turn = Duration::from_secs_f64(self.shut.len() as f64 / SHUT_VISITS_PER_SECOND);
        let next = now + turn.max(SHUT_VISITED_AFTER);
        self.shut.insert(webhook, next);
        self.next_shut = Some(self.next_shut.map_or(next, |first| first.min(next)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u128>) -> impl Iterator<Item = WebhookId> {
        range.map(|id| WebhookId(Uuid::from_u128(id)))
    }

    #[test]
    fn all_that_are_due_get_their_turn() {
        let (mut visits, now) = (Visits::default(), Instant::now());
        visits.add(ids(1..1_201));
        assert!(visits.has_more());
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.extend(visits.page(now));
        }
        assert_eq!(seen[..1_200], ids(1..1_201).collect::<Vec<_>>());
        assert_eq!(seen[1_200..], ids(1..301).collect::<Vec<_>>(), "the third page is full again");
        for webhook in ids(2..1_201) {
            visits.done(webhook);
        }
        assert!(!visits.has_more());
        assert_eq!(visits.page(now), [WebhookId(Uuid::from_u128(1))]);
        assert_eq!(visits.page(now), [WebhookId(Uuid::from_u128(1))]);
    }

    #[test]
    fn the_more_lanes_are_shut_the_later_they_are_visited() {
        let (mut visits, now) = (Visits::default(), Instant::now());
        visits.add(ids(1..2));
        visits.shut(WebhookId(Uuid::from_u128(1)), now);
        visits.add(ids(1..2));
        assert!(visits.page(now).is_empty(), "what comes due for a shut lane does not bring it back");
        assert_eq!(visits.page(now + SHUT_VISITED_AFTER).len(), 1);

        for webhook in ids(1..10_001) {
            visits.shut(webhook, now);
        }
        assert!(visits.page(now + SHUT_VISITED_AFTER).len() <= VISITS_MAX);
        let of_a_second = visits.shut.values().filter(|next| **next <= now + Duration::from_secs(5)).count();
        assert!((4_000..=5_500).contains(&of_a_second), "{of_a_second}");
    }
}
