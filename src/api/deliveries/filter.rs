//! Filters of deliveries.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, openapi::Schema};
use uuid::Uuid;

use crate::{
    api::{
        listing::{Reader, answers_schema, ids_schema, texts_schema, within_reach, words_schema},
        problem::{FieldError, Problem},
    },
    model::{DeliveryStatus, OutcomeClass, Trigger},
    store::search::Deliveries,
};

/// The webhooks of the deliveries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfWebhooks {
    /// Only deliveries to these webhooks, separated by commas.
    #[param(schema_with = ids_schema, style = Form, explode = false)]
    pub webhook_id: Option<String>,
}

impl OfWebhooks {
    pub(super) fn read(&self) -> Result<Option<Vec<Uuid>>, Problem> {
        let mut reader = Reader::default();
        let mut ids = reader.list("webhook_id", self.webhook_id.as_deref());
        reader.done()?;
        if let Some(ids) = &mut ids {
            ids.sort_unstable();
            ids.dedup();
        }
        Ok(ids)
    }
}

/// Filters of deliveries. Lists are separated by commas; one item of each list must match.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeliveriesQuery {
    /// Only deliveries in these states.
    #[param(schema_with = statuses, style = Form, explode = false)]
    pub status: Option<String>,
    /// Only deliveries of these event types: `ticket.created`, `ticket.*`, or `*` for all.
    #[param(schema_with = texts_schema, style = Form, explode = false)]
    pub event_type: Option<String>,
    /// Only deliveries at this time or later: the time of the event or, for a replay, of the replay's start.
    pub since: Option<DateTime<Utc>>,
    /// Only deliveries before this time.
    pub until: Option<DateTime<Utc>>,
    /// Only deliveries whose latest response has one of these statuses.
    #[param(schema_with = answers_schema, style = Form, explode = false)]
    pub response_status: Option<String>,
    /// Only deliveries whose latest attempt has one of these outcomes.
    #[param(schema_with = outcomes, style = Form, explode = false)]
    pub outcome: Option<String>,
    /// Only deliveries whose reason begins with one of these: `attempts exhausted`.
    #[param(schema_with = texts_schema, style = Form, explode = false)]
    pub reason: Option<String>,
    /// Only deliveries with one of these triggers.
    #[param(schema_with = triggers, style = Form, explode = false)]
    pub trigger: Option<String>,
}

fn statuses() -> Schema {
    words_schema(DeliveryStatus::WORDS)
}

fn triggers() -> Schema {
    words_schema(Trigger::WORDS)
}

fn outcomes() -> Schema {
    words_schema(OutcomeClass::WORDS)
}

impl DeliveriesQuery {
    /// The query, over all webhooks.
    pub(super) fn read(&self) -> Result<Deliveries, Problem> {
        let mut reader = Reader::default();
        let query = Deliveries {
            webhooks: None,
            statuses: reader.words("status", self.status.as_deref(), DeliveryStatus::WORDS),
            event_types: reader.texts("event_type", self.event_type.as_deref()),
            response_statuses: reader.list("response_status", self.response_status.as_deref()),
            outcomes: reader.words("outcome", self.outcome.as_deref(), OutcomeClass::WORDS),
            reasons: reader.texts("reason", self.reason.as_deref()),
            triggers: reader.words("trigger", self.trigger.as_deref(), Trigger::WORDS),
            since: within_reach(self.since),
            until: within_reach(self.until),
        };
        for status in query.response_statuses.iter().flatten().filter(|status| !(100..=599).contains(*status))
        {
            reader.wrong(FieldError::new(
                "response_status",
                format!("{status} is not an HTTP status; it must be from 100 to 599"),
            ));
        }
        reader.done()?;
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_that_is_wrong_is_named() {
        let filter = DeliveriesQuery {
            status: Some("dead,gone".to_owned()),
            response_status: Some("500,99,x".to_owned()),
            outcome: Some("server_error".to_owned()),
            trigger: Some("whim".to_owned()),
            ..DeliveriesQuery::default()
        };
        let problem = format!("{:?}", filter.read().unwrap_err());
        for expected in
            ["`gone` is not one of pending", "99 is not an HTTP status", "invalid digit", "`whim`"]
        {
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
        assert!(!problem.contains("outcome"), "{problem}");
    }

    #[test]
    fn what_is_read_is_looked_for() {
        let filter = DeliveriesQuery {
            status: Some("dead".to_owned()),
            event_type: Some("a.*,b.c".to_owned()),
            response_status: Some("500,502".to_owned()),
            ..DeliveriesQuery::default()
        };
        let query = filter.read().unwrap();
        assert_eq!(query.statuses, Some(vec!["dead".to_owned()]));
        assert_eq!(query.response_statuses, Some(vec![500, 502]));
        assert_eq!(query.event_types.map(|types| types.len()), Some(2));
    }
}
