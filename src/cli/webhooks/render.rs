//! Webhooks for people.

use serde_json::Value;

use super::{
    super::output::{OutputTable, fields, time},
    CheckedUrl, Tested, WebhookBody,
};

/// One webhook, field by field. Its additional headers are shown without their values, which may contain a token.
pub(super) fn one(webhook: &WebhookBody) -> String {
    let paused = webhook.paused_at.map(|since| {
        let (by, why) =
            (webhook.paused_by.as_deref().unwrap_or("?"), webhook.pause_reason.as_deref().unwrap_or("?"));
        format!("since {} by {by}: {why}", time(since))
    });
    let by = webhook.created_by.as_deref().unwrap_or("?");
    let settings = settings(webhook);
    let mut shown = vec![
        ("id", Some(webhook.id.to_string())),
        ("company", Some(webhook.company_id.to_string())),
        ("paused", paused),
        ("secret", webhook.secret.clone()),
        ("previous secret signs until", webhook.previous_secret_until.map(time)),
    ];
    shown.extend(settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
    shown.push(("created", Some(format!("{} by {by}", time(webhook.created_at)))));
    shown.push(("updated", Some(time(webhook.updated_at))));
    fields(&shown)
}

/// The webhook's settings, under the names of the arguments that set them.
fn settings(webhook: &WebhookBody) -> Vec<(String, Option<String>)> {
    let Ok(Value::Object(settings)) = serde_json::to_value(&webhook.settings) else { return Vec::new() };
    let shown = |(name, value): (String, Value)| {
        let value = match value {
            Value::Object(headers) if name == "headers" => list(headers.keys().cloned()),
            Value::Object(empty) if empty.is_empty() => None,
            Value::Array(values) => list(values.iter().map(text)),
            Value::Null => None,
            other => Some(text(&other)),
        };
        (name.replace('_', " "), value)
    };
    settings.into_iter().map(shown).collect()
}

fn list(words: impl Iterator<Item = String>) -> Option<String> {
    Some(words.collect::<Vec<_>>().join(", ")).filter(|words| !words.is_empty())
}

fn text(value: &Value) -> String {
    match value {
        Value::Bool(holds) => yes_or_no(*holds).to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// All of them, one per line.
pub(super) fn many(webhooks: &[WebhookBody]) -> String {
    let mut table = OutputTable::new(&["ID", "NAME", "STATE", "EVENTS", "URL"]);
    for webhook in webhooks {
        let settings = &webhook.settings;
        let state = match (settings.active, webhook.paused_at) {
            (false, _) => "inactive",
            (true, Some(_)) => "paused",
            (true, None) => "active",
        };
        table.row([
            webhook.id.to_string(),
            settings.name.clone(),
            state.to_owned(),
            settings.events.join(","),
            settings.url.clone(),
        ]);
    }
    table.render("no webhooks")
}

/// The result of a test.
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

/// The result of a check of a URL.
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
