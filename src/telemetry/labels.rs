//! The labels of the metrics: closed sets of words.
//!
//! No label contains a company, a webhook or a URL: their number has no bound, and the ledger's roll-ups report on
//! them. Because each set is closed, every series exists from the start, and a rate is right from its first increase.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::model::{OutcomeClass, Trigger, lane::WhyNot};

/// An enumeration that is one label: its name, and a word for each of its values.
macro_rules! label {
    ($(#[$doc:meta])* $type:ident $label:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant),+ }

        impl $type {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl EncodeLabelSet for $type {
            fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
                ($label, self.as_str()).encode(encoder.encode_label())
            }
        }
    };
}

label! {
    /// What became of a message that ingest took.
    Intake "result" {
        /// Its event was written.
        Committed = "committed",
        /// The same event was there already.
        Repeated = "repeated",
        /// Another body under a known message id: counted, logged, not sent.
        Conflicting = "conflicting",
        /// It could not be decoded and is now a dead letter.
        Rejected = "rejected",
        /// PostgreSQL refused its row, and it is now a dead letter.
        Refused = "refused",
        /// Its company was erased: it is dropped.
        Erased = "erased",
    }
}

label! {
    /// Where the first attempt of a new delivery waits.
    Queued "queued" {
        /// In a job.
        Job = "job",
        /// In the ledger, for schedule.
        Ledger = "ledger",
        /// In the ledger, until its webhook is resumed.
        Held = "held",
    }
}

label! {
    /// The class of an answer of the API.
    StatusClass "status" {
        /// 1xx to 3xx.
        Fine = "2xx",
        /// 4xx.
        TheirFault = "4xx",
        /// 5xx.
        OurFault = "5xx",
    }
}

impl StatusClass {
    /// The class of a status.
    #[must_use]
    pub const fn of(status: u16) -> Self {
        match status {
            0..400 => Self::Fine,
            400..500 => Self::TheirFault,
            _ => Self::OurFault,
        }
    }
}

label! {
    /// The kind of queue a message was published to.
    QueueKind "queue" {
        /// The queue of events.
        Events = "events",
        /// A deliveries queue.
        Deliveries = "deliveries",
        /// A prompt deliveries queue.
        Prompt = "prompt",
        /// A retry queue.
        Retry = "retry",
        /// The queue of dead letters.
        DeadLetters = "dead_letters",
        /// A quarantine queue.
        Quarantine = "quarantine",
    }
}

label! {
    /// What the broker did with a published message.
    Fate "fate" {
        /// It has it.
        Confirmed = "confirmed",
        /// It had no queue for it.
        Returned = "returned",
        /// The queue is full.
        Refused = "refused",
        /// No answer came; it may have it.
        Unknown = "unknown",
    }
}

label! {
    /// What a worker found a delivery of a job to be.
    JobResult "result" {
        /// Fresh: it went straight to its request.
        Fresh = "fresh",
        /// Claimed, then requested.
        Claimed = "claimed",
        /// Settled already, or at another attempt.
        Superseded = "superseded",
        /// Another worker has it.
        Busy = "busy",
        /// Parked in the ledger until its time, or until its lane has room.
        Parked = "parked",
        /// Its webhook is paused.
        Held = "held",
        /// Its webhook is deleted or inactive.
        Cancelled = "cancelled",
        /// The job could not be read.
        Bad = "bad",
    }
}

label! {
    /// Why a delivery was parked.
    ParkedFor "reason" {
        /// Its lane or the worker had no room for it.
        NoRoom = "no_room",
        /// Its slot at the pace of its lane is far off.
        Pace = "pace",
        /// Its receiver's breaker is open.
        Breaker = "breaker",
        /// Its lane is rate-limited.
        RateLimited = "rate_limited",
        /// Its job came before its time.
        NotDue = "not_due",
    }
}

impl From<WhyNot> for ParkedFor {
    fn from(why: WhyNot) -> Self {
        match why {
            WhyNot::RateLimited => Self::RateLimited,
            WhyNot::Breaker => Self::Breaker,
        }
    }
}

label! {
    /// What became of a slot at a lane's pace.
    SlotFate "fate" {
        /// Reserved from the ledger.
        Reserved = "reserved",
        /// A request started in it.
        Used = "used",
        /// Nothing could start in its time.
        Missed = "missed",
    }
}

label! {
    /// What became of a request for a probe.
    ProbeFate "fate" {
        /// The probe was leased.
        Leased = "leased",
        /// Another task has it, or it is no longer due.
        Refused = "refused",
        /// It was returned because its request did not start.
        Returned = "returned",
    }
}

label! {
    /// What follows an attempt.
    Step "step" {
        /// Nothing: it is delivered.
        Done = "done",
        /// The next attempt waits in a retry queue.
        RetryQueue = "retry_queue",
        /// The next attempt waits in the ledger.
        RetryLedger = "retry_ledger",
        /// It is given up.
        Dead = "dead",
        /// Its webhook was paused.
        Hold = "hold",
    }
}

label! {
    /// What an outcome did to a lane.
    LaneChange "change" {
        /// Its breaker opened: nothing is sent but probes.
        Opened = "opened",
        /// Its breaker closed: the receiver is back.
        Closed = "closed",
        /// The lane is rate-limited for a while.
        RateLimited = "rate_limited",
    }
}

label! {
    /// What a dead letter was.
    DeadLetterKind "kind" {
        /// A delivery that was given up.
        Delivery = "delivery",
        /// An event that ended its worker repeatedly.
        Event = "event",
        /// A message that could not be read.
        Message = "message",
    }
}

label! {
    /// What became of an operational event.
    AnnouncementFate "result" {
        /// Its operational event was published.
        Published = "published",
        /// There were too many of its type for this webhook in that hour.
        TooMany = "too_many",
    }
}

label! {
    /// What was done with a day's partitions.
    PartitionAction "action" {
        /// Created ahead of their day.
        Made = "made",
        /// Detached and dropped after the retention.
        Dropped = "dropped",
    }
}

label! {
    /// What lost its body, or was removed, before its day was dropped.
    Emptied "rows" {
        /// Events past `PAYLOAD_RETENTION`.
        Events = "events",
        /// Deliveries past it, with their attempts.
        Deliveries = "deliveries",
        /// Rows of companies that are erased.
        Erased = "erased",
    }
}

label! {
    /// One of the two connections to the broker.
    ConnectionKind "connection" {
        /// Takes messages and acknowledges them.
        Consume = "consume",
        /// Publishes.
        Publish = "publish",
    }
}

/// Every trigger, as a label.
pub(super) const TRIGGERS: &[Trigger] = &[Trigger::Event, Trigger::Test, Trigger::Replay, Trigger::Recovery];

impl EncodeLabelSet for OutcomeClass {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        ("outcome", self.as_str()).encode(encoder.encode_label())
    }
}

impl EncodeLabelSet for Trigger {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        ("trigger", self.as_str()).encode(encoder.encode_label())
    }
}
