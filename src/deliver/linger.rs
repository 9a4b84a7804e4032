//! Whether the recorder waits a moment, so that one commit carries more attempts.
//!
//! A commit costs the database about as much for one attempt as for twenty. At 1,000 attempts a second a commit without
//! waiting carries three or four, and the commits cost more than everything else. At a low rate waiting gains nothing, and
//! in a burst batches fill by themselves; docs/performance.md has the figures.

use std::time::{Duration, Instant};

/// How long the recorder waits for more.
pub(super) const LINGER: Duration = Duration::from_millis(15);
/// A batch of this size is written at once.
const FULL_ENOUGH: usize = 100;
/// How many more attempts must be expected within [`LINGER`].
const GAIN_MIN: f64 = 5.0;
/// How long attempts are counted before their rate is judged.
const WINDOW: Duration = Duration::from_millis(250);

/// The rate at which attempts come.
#[derive(Debug)]
pub(super) struct Linger {
    window_began: Instant,
    recorded: usize,
    per_second: f64,
}

impl Linger {
    pub(super) fn starting(now: Instant) -> Self {
        Self { window_began: now, recorded: 0, per_second: 0.0 }
    }

    /// Whether to wait before a batch of `size` is written.
    pub(super) fn pays(&mut self, size: usize, now: Instant) -> bool {
        let window = now.saturating_duration_since(self.window_began);
        if window >= WINDOW {
            #[expect(clippy::cast_precision_loss, reason = "a count of a quarter of a second")]
            let recorded = self.recorded as f64;
            *self = Self { per_second: recorded / window.as_secs_f64(), ..Self::starting(now) };
        }
        size < FULL_ENOUGH && self.per_second * LINGER.as_secs_f64() >= GAIN_MIN
    }

    /// Counts a batch.
    pub(super) fn recorded(&mut self, size: usize) {
        self.recorded += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_middle_rate_is_worth_waiting_for() {
        let check = |per_second: u32, size: usize, expected: bool| {
            let began = Instant::now();
            let mut linger = Linger::starting(began);
            let mut waits = false;
            for second in 1..=4 {
                linger.recorded(per_second as usize);
                waits = linger.pays(size, began + Duration::from_secs(second));
            }
            assert_eq!(waits, expected, "{per_second}/s, a batch of {size}");
        };
        check(200, 1, false);
        check(400, 1, true);
        check(1_000, 4, true);
        check(1_000, 99, true);
        check(5_000, 100, false);
    }

    #[test]
    fn after_a_pause_nothing_is_waited_for() {
        let began = Instant::now();
        let mut linger = Linger::starting(began);
        linger.recorded(1_000);
        assert!(linger.pays(1, began + Duration::from_secs(1)));
        assert!(!linger.pays(1, began + Duration::from_secs(9)));
    }
}
