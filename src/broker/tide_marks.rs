//! Tide marks: numbered messages that show how far a deliveries queue has been emptied.
//!
//! AMQP cannot be asked whether a message is in a queue. But a queue is first in, first out: once a mark has
//! come through, whatever was published before it has come through as well, or was never there.

use bytes::Bytes;

use super::{Destination, Headers, Message, Outgoing, Queue};

/// AMQP's `type` of a tide mark.
pub const KIND: &str = "xtwebhooks.tide-mark.v1";

/// A mark that came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TideMark {
    /// The queue that let it through.
    pub shard: u8,
    /// Its number: microseconds since 1970 by the database's clock.
    pub number: i64,
}

/// The message of a mark, to the deliveries queue of a shard.
#[must_use]
pub fn encode(shard: u8, number: i64) -> Outgoing {
    let mut headers = Headers::default();
    headers.set_i64("shard", shard.into()).set_i64("number", number);
    Outgoing {
        to: Destination::Queue(Queue::Deliveries(shard)),
        message_id: format!("tide-mark.{shard}.{number}"),
        kind: KIND,
        timestamp: None,
        headers,
        body: Bytes::new(),
    }
}

/// The mark of a message; none if the message is something else.
#[must_use]
pub fn decode(message: &Message) -> Option<TideMark> {
    read(message.kind.as_deref(), &message.headers)
}

fn read(kind: Option<&str>, headers: &Headers) -> Option<TideMark> {
    (kind? == KIND).then_some(())?;
    let shard = u8::try_from(headers.get_i64("shard")?).ok()?;
    Some(TideMark { shard, number: headers.get_i64("number")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_a_mark() {
        let mark = encode(3, 1_700_000_000_000_000);
        let check = |kind: Option<&str>, headers: &Headers, expected: Option<TideMark>| {
            assert_eq!(read(kind, headers), expected, "{kind:?} {headers:?}");
        };
        check(Some(KIND), &mark.headers, Some(TideMark { shard: 3, number: 1_700_000_000_000_000 }));
        check(Some("xtwebhooks.job.v1"), &mark.headers, None);
        check(None, &mark.headers, None);
        check(Some(KIND), &Headers::default(), None);
        let mut beyond = mark.headers.clone();
        beyond.set_i64("shard", 256);
        check(Some(KIND), &beyond, None);
    }
}
