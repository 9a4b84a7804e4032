//! Events as callers see them, and as they publish them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::value::RawValue;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, OpenApi, Ref, RefOr, Schema, SchemaFormat,
        Type,
    },
};
use uuid::Uuid;

use crate::{
    api::problem::{Problem, ProblemBody},
    model::{DeliveryStatus, Trigger},
    store::events,
};

/// The most events of one request.
pub const EVENTS_MAX: usize = 1_000;

/// One event or an array of events. This type only describes them: the received bytes are published.
pub struct NewEvents;

impl PartialSchema for NewEvents {
    fn schema() -> RefOr<Schema> {
        let one = || Ref::from_schema_name(NewEvent::name());
        let many = ArrayBuilder::new().items(one()).min_items(Some(1)).max_items(Some(EVENTS_MAX));
        OneOfBuilder::new().item(one()).item(many).description(Some("One event, or several")).into()
    }
}

impl ToSchema for NewEvents {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((NewEvent::name().into_owned(), NewEvent::schema()));
        NewEvent::schemas(schemas);
    }
}

/// A time as publishers write it, within the range of common calendars.
fn timestamp() -> Schema {
    let seconds = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(-62_135_596_800_i64))
        .maximum(Some(253_402_300_799_i64));
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let nothing = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new()
        .item(seconds)
        .item(text)
        .item(nothing)
        .description(Some(
            "When the event happened: seconds since 1970, with or without a fraction, or RFC 3339. If omitted, the time of ingestion",
        ))
        .build()
        .into()
}

/// An event to publish, in the guide's shape. Other fields are ignored.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes; what is published is the bytes as they came")]
pub struct NewEvent {
    /// The event type. Types that begin with `webhook.` or `delivery.` are reserved.
    #[schema(
        pattern = r"^(?!webhook\.|delivery\.)[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$",
        example = "ticket.created"
    )]
    pub event_type: String,
    /// Any JSON value, nested at most 256 levels deep. Receivers get its bytes unchanged.
    #[schema(value_type = serde_json::Value)]
    pub data: Box<RawValue>,
    /// When the event happened: seconds since 1970, with or without a fraction, or RFC 3339. If omitted, the time of
    /// ingestion.
    #[schema(required = false, schema_with = timestamp)]
    pub timestamp: Option<serde_json::Value>,
    /// Identifies the event if it is published again: up to 255 bytes without control characters.
    #[schema(
        required = false,
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]*$",
        example = "ticket-1042-created"
    )]
    pub event_id: Option<String>,
    /// The company. It must be the company of the credentials; credentials for all companies give it here or in
    /// `X-Company-Id`.
    #[schema(required = false)]
    pub company_id: Option<Uuid>,
}

/// The published events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Taken {
    /// One event.
    One(Accepted),
    /// Several events, in the order of the request.
    Many(Vec<Accepted>),
}

/// An event that the broker has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The id of the event, which receivers see as `webhook-id`. Null if it is only known at ingestion: when the event
    /// has no `timestamp`, or one that is far from now.
    #[schema(required = true)]
    pub id: Option<Uuid>,
    /// The publisher's id: the given one, or the one generated for the event.
    pub event_id: String,
}

/// What happened to an event of a request in which not all events were published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Published {
    /// The publisher's id: the given one, or the one generated for the event. With this id, a repeated event is the
    /// same event.
    pub event_id: String,
    /// `confirmed`; `refused` (the queue of events is full); `returned` (no queue is bound); `unknown` (not confirmed
    /// in time; it may have arrived); `not sent`.
    #[schema(pattern = "^(confirmed|refused|returned|unknown|not sent)$")]
    pub fate: &'static str,
}

/// The additional member of a problem if some events of a request were not confirmed.
const PUBLISHED: &str = "events";

/// The problem for a request that was not confirmed completely.
pub(super) fn not_confirmed(detail: String, events: &[Published]) -> Problem {
    let events = serde_json::to_value(events).expect("texts always make JSON");
    Problem::unavailable(detail).with(PUBLISHED, events)
}

/// Adds to the document's problem what [`not_confirmed`] adds to a problem.
pub(in crate::api) fn describe_problem(document: &mut OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert(Published::name().into_owned(), Published::schema());
    if let Some(RefOr::T(Schema::Object(problem))) = schemas.get_mut(&*ProblemBody::name()) {
        let events = ArrayBuilder::new().items(Ref::from_schema_name(Published::name())).description(Some(
            "If not all events of a publish request were confirmed: what happened to each event, in the order of the request.",
        ));
        problem.properties.insert(PUBLISHED.to_owned(), events.into());
    }
}

/// An event.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Event)]
pub struct EventBody {
    /// The id of the event, which receivers see as `webhook-id`.
    pub id: Uuid,
    /// The company.
    pub company_id: Uuid,
    /// The event type.
    pub event_type: String,
    /// The publisher's id, which identifies the event if it is published again.
    pub event_id: String,
    /// The published time, or the time of ingestion, in whole seconds since 1970. Receivers get it.
    pub timestamp: i64,
    /// When it was ingested.
    pub received_at: DateTime<Utc>,
    /// The data as published; null without the scope `payloads:read`, or after it was removed, which may be before the
    /// rest of the history.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    pub data: Option<Box<RawValue>>,
    /// How many webhooks the event matched.
    pub matched: i32,
    /// The time of the subscriptions that the event was matched with.
    pub matched_as_of: DateTime<Utc>,
    /// How the event violates the schema of its type; null if it does not.
    #[schema(required = true)]
    pub violation: Option<String>,
    /// The W3C trace context of the published event.
    #[schema(required = true)]
    pub traceparent: Option<String>,
}

/// An event with its deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventShown {
    /// The event.
    #[serde(flatten)]
    pub event: EventBody,
    /// Its deliveries, newest first, up to 1,000, including those of replays.
    pub deliveries: Vec<EventDelivery>,
    /// If the event matched no webhook, or not the requested one: why not. Up to 100.
    pub not_sent: Vec<NotSent>,
}

impl<'de> Deserialize<'de> for EventShown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Rest {
            deliveries: Vec<EventDelivery>,
            not_sent: Vec<NotSent>,
        }
        // Read twice, because raw JSON cannot be read from a flattened struct.
        let whole = Box::<RawValue>::deserialize(deserializer)?;
        let event = serde_json::from_str(whole.get()).map_err(D::Error::custom)?;
        let Rest { deliveries, not_sent } = serde_json::from_str(whole.get()).map_err(D::Error::custom)?;
        Ok(Self { event, deliveries, not_sent })
    }
}

/// A summary of a delivery of an event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventDelivery {
    /// The id of the delivery.
    pub id: Uuid,
    /// The webhook.
    pub webhook_id: Uuid,
    /// Why the delivery exists.
    pub trigger: Trigger,
    /// The state of the delivery.
    pub status: DeliveryStatus,
    /// The number of attempts.
    pub attempts: i32,
    /// The status of the latest response; null if there was none.
    #[schema(required = true)]
    pub response_status: Option<i32>,
    /// An explanation of the state, in a sentence.
    pub why: String,
    /// Who has to act next: `receiver`, `admin`, `operator` or `none`.
    pub next_move: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When the receiver accepted it; null if it did not.
    #[schema(required = true)]
    pub delivered_at: Option<DateTime<Utc>>,
}

/// Why a webhook did not get an event.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NotSent {
    /// The webhook.
    pub webhook_id: Uuid,
    /// `inactive`, `deleted`, `type not subscribed` or `not yet there`.
    pub reason: String,
    /// An explanation of the reason, in a sentence.
    pub why: String,
    /// Who has to act next: `admin` or `none`.
    pub next_move: String,
}

impl From<events::EventRow> for EventBody {
    fn from(row: events::EventRow) -> Self {
        Self {
            id: row.id,
            company_id: row.company_id,
            event_type: row.event_type,
            event_id: row.message_id,
            timestamp: row.timestamp,
            received_at: row.received_at,
            // It comes from a JSON column, so it is JSON.
            data: row.data.and_then(|data| RawValue::from_string(data).ok()),
            matched: row.matched,
            matched_as_of: row.matched_as_of,
            violation: row.violation,
            traceparent: row.traceparent,
        }
    }
}
