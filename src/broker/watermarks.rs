//! Watermarks: numbered messages that show how far a deliveries queue has been consumed.
//!
//! AMQP cannot be asked whether a message is in a queue. But a queue is first in, first out: once a watermark has
//! passed, everything published before it has passed as well, or was never there. A job is in one of two queues, the
//! ordinary queue of its shard or the prompt one, so each has its own watermarks.

use bytes::Bytes;

use super::{Destination, Headers, Message, Outgoing, Queue};
use crate::model::id::BUCKETS;

/// AMQP's `type` of a watermark.
pub const KIND: &str = "xtwebhooks.tide-mark.v1";

/// A watermark that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The queue that it passed: the shard of an ordinary one, and 64 more for a prompt one.
    pub shard: u8,
    /// Its number: microseconds since 1970 by the database's clock.
    pub number: i64,
}

/// The queues that watermarks go into, as watermarks name them: a delivery's job may be in any of them. Numbers of
/// shards stay below the number of buckets.
pub fn shards(delivery_shards: u8) -> impl Iterator<Item = u8> {
    (0..delivery_shards).chain((0..delivery_shards).map(|shard| BUCKETS + shard))
}

/// The message of a watermark, to the queue of a shard as [`shards`] names it.
#[must_use]
pub fn encode(shard: u8, number: i64) -> Outgoing {
    let mut headers = Headers::default();
    headers.set_i64("shard", shard.into()).set_i64("number", number);
    let queue = match shard.checked_sub(BUCKETS) {
        Some(prompt) => Queue::Prompt(prompt),
        None => Queue::Deliveries(shard),
    };
    Outgoing {
        to: Destination::Queue(queue),
        message_id: format!("tide-mark.{shard}.{number}"),
        kind: KIND,
        timestamp: None,
        headers,
        body: Bytes::new(),
    }
}

/// The watermark of a message; `None` if the message is something else.
#[must_use]
pub fn decode(message: &Message) -> Option<Watermark> {
    read(message.kind.as_deref(), &message.headers)
}

fn read(kind: Option<&str>, headers: &Headers) -> Option<Watermark> {
    (kind? == KIND).then_some(())?;
    let shard = u8::try_from(headers.get_i64("shard")?).ok()?;
    Some(Watermark { shard, number: headers.get_i64("number")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_that_a_job_may_be_in_has_a_mark_of_its_own() {
        let queues: Vec<_> = shards(2).map(|shard| encode(shard, 7).to).collect();
        let expected = [Queue::Deliveries(0), Queue::Deliveries(1), Queue::Prompt(0), Queue::Prompt(1)];
        assert_eq!(queues, expected.map(Destination::Queue));
        assert_eq!(shards(BUCKETS).collect::<std::collections::BTreeSet<_>>().len(), 128);
    }

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_a_mark() {
        let mark = encode(3, 1_700_000_000_000_000);
        let check = |kind: Option<&str>, headers: &Headers, expected: Option<Watermark>| {
            assert_eq!(read(kind, headers), expected, "{kind:?} {headers:?}");
        };
        check(Some(KIND), &mark.headers, Some(Watermark { shard: 3, number: 1_700_000_000_000_000 }));
        check(Some("xtwebhooks.job.v1"), &mark.headers, None);
        check(None, &mark.headers, None);
        check(Some(KIND), &Headers::default(), None);
        let mut beyond = mark.headers.clone();
        beyond.set_i64("shard", 256);
        check(Some(KIND), &beyond, None);
    }
}
