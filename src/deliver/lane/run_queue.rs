//! The run queue: lanes that have something to start, a turn for each company, then for each of its lanes.
//!
//! A company with a thousand webhooks gets as many turns as one with a single webhook while both have something to start.

use std::collections::{HashMap, VecDeque};

use crate::model::{CompanyId, WebhookId};

#[derive(Debug, Default)]
pub(super) struct RunQueue {
    /// Each company with a lane in the queue, once, in the order of their turns.
    companies: VecDeque<CompanyId>,
    lanes: HashMap<CompanyId, VecDeque<WebhookId>>,
}

impl RunQueue {
    /// Puts a lane behind the others of its company.
    pub(super) fn push(&mut self, company: CompanyId, webhook: WebhookId) {
        let lanes = self.lanes.entry(company).or_insert_with(|| {
            self.companies.push_back(company);
            VecDeque::new()
        });
        lanes.push_back(webhook);
    }

    /// The first lane of the company whose turn it is.
    pub(super) fn pop(&mut self) -> Option<WebhookId> {
        let company = self.companies.pop_front()?;
        let lanes = self.lanes.get_mut(&company)?;
        let webhook = lanes.pop_front();
        if lanes.is_empty() {
            self.lanes.remove(&company);
        } else {
            self.companies.push_back(company);
        }
        webhook
    }

    pub(super) fn is_empty(&self) -> bool {
        self.companies.is_empty()
    }

    /// Drops the lanes that do not stay.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&WebhookId) -> bool) {
        for lanes in self.lanes.values_mut() {
            lanes.retain(&mut stays);
        }
        self.lanes.retain(|_, lanes| !lanes.is_empty());
        let lanes = &self.lanes;
        self.companies.retain(|company| lanes.contains_key(company));
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn companies_take_turns_and_then_their_lanes() {
        let company = |n| CompanyId(Uuid::from_u128(n));
        let lane = |n| WebhookId(Uuid::from_u128(n));
        let mut queue = RunQueue::default();
        for n in [10, 11, 12, 13] {
            queue.push(company(1), lane(n));
        }
        queue.push(company(2), lane(20));
        queue.push(company(3), lane(30));
        queue.push(company(3), lane(31));
        queue.retain(|webhook| *webhook != lane(12));
        let turns: Vec<WebhookId> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(turns, [10, 20, 30, 11, 31, 13].map(lane));
        assert!(queue.is_empty() && queue.lanes.is_empty());
    }
}
