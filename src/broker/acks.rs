//! Acknowledges messages in as few frames as possible without delaying any of them.
//!
//! A task for each channel collects what is settled. The highest tag with nothing unsettled below it goes out with
//! `multiple`. A tag that has waited longer than [`ACK_BEHIND`] behind an unsettled one goes out singly; otherwise one
//! silent receiver at the lowest tag would fill the prefetch with finished jobs. Rejections go out singly and at once.
//! The task ends with its channel. What receipts report after that is ignored, and the broker redelivers those
//! messages.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicRejectOptions},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::connection::Session;

/// How long a finished message waits behind an open one before it is acknowledged singly. Longer than two commits of the
/// recorder are apart when it waits for more: otherwise each message that missed the first one would have those behind it
/// acknowledged singly.
pub const ACK_BEHIND: Duration = Duration::from_millis(40);

/// How many settlements are handled at once.
const SETTLED_BATCH_MAX: usize = 1024;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Processed.
    Ack(u64),
    /// To be dead-lettered.
    Reject(u64),
}

/// Where receipts send their settlement. Unbounded, but never longer than what is held, which the prefetch bounds.
pub(super) type Settle = mpsc::UnboundedSender<Settled>;

/// Starts to acknowledge on a channel, until its last receipt is gone.
pub(super) fn start(
    channel: Channel,
    session: Arc<Session>,
) -> (Settle, impl Future<Output = ()> + Send + 'static) {
    let (settle, settled) = mpsc::unbounded_channel();
    (settle, run(channel, session, settled))
}

async fn run(channel: Channel, session: Arc<Session>, mut settled: mpsc::UnboundedReceiver<Settled>) {
    let mut tracker = Tracker::default();
    let mut batch = Vec::with_capacity(SETTLED_BATCH_MAX);
    loop {
        let due = tracker.due();
        let mut ended = false;
        tokio::select! {
            taken = settled.recv_many(&mut batch, SETTLED_BATCH_MAX) => {
                let now = Instant::now();
                batch.drain(..).for_each(|settled| tracker.note(settled, now));
                ended = taken == 0;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = session.over.cancelled() => return,
        }
        if ended {
            tracker.hurry();
        }
        if let Err(error) = send(&channel, tracker.take(Instant::now())).await {
            tracing::debug!(%error, "the channel closed before its acknowledgements were sent; its messages will be redelivered");
            return;
        }
        if ended {
            return;
        }
    }
}

/// What goes out to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    Ack { tag: u64, multiple: bool },
    Reject { tag: u64 },
}

async fn send(channel: &Channel, frames: Vec<Frame>) -> lapin::Result<()> {
    let sent = frames.into_iter().map(|frame| async move {
        match frame {
            Frame::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
            Frame::Reject { tag } => channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await,
        }
    });
    join_all(sent).await.into_iter().collect()
}

/// Which tags are finished. Tags count from 1 on each channel and are handed out in order.
#[derive(Debug)]
struct Tracker {
    /// The lowest tag that is not settled.
    open: u64,
    /// Tags above it: true while the acknowledgement is still to be sent.
    finished: BTreeMap<u64, bool>,
    /// Finished tags with the instant at which they are due singly, in that order.
    behind: VecDeque<(Instant, u64)>,
    rejected: Vec<u64>,
}

impl Default for Tracker {
    fn default() -> Self {
        Self { open: 1, finished: BTreeMap::new(), behind: VecDeque::new(), rejected: Vec::new() }
    }
}

impl Tracker {
    fn note(&mut self, settled: Settled, now: Instant) {
        match settled {
            Settled::Ack(tag) => {
                self.finished.insert(tag, true);
                self.behind.push_back((now + ACK_BEHIND, tag));
            }
            Settled::Reject(tag) => {
                self.finished.insert(tag, false);
                self.rejected.push(tag);
            }
        }
    }

    /// When the next tag is due singly.
    fn due(&mut self) -> Option<Instant> {
        while let Some((due, tag)) = self.behind.front() {
            if self.finished.get(tag) == Some(&true) {
                return Some(*due);
            }
            self.behind.pop_front();
        }
        None
    }

    /// Makes everything due now: no lower tag will be settled.
    fn hurry(&mut self) {
        self.behind.iter_mut().for_each(|(due, _)| *due = Instant::now());
    }

    fn take(&mut self, now: Instant) -> Vec<Frame> {
        let mut frames: Vec<_> = self.rejected.drain(..).map(|tag| Frame::Reject { tag }).collect();
        frames.extend(self.contiguous());
        while let Some(due) = self.due().filter(|due| *due <= now) {
            let Some((_, tag)) = self.behind.pop_front() else { break };
            debug_assert!(due <= now);
            self.finished.insert(tag, false);
            frames.push(Frame::Ack { tag, multiple: false });
        }
        frames
    }

    /// One frame for everything settled without a gap. Its tag must not have been acknowledged yet: RabbitMQ closes the
    /// channel at a tag that it no longer knows, `multiple` or not.
    fn contiguous(&mut self) -> Option<Frame> {
        let (mut highest, mut count) = (None, 0);
        while let Some(unsent) = self.finished.remove(&self.open) {
            if unsent {
                highest = Some(self.open);
                count += 1;
            }
            self.open += 1;
        }
        highest.map(|tag| Frame::Ack { tag, multiple: count > 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn one(tag: u64) -> Frame {
        Frame::Ack { tag, multiple: false }
    }

    const fn up_to(tag: u64) -> Frame {
        Frame::Ack { tag, multiple: true }
    }

    const fn reject(tag: u64) -> Frame {
        Frame::Reject { tag }
    }

    /// Notes what is settled at each millisecond, and compares what goes out at it.
    fn check(steps: &[(u64, &[Settled], &[Frame])]) {
        let (mut tracker, start) = (Tracker::default(), Instant::now());
        for (ms, settled, expected) in steps {
            let now = start + Duration::from_millis(*ms);
            settled.iter().for_each(|settled| tracker.note(*settled, now));
            assert_eq!(tracker.take(now), *expected, "at {ms} ms of {steps:?}");
        }
    }

    #[test]
    fn what_is_finished_without_a_gap_goes_out_with_one_frame() {
        use Settled::Ack;
        check(&[(0, &[Ack(1)], &[one(1)])]);
        check(&[(0, &[Ack(3), Ack(1), Ack(2)], &[up_to(3)]), (0, &[Ack(4)], &[one(4)]), (50, &[], &[])]);
    }

    #[test]
    fn what_waits_behind_an_open_tag_goes_out_singly_after_its_time() {
        use Settled::Ack;
        check(&[
            (0, &[Ack(2), Ack(3)], &[]),
            (10, &[Ack(5)], &[]),
            (39, &[], &[]),
            (40, &[], &[one(2), one(3)]),
            (50, &[], &[one(5)]),
            // Tag 5 is acknowledged already, so the frame may not name it.
            (60, &[Ack(1), Ack(4)], &[up_to(4)]),
            (61, &[Ack(6)], &[one(6)]),
        ]);
    }

    #[test]
    fn a_gap_that_closes_in_time_costs_no_single_frames() {
        use Settled::Ack;
        check(&[(0, &[Ack(2), Ack(3)], &[]), (5, &[Ack(1)], &[up_to(3)]), (100, &[], &[])]);
    }

    #[test]
    fn rejections_go_out_singly_and_leave_no_gap() {
        use Settled::{Ack, Reject};
        check(&[
            (0, &[Reject(2)], &[reject(2)]),
            (1, &[Ack(1), Ack(3)], &[up_to(3)]),
            (2, &[Reject(4)], &[reject(4)]),
            (3, &[Ack(5), Reject(6)], &[reject(6), one(5)]),
            (60, &[], &[]),
        ]);
    }

    #[test]
    fn when_no_lower_tag_will_finish_nothing_waits() {
        let mut tracker = Tracker::default();
        tracker.note(Settled::Ack(2), Instant::now());
        tracker.hurry();
        assert_eq!(tracker.take(Instant::now()), [one(2)]);
        assert_eq!(tracker.due(), None);
    }
}
