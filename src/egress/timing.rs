//! Where the time of a request went.
//!
//! The request fills this one value as it proceeds, so an attempt that is cut off at any point, usually by its timeout,
//! still says how far it came.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicU16, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::model::{AwaitedPhase, Exchange, Outcome, Phases, Response};

/// What is known of a request so far.
#[derive(Debug)]
pub(super) struct Timeline {
    began: Instant,
    /// The phases that are over.
    pub phases: Phases,
    /// The address connected to.
    pub address: Option<SocketAddr>,
    /// The answer as far as it came.
    pub response: Option<Response>,
    /// Whether the request was repeated on a fresh connection.
    pub repeated: bool,
    /// How long the webhook is rate-limited.
    pub rate_limited_for: Option<Duration>,
}

impl Timeline {
    pub fn begin() -> Self {
        let phases = Phases::default();
        Self {
            began: Instant::now(),
            phases,
            address: None,
            response: None,
            repeated: false,
            rate_limited_for: None,
        }
    }

    /// Records the first byte of the answer.
    pub fn first_byte(&mut self, at: Option<Instant>) {
        self.phases.first_byte = at.map(|at| at.saturating_duration_since(self.began));
    }

    /// Ends the request with its outcome.
    pub fn end(mut self, outcome: Outcome) -> Exchange {
        self.phases.total = self.began.elapsed();
        let Self { phases, address, response, repeated, rate_limited_for, .. } = self;
        Exchange { outcome, phases, address, response, repeated, rate_limited_for }
    }
}

/// The end of an attempt's time: one timer for all its steps.
pub(super) struct Deadline<'a> {
    after: Duration,
    sleep: Pin<&'a mut Sleep>,
}

impl<'a> Deadline<'a> {
    pub fn new(after: Duration, sleep: Pin<&'a mut Sleep>) -> Self {
        Self { after, sleep }
    }

    /// Lets a step run until the time is up; the outcome then says what the step waited for.
    pub async fn within<F: Future>(&mut self, waiting: AwaitedPhase, step: F) -> Result<F::Output, Outcome> {
        tokio::select! {
            // The step is polled first: what arrived in time counts, even if the timer has fired since.
            biased;
            done = step => Ok(done),
            () = self.sleep.as_mut() => Err(Outcome::TimedOut { after: self.after, waiting }),
        }
    }
}

/// Notes when the first byte of an answer arrives, and the status it begins with.
///
/// Shared by a connection and the stream beneath it: hyper reads ahead and reports neither.
#[derive(Debug)]
pub(super) struct FirstByteMark {
    origin: Instant,
    /// Nanoseconds since `origin`; 0 while nothing has arrived.
    first_byte: AtomicU64,
    /// 0 where the answer does not begin like HTTP/1.
    status: AtomicU16,
}

impl FirstByteMark {
    pub fn new() -> Self {
        Self { origin: Instant::now(), first_byte: AtomicU64::new(0), status: AtomicU16::new(0) }
    }

    /// Resets it for the next answer.
    pub fn clear(&self) {
        self.status.store(0, Ordering::Relaxed);
        self.first_byte.store(0, Ordering::Relaxed);
    }

    pub fn arrived(&self, bytes: &[u8]) {
        if !bytes.is_empty() && self.first_byte.load(Ordering::Relaxed) == 0 {
            let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.status.store(status(bytes).unwrap_or(0), Ordering::Relaxed);
            self.first_byte.store(nanos.max(1), Ordering::Relaxed);
        }
    }

    /// When the first byte came, if one did.
    pub fn first_byte(&self) -> Option<Instant> {
        match self.first_byte.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(self.origin + Duration::from_nanos(nanos)),
        }
    }

    /// The status that the answer begins with, or 0.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }
}

/// The status of an answer that begins with these bytes.
fn status(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (100..1000).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_from_the_first_bytes() {
        let check = |bytes: &str, expected| assert_eq!(status(bytes.as_bytes()), expected, "{bytes}");
        check("HTTP/1.1 200 OK\r\n", Some(200));
        check("HTTP/1.0 503", Some(503));
        check("HTTP/1.1 20", None);
        check("HTTP/1.1 +20 OK", None);
        check("HTTP/2 200", None);
        check("SSH-2.0-OpenSSH", None);
        check("", None);
    }

    #[test]
    fn only_the_first_byte_is_marked_until_the_mark_is_cleared() {
        let mark = FirstByteMark::new();
        mark.arrived(b"");
        assert_eq!(mark.first_byte(), None);
        mark.arrived(b"HTTP/1.1 201 Created");
        let first = mark.first_byte();
        assert!(first.is_some());
        mark.arrived(b"HTTP/1.1 500 later");
        assert_eq!((mark.first_byte(), mark.status()), (first, 201));
        mark.clear();
        assert_eq!((mark.first_byte(), mark.status()), (None, 0));
    }
}
