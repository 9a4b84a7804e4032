//! From a message to an event with its place in time.

use std::collections::HashMap;

use crate::{
    broker::{CONTENT_TYPE_KEPT, Destination, Fate, Headers, Message, Outgoing, Queue, Receipt},
    model::{
        Decoded, Event, EventId, Incoming, Placed, Rejected,
        envelope::{decode, place},
        event_schema::{OnViolation, Violation},
    },
    store::intake_keys,
    telemetry::labels::Intake,
};

use super::{IngestWorker, schemas::Judge};

/// The header with the company, if the body names none.
const COMPANY_HEADER: &str = "company_id";
/// The header with the trace context of the publisher.
const TRACE_HEADER: &str = "traceparent";
/// Why a message became a dead letter.
pub(super) const REASON_HEADER: &str = "xt-reason";
/// Which of its fields is wrong.
const FIELD_HEADER: &str = "xt-field";
/// The routing key it was published with; kept when we publish a message again.
const ROUTING_KEY_HEADER: &str = "xt-routing-key";
/// The exchange that a message was first published to, if we publish it again.
const EXCHANGE_HEADER: &str = "xt-exchange";
/// The longest pause between two tries to publish a dead letter.
const DEAD_LETTER_RETRY: std::time::Duration = std::time::Duration::from_secs(2);

/// A message on its way in: what it says, and the receipts of every copy of it in the batch.
pub(super) struct Arrival {
    pub decoded: Decoded,
    /// How it violates its type's schema, and what becomes of it.
    pub violation: Option<(Violation, OnViolation)>,
    pub receipts: Vec<Receipt>,
    /// Whether somebody may have had it before, and died.
    pub redelivered: bool,
    /// The original, in case its row is rejected.
    pub letter: Original,
}

/// What a dead letter keeps of a message.
#[derive(Clone)]
pub(super) struct Original {
    body: bytes::Bytes,
    headers: Headers,
    routing_key: String,
    exchange: String,
    message_id: Option<String>,
    content_type: Option<String>,
}

impl Original {
    /// The key that XTSystems published it with; our own does not count if we published it again.
    fn routing_key(&self) -> &str {
        self.headers.get_str(ROUTING_KEY_HEADER).unwrap_or(&self.routing_key)
    }

    /// Whether this service made the event. Only it publishes to the default exchange, which has no name. But it also
    /// publishes messages of others there again: a quarantined one, which names its first exchange, and a replayed dead
    /// letter, which does not and counts as theirs.
    fn is_ours(&self) -> bool {
        let first = match self.headers.get_str(EXCHANGE_HEADER) {
            Some(first) => Some(first),
            None if self.headers.get_str(ROUTING_KEY_HEADER).is_some() => None,
            None => Some(""),
        };
        self.exchange.is_empty() && first == Some("")
    }
}

/// An event with its id, and the receipts that wait for its commit.
pub(super) struct TakenEvent {
    pub event: Event,
    /// How it violates its type's schema.
    pub violation: Option<Violation>,
    pub receipts: Vec<Receipt>,
    /// Whether somebody may have had it before, and died.
    pub redelivered: bool,
    pub letter: Original,
}

impl IngestWorker {
    /// Decodes what has arrived. What cannot be decoded becomes a dead letter in the background.
    pub(super) fn decode(&self, messages: Vec<Message>, judge: &Judge) -> Vec<Arrival> {
        let mut arrivals = Vec::with_capacity(messages.len());
        for message in messages {
            let Message {
                body,
                routing_key,
                exchange,
                message_id,
                headers,
                timestamp,
                content_type,
                receipt,
                redelivered,
                ..
            } = message;
            // From quarantine it comes as a new message.
            let redelivered = redelivered || headers.get_str(EXCHANGE_HEADER).is_some();
            let letter = Original { body, headers, routing_key, exchange, message_id, content_type };
            let incoming = Incoming {
                body: &letter.body,
                routing_key: letter.routing_key(),
                message_id: letter.message_id.as_deref(),
                timestamp,
                company_id: letter.headers.get_str(COMPANY_HEADER),
                traceparent: letter.headers.get_str(TRACE_HEADER),
                content_type: letter.content_type.as_deref(),
                attributes: letter.headers.cloud_event(),
            };
            let decoded = decode(&incoming, &self.limits);
            let decoded = decoded.and_then(|decoded| {
                let forged = decoded.event_type.is_reserved() && !letter.is_ours();
                if forged { Err(Rejected::reserved_type()) } else { Ok(decoded) }
            });
            match decoded {
                Ok(decoded) => {
                    let violation = judge.judge(&decoded);
                    let receipts = vec![receipt];
                    arrivals.push(Arrival { decoded, violation, receipts, redelivered, letter });
                }
                Err(rejected) => {
                    self.metrics.ingest_messages.inc(Intake::Rejected);
                    self.give_up(letter, rejected, vec![receipt]);
                }
            }
        }
        arrivals
    }

    /// Publishes a dead letter that says which field is wrong, and acknowledges the message once that is confirmed.
    pub(super) fn give_up(&self, letter: Original, rejected: Rejected, receipts: Vec<Receipt>) {
        tracing::warn!(
            routing_key = letter.routing_key(),
            message_id = letter.message_id,
            field = %rejected.field,
            reason = rejected.reason,
            "a message is not a valid event; it was dead-lettered"
        );
        let (publisher, shutdown) = (self.ordinary.publisher.clone(), self.shutdown.clone());
        self.shutdown.spawn(async move {
            let routing_key = letter.routing_key().to_owned();
            let mut headers = letter.headers;
            headers.set_str(REASON_HEADER, &rejected.to_string());
            headers.set_str(FIELD_HEADER, &rejected.field);
            headers.set_str(ROUTING_KEY_HEADER, &routing_key);
            if let Some(id) = letter.message_id {
                headers.set_str("xt-message-id", &id);
            }
            if let Some(content_type) = letter.content_type {
                headers.set_str(CONTENT_TYPE_KEPT, &content_type);
            }
            let outgoing = Outgoing {
                to: Destination::Queue(Queue::DeadLetters),
                // Its row gets this id, so that a second copy from the broker makes no second row.
                message_id: uuid::Uuid::now_v7().to_string(),
                kind: "xtwebhooks.rejected.v1",
                timestamp: None,
                headers,
                body: letter.body,
            };
            loop {
                if publisher.publish(vec![outgoing.clone()]).await == [Fate::Confirmed] {
                    receipts.into_iter().for_each(Receipt::ack);
                    return;
                }
                // If we stop here, the unacknowledged message is redelivered.
                tokio::select! {
                    () = tokio::time::sleep(DEAD_LETTER_RETRY) => {}
                    () = shutdown.requested() => return,
                }
            }
        });
    }

    /// Drops what has arrived for erased companies before anything of it is written, and counts it.
    pub(super) async fn without_erased(&self, arrivals: Vec<Arrival>) -> Vec<Arrival> {
        let mut kept = Vec::with_capacity(arrivals.len());
        let mut counts = HashMap::new();
        for arrival in arrivals {
            let company = arrival.decoded.company;
            if self.subscriptions.of(company).await.erased {
                self.metrics.ingest_messages.inc(Intake::Erased);
                *counts.entry(company).or_insert(0) += 1;
                arrival.receipts.into_iter().for_each(Receipt::ack);
            } else {
                kept.push(arrival);
            }
        }
        for (company, messages) in counts {
            self.dropped.count(company, messages);
        }
        kept
    }

    /// Gives every event its id and joins the copies that one batch holds.
    pub(super) async fn place(&self, arrivals: Vec<Arrival>) -> Vec<TakenEvent> {
        let mut taken: Vec<TakenEvent> = Vec::with_capacity(arrivals.len());
        let mut by_id: HashMap<EventId, usize> = HashMap::with_capacity(arrivals.len());
        for Arrival { decoded, violation, receipts, redelivered, letter } in arrivals {
            let now = self.clock.now();
            let id = match place(&decoded, now) {
                Placed::At(id) => id,
                Placed::Claim { own } => match self.claim(&decoded, own).await {
                    Ok(id) => id,
                    Err(bad) => {
                        self.metrics.ingest_messages.inc(Intake::Refused);
                        let rejected = Rejected { field: "event_id".into(), reason: bad.to_string() };
                        self.give_up(letter, rejected, receipts);
                        continue;
                    }
                },
            };
            if let Some(&first) = by_id.get(&id) {
                let first: &mut TakenEvent = &mut taken[first];
                first.receipts.extend(receipts);
                first.redelivered |= redelivered;
                self.repeated(&first.event, decoded.body_hash);
                continue;
            }
            let violation = match violation {
                // What was once taken in stays valid, even if the schema of its type has changed since.
                Some((violation, OnViolation::DeadLetter)) if !self.is_known(id).await => {
                    self.metrics.ingest_messages.inc(Intake::Rejected);
                    self.give_up(letter, Rejected::violation(violation), receipts);
                    continue;
                }
                violation => violation.map(|(violation, _)| violation),
            };
            by_id.insert(id, taken.len());
            let event = Event {
                id,
                company: decoded.company,
                event_type: decoded.event_type,
                message_id: decoded.message_id,
                timestamp: decoded.timestamp.unwrap_or_else(|| id.time().timestamp()),
                data: decoded.data,
                body_hash: decoded.body_hash,
                traceparent: decoded.traceparent,
            };
            taken.push(TakenEvent { event, violation, receipts, redelivered, letter });
        }
        taken
    }

    /// The id of a message that cannot be placed by its own time: the one its own time gave earlier, else the one that
    /// the first copy was given.
    async fn claim(
        &self,
        decoded: &Decoded,
        own: Option<EventId>,
    ) -> Result<EventId, crate::store::ledger::BadRow> {
        if let Some(own) = own
            && self.stands(own).await?
        {
            return Ok(own);
        }
        let now = self.clock.now();
        let fresh = EventId::derive(now, decoded.company, &decoded.message_id);
        let (company, message_id) = (decoded.company, decoded.message_id.as_str());
        self.ledger
            .persist(
                "intake",
                |pool| async move { intake_keys::claim(&pool, company, message_id, fresh).await },
            )
            .await
    }

    /// Whether an event is in the ledger.
    async fn stands(&self, event: EventId) -> Result<bool, crate::store::ledger::BadRow> {
        let known =
            self.ledger.read("intake", |pool| async move { intake_keys::known(&pool, &[event]).await });
        Ok(known.await?.contains(&event))
    }

    async fn is_known(&self, event: EventId) -> bool {
        // A read has no bad rows.
        self.stands(event).await.unwrap_or(false)
    }

    /// Counts a copy of an event, and warns of one with another body.
    pub(super) fn repeated(&self, event: &Event, body_hash: i64) {
        if event.body_hash == body_hash {
            self.metrics.ingest_messages.inc(Intake::Repeated);
            return;
        }
        self.metrics.ingest_messages.inc(Intake::Conflicting);
        tracing::warn!(
            company = %event.company,
            event = %event.id,
            message_id = event.message_id,
            "a message id was reused with a different body; the message is not sent"
        );
    }
}
