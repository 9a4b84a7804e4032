//! A walk along one index, step by step, until a page is full, given up, or nothing is left.

use super::{LOOK_BEGINS, LOOK_MAX, LOOKED_AT_MAX};

/// How far a walk has come, and what it has found.
#[derive(Debug)]
pub(in crate::store) struct Scan<K> {
    /// Everything from here on has been read.
    pub before: Option<K>,
    /// The most rows that the next step reads.
    pub each: i64,
    /// Rows of the page.
    rows: i64,
    found: Vec<K>,
    looked_at: i64,
}

/// A page of keys.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct ScanRange<K> {
    /// Newest first.
    pub keys: Vec<K>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<K>,
}

impl<K: Copy> Scan<K> {
    /// Starts after `before`, or at the newest. Without a filter every row that is read matches.
    pub(in crate::store) fn new(before: Option<K>, rows: i64, is_filtered: bool) -> Self {
        let each = if is_filtered { LOOK_BEGINS } else { rows + 1 };
        Self { before, each, rows, found: Vec::new(), looked_at: 0 }
    }

    /// Rows that the next step should find: one more than the page shows whether there is another.
    pub(in crate::store) fn missing(&self) -> i64 {
        self.rows + 1 - i64::try_from(self.found.len()).unwrap_or(self.rows)
    }

    /// Adds what a step found, and the last row it came to; returns the page if that ends it.
    pub(in crate::store) fn take(
        &mut self,
        found: impl IntoIterator<Item = K>,
        edge: Option<K>,
        looked_at: i64,
    ) -> Option<ScanRange<K>> {
        self.found.extend(found);
        let is_full = self.missing() <= 0;
        self.found.truncate(usize::try_from(self.rows).unwrap_or(0));
        let next = if is_full {
            self.found.last().copied()
        } else if looked_at < self.each {
            None
        } else {
            (self.before, self.looked_at) = (edge, self.looked_at + looked_at);
            self.each = (self.each * 4).min(LOOK_MAX);
            if self.looked_at < LOOKED_AT_MAX {
                return None;
            }
            edge
        };
        Some(ScanRange { keys: std::mem::take(&mut self.found), next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks down `0..rows`, of which those match that `matches` accepts, page by page; gives pages and steps.
    fn walk(
        stored: i64,
        rows: i64,
        is_filtered: bool,
        matches: impl Fn(&i64) -> bool,
    ) -> (Vec<Vec<i64>>, usize) {
        let (mut pages, mut looked, mut before) = (Vec::new(), 0, None);
        loop {
            let mut scan = Scan::new(before, rows, is_filtered);
            let page = loop {
                let high = scan.before.unwrap_or(stored);
                let rows_read: Vec<i64> = ((high - scan.each).max(0)..high).rev().collect();
                let missing = usize::try_from(scan.missing()).unwrap();
                let found: Vec<i64> = rows_read.iter().copied().filter(&matches).take(missing).collect();
                looked += 1;
                let looked_at = i64::try_from(rows_read.len()).unwrap();
                if let Some(page) = scan.take(found, rows_read.last().copied(), looked_at) {
                    break page;
                }
            };
            pages.push(page.keys);
            before = page.next;
            if before.is_none() {
                return (pages, looked);
            }
        }
    }

    #[test]
    fn without_a_filter_each_page_is_one_step_and_every_row_is_shown_once() {
        let (pages, steps) = walk(25, 10, false, |_| true);
        assert_eq!(pages.concat(), (0..25).rev().collect::<Vec<_>>());
        assert_eq!((pages.len(), steps), (3, 3));
        assert_eq!(walk(20, 10, false, |_| true).0.len(), 2, "no page is empty at the end");
        assert_eq!(walk(0, 10, false, |_| true).0, [[0_i64; 0]]);
    }

    #[test]
    fn what_is_rare_is_found_and_shown_once_however_many_pages_are_given_up_before() {
        let (pages, _) = walk(100_000, 2, true, |row| row % 30_000 == 7);
        assert_eq!(pages.concat(), [90_007, 60_007, 30_007, 7]);
        assert!(pages.iter().any(Vec::is_empty), "{pages:?}");
        let (pages, steps) = walk(100_000, 50, true, |_| false);
        assert!(pages.len() <= 5 && steps <= 25, "{} pages, {steps} steps", pages.len());
    }
}
