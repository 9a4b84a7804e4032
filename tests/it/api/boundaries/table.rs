//! What the walk over the document cannot know by itself. A new route needs a row here only where it brings a new kind
//! of id, or takes a body.

use std::{cell::Cell, collections::BTreeMap};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::App,
    past::{execute, owe},
};

/// Operations whose scope is not enough, with the reason.
pub const NEEDS_MORE: &[(&str, &str)] = &[
    ("eraseCompany", "credentials of all companies"),
    ("getErasure", "credentials of all companies"),
    ("putEventType", "credentials of all companies"),
    ("deleteEventType", "credentials of all companies"),
];

/// Operations by whose ids nothing of a company can be meant, with the reason.
pub const SHARED: &[(&str, &str)] = &[
    ("getEventType", "the registry is one for all companies"),
    ("putEventType", "the registry is one for all companies"),
    ("deleteEventType", "the registry is one for all companies"),
];

/// A body that an operation takes, by its id. A thing that it names is asked for by `things.in_body`, and is then another
/// company's, or none.
pub fn body(operation: &str, things: &Things) -> Option<Value> {
    let url = "https://example.com/hook";
    Some(match operation {
        "checkUrl" => json!({"url": "ftp://example.com/"}),
        "createEvents" => json!({"event_type": "reserved_for.nobody", "data": {}, "timestamp": "never"}),
        "createReplay" => json!({"webhook_id": things.in_body("webhook_id")}),
        "createWebhook" => json!({"name": "made by the walk", "url": url, "events": ["ticket.created"]}),
        "pauseWebhook" | "resumeWebhook" | "rotateWebhookSecret" => json!({}),
        "putEventType" => json!({"description": "of the walk"}),
        "updateWebhook" => json!({"description": "changed by the walk"}),
        "createKey" => json!({"name": "made by the walk", "scopes": ["keys:manage"]}),
        _ => return None,
    })
}

/// One thing of each kind, by the name that its id has in paths and queries.
pub struct Things {
    ids: BTreeMap<&'static str, String>,
    /// Whether a body named one of them since that was last looked at.
    asked: Cell<bool>,
}

impl Things {
    /// Things of a company.
    pub async fn of(app: &App, company: Uuid) -> Self {
        let webhook = app.webhook(company, "http://127.0.0.1:9/theirs", json!({"name": "theirs"})).await;
        let delivery = owe(app, company, webhook, chrono::Utc::now(), "dead").await;
        let event: Uuid = sqlx::query_scalar("select event_id from webhook_deliveries where id = $1")
            .bind(delivery.0)
            .fetch_one(&app.pool)
            .await
            .expect("it was written");
        let (dead_letter, replay) = (Uuid::now_v7(), Uuid::now_v7());
        execute(
            app,
            &format!(
                "insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, announced)
                 values ('{dead_letter}', 'delivery', '{company}', '{webhook}', '{event}', 'ticket.created', 'gave up', true);
                 insert into replays (id, company_id, kind, webhook_id, rate, requested_by, status, ended_at)
                 values ('{replay}', '{company}', 'replay', '{webhook}', 1, 'the walk', 'done', now())"
            ),
        )
        .await;
        let key = app.key(Some(company), &["webhooks:read"]).await;
        Self::named([
            ("company_id", company.to_string()),
            ("webhook_id", webhook.to_string()),
            ("event_id", event.to_string()),
            ("delivery_id", delivery.0.to_string()),
            ("dead_letter_id", dead_letter.to_string()),
            ("replay_id", replay.to_string()),
            ("key_id", key["xtwh_".len()..][..8].to_owned()),
            ("name", "ticket.created".to_owned()),
        ])
    }

    /// Ids of the same form, of nothing.
    pub fn of_nobody() -> Self {
        let nothing = || Uuid::new_v4().to_string();
        Self::named([
            ("company_id", nothing()),
            ("webhook_id", nothing()),
            ("event_id", nothing()),
            ("delivery_id", nothing()),
            ("dead_letter_id", nothing()),
            ("replay_id", nothing()),
            ("key_id", "00000000".to_owned()),
            ("name", "nothing.such".to_owned()),
        ])
    }

    fn named<const N: usize>(ids: [(&'static str, String); N]) -> Self {
        Self { ids: BTreeMap::from(ids), asked: Cell::new(false) }
    }

    /// The id that stands for a name in a path or a query.
    pub fn id(&self, name: &str, operation: &str) -> String {
        self.ids.get(name).cloned().unwrap_or_else(|| {
            panic!(
                "{operation} has the parameter `{name}`: say in tests/it/api/boundaries/table.rs how a thing of a company \
                 comes about that has such an id"
            )
        })
    }

    /// The id of a thing that a body names.
    pub fn in_body(&self, name: &str) -> String {
        self.asked.set(true);
        self.id(name, "a body")
    }

    /// Whether a body named one of them since this was last asked.
    pub fn were_asked(&self) -> bool {
        self.asked.take()
    }

    pub fn knows(name: &str) -> bool {
        Self::of_nobody().ids.contains_key(name)
    }

    /// All ids, to be looked for where they must not be. Names of event types are no company's own.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        self.ids.iter().filter(|(name, _)| **name != "name").map(|(_, id)| id.clone())
    }
}
