//! Identifiers: 128 bits, ordered by time, and derived from what they name.
//!
//! Every id of the pipeline is a `UUIDv8` (RFC 9562, section 5.8): 48 bits of milliseconds since 1970, then
//! bits of a SHA-256 over what the id stands for. Computing the id of the same fact again gives the same id, so
//! the primary key deduplicates, fan-out is idempotent, a partition is found from the id alone, and an index
//! grows at its end.

use std::{fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The bare UUID, as the ledger binds it.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

id! {
    /// The tenant. XTSystems makes it; nothing here ever crosses from one to another.
    CompanyId
}
id! {
    /// A registered URL of a company.
    WebhookId
}
id! {
    /// A fact, ingested once. Receivers see it as `webhook-id`.
    EventId
}
id! {
    /// One event on its way to one webhook.
    DeliveryId
}
id! {
    /// A replay, a resume or a discard.
    ReplayId
}

impl EventId {
    /// The id of the event that `company` published at `time` under `message_id`.
    #[must_use]
    pub fn derive(time: DateTime<Utc>, company: CompanyId, message_id: &str) -> Self {
        Self(derive(millis(time), &[b"event", company.0.as_bytes(), message_id.as_bytes()]))
    }

    /// The instant at which the id is placed, to the millisecond: the event's own time or that of intake.
    #[must_use]
    pub fn time(self) -> DateTime<Utc> {
        time_of(self.0)
    }
}

impl ReplayId {
    /// The id of the recovery after an outage: closing twice starts it once.
    #[must_use]
    pub fn of_recovery(webhook: WebhookId, opened: DateTime<Utc>) -> Self {
        let opened_us = opened.timestamp_micros().to_be_bytes();
        Self(derive(millis(opened), &[b"recovery", webhook.0.as_bytes(), &opened_us]))
    }
}

impl DeliveryId {
    /// The id of the one delivery of an event to a webhook. It has its event's time.
    #[must_use]
    pub fn derive(event: EventId, webhook: WebhookId) -> Self {
        Self(derive(millis_of(event.0), &[b"delivery", event.0.as_bytes(), webhook.0.as_bytes()]))
    }

    /// The id of the delivery that a replay, placed at its start, makes of an event for a webhook.
    #[must_use]
    pub fn of_replay(replay: ReplayId, started: DateTime<Utc>, event: EventId, webhook: WebhookId) -> Self {
        let parts: [&[u8]; 4] = [b"replay", replay.0.as_bytes(), event.0.as_bytes(), webhook.0.as_bytes()];
        Self(derive(millis(started), &parts))
    }

    /// The instant at which the id is placed, to the millisecond.
    #[must_use]
    pub fn time(self) -> DateTime<Utc> {
        time_of(self.0)
    }
}

/// How many buckets the deliveries exchange distributes over, and so the most shards there can be.
pub const BUCKETS: u8 = 64;

/// The bucket of an id: the routing key of its job, for any number of shards.
#[must_use]
pub fn bucket(id: Uuid) -> u8 {
    // The last byte is hash, never time, so that neighbours in time are spread.
    id.as_bytes()[15] % BUCKETS
}

/// The least id of a day, as the partitions are bounded.
#[must_use]
pub fn first_of_day(day: NaiveDate) -> Uuid {
    first_at(day.and_time(chrono::NaiveTime::MIN).and_utc())
}

/// The least id of a millisecond: the version nibble makes every real id greater.
#[must_use]
pub fn first_at(time: DateTime<Utc>) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis(time).to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

/// The instant an id of this scheme is placed at.
#[must_use]
pub fn time_of(id: Uuid) -> DateTime<Utc> {
    let millis = i64::try_from(millis_of(id)).unwrap_or(i64::MAX);
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn derive(millis: u64, parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths precede the parts; otherwise `ab` + `c` and `a` + `bc` would give the same id.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&digest[..10]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn millis(time: DateTime<Utc>) -> u64 {
    u64::try_from(time.timestamp_millis()).unwrap_or(0)
}

fn millis_of(id: Uuid) -> u64 {
    let b = id.as_bytes();
    u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn company() -> CompanyId {
        CompanyId(Uuid::from_u128(7))
    }

    proptest! {
        #[test]
        fn an_id_keeps_its_time_and_its_version(ms in 0_i64..4_102_444_800_000, message in ".{0,64}") {
            let time = DateTime::from_timestamp_millis(ms).unwrap();
            let id = EventId::derive(time, company(), &message);
            prop_assert_eq!(id.time(), time);
            prop_assert_eq!(id.0.get_version_num(), 8);
            prop_assert_eq!(id, EventId::derive(time, company(), &message));
            prop_assert!(bucket(id.0) < BUCKETS);
            prop_assert!(id.0 > first_of_day(time.date_naive()));
            prop_assert!(id.0 < first_of_day(time.date_naive().succ_opt().unwrap()));
            let delivery = DeliveryId::derive(id, WebhookId(Uuid::from_u128(9)));
            prop_assert_eq!(delivery.time(), time);
        }

        #[test]
        fn later_events_have_greater_ids(a in 0_i64..4_102_444_800_000, b in 0_i64..4_102_444_800_000) {
            let id = |ms| EventId::derive(DateTime::from_timestamp_millis(ms).unwrap(), company(), "m");
            prop_assert_eq!(a.cmp(&b), id(a).cmp(&id(b)));
        }
    }

    #[test]
    fn every_part_makes_another_id() {
        let t = DateTime::from_timestamp_millis(1_700_000_000_000).unwrap();
        let event = EventId::derive(t, company(), "a");
        let other = CompanyId(Uuid::from_u128(8));
        assert_ne!(event, EventId::derive(t, company(), "b"));
        assert_ne!(event, EventId::derive(t, other, "a"));
        let (w, r) = (WebhookId(Uuid::from_u128(1)), ReplayId(Uuid::from_u128(2)));
        assert_ne!(DeliveryId::derive(event, w), DeliveryId::of_replay(r, t, event, w));
        assert_ne!(DeliveryId::derive(event, w), DeliveryId::derive(event, WebhookId(r.0)));
        let later = t + chrono::TimeDelta::microseconds(1);
        assert_eq!(ReplayId::of_recovery(w, t), ReplayId::of_recovery(w, t));
        assert_ne!(ReplayId::of_recovery(w, t), ReplayId::of_recovery(w, later));
        assert_ne!(ReplayId::of_recovery(w, t), ReplayId::of_recovery(WebhookId(r.0), t));
    }
}
