//! Webhooks for people.

use super::{
    super::output::{Table, fields, time},
    CheckedUrl, Tested, Webhook,
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

/// What came of a test.
pub(super) fn tested(tested: &Tested) -> String {
    fields(&[
        ("success", Some(yes_or_no(tested.success).to_owned())),
        ("message", Some(tested.message.clone())),
        ("why", tested.why.clone()),
        ("status", tested.response_status.map(|status| status.to_string())),
        ("took", tested.latency_ms.map(|ms| format!("{ms} ms"))),
        ("delivery", Some(tested.delivery_id.to_string())),
    ])
}

/// What is known of a URL.
pub(super) fn checked(checked: &CheckedUrl) -> String {
    let addresses: Vec<_> = checked
        .addresses
        .iter()
        .map(|address| {
            let shown = address.address.as_deref().unwrap_or("an address");
            address
                .network
                .as_ref()
                .map_or_else(|| shown.to_owned(), |net| format!("{shown} in {net}: refused"))
        })
        .collect();
    let tls = checked.tls.as_ref();
    fields(&[
        ("url", Some(checked.url.clone())),
        ("ok", Some(yes_or_no(checked.ok).to_owned())),
        ("error", checked.error.clone()),
        ("addresses", Some(addresses.join(", ")).filter(|addresses| !addresses.is_empty())),
        ("certificate", tls.map(|tls| tls.error.clone().unwrap_or_else(|| "accepted".to_owned()))),
        ("issued by", tls.and_then(|tls| tls.issuer.clone())),
        ("expires", tls.and_then(|tls| tls.expires_at).map(time)),
    ])
}

const fn yes_or_no(holds: bool) -> &'static str {
    if holds { "yes" } else { "no" }
}
