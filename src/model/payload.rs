//! What a delivery carries to its receiver, before a request is rendered from it.

use bytes::Bytes;

use super::event::Event;

/// What a job, the ledger or a dead letter holds of an event. [`super::request`] renders the request from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The event as it was published. Its type and its company travel separately.
    Event {
        /// The published JSON value, byte for byte.
        data: Bytes,
        /// The event's time in whole seconds since 1970, as it is sent.
        timestamp: i64,
    },
    /// A body that was rendered earlier: by the publisher of a job of version 1, or in a dead letter of release 0.3.0 and
    /// before. It is posted byte for byte.
    Rendered(Bytes),
}

impl Payload {
    /// Takes `data` out of an event that no longer needs it, without a copy.
    #[must_use]
    pub fn take(event: &mut Event) -> Self {
        Self::Event { data: std::mem::take(&mut event.data).into(), timestamp: event.timestamp }
    }

    /// From the columns of a row: the rendered body if there is one, else `data` with its time. `None` if the row has
    /// neither.
    #[must_use]
    pub fn of_columns(body: Option<Vec<u8>>, data: Option<String>, timestamp: Option<i64>) -> Option<Self> {
        match (body, data, timestamp) {
            (Some(body), _, _) => Some(Self::Rendered(body.into())),
            (None, Some(data), Some(timestamp)) => Some(Self::Event { data: data.into(), timestamp }),
            _ => None,
        }
    }

    /// How many bytes it holds.
    #[must_use]
    pub const fn size(&self) -> usize {
        match self {
            Self::Event { data, .. } => data.len(),
            Self::Rendered(body) => body.len(),
        }
    }
}
