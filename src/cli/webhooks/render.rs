//! Webhooks for people.

use super::super::{
    output::{Table, fields},
    shapes::{Webhook, time},
};

/// One webhook, field by field. Its own headers are named and not shown: they may hold a token.
pub(super) fn one(webhook: &Webhook) -> String {
    let retries = match &webhook.retry_schedule {
        Some(waits) => format!("{} attempts, waits of {waits:?} s", waits.len() + 1),
        None => format!("{} attempts", webhook.retry_count),
    };
    let paused = webhook.paused_at.map(|since| {
        let (by, why) =
            (webhook.paused_by.as_deref().unwrap_or("?"), webhook.pause_reason.as_deref().unwrap_or("?"));
        format!("since {} by {by}: {why}", time(since))
    });
    let names = webhook.headers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    fields(&[
        ("id", Some(webhook.id.to_string())),
        ("company", Some(webhook.company_id.to_string())),
        ("name", Some(webhook.name.clone())),
        ("description", webhook.description.clone()),
        ("url", Some(webhook.url.clone())),
        ("events", Some(webhook.events.join(", "))),
        ("active", Some(yes_or_no(webhook.active).to_owned())),
        ("paused", paused),
        ("secret", webhook.secret.clone()),
        ("previous secret signs until", webhook.previous_secret_until.map(time)),
        ("headers", Some(names).filter(|names| !names.is_empty())),
        ("retries", Some(retries)),
        ("timeout", Some(format!("{} s", webhook.timeout_seconds))),
        ("requests at once", webhook.max_in_flight.map(|n| n.to_string())),
        ("requests a second", webhook.rate_limit.map(|n| n.to_string())),
        ("recovers by itself", Some(yes_or_no(webhook.auto_recover).to_owned())),
        (
            "created",
            Some(format!("{} by {}", time(webhook.created_at), webhook.created_by.as_deref().unwrap_or("?"))),
        ),
        ("updated", Some(time(webhook.updated_at))),
    ])
}

/// All of them, one a line.
pub(super) fn many(webhooks: &[Webhook]) -> String {
    let mut table = Table::new(&["ID", "NAME", "STATE", "EVENTS", "URL"]);
    for webhook in webhooks {
        let state = match (webhook.active, webhook.paused_at) {
            (false, _) => "inactive",
            (true, Some(_)) => "paused",
            (true, None) => "active",
        };
        table.row([
            webhook.id.to_string(),
            webhook.name.clone(),
            state.to_owned(),
            webhook.events.join(","),
            webhook.url.clone(),
        ]);
    }
    table.render("no webhooks")
}

const fn yes_or_no(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}
