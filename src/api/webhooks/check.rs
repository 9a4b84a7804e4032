//! Validates the requests for webhooks.
//!
//! A body is read field by field, so that a refusal names every invalid field. What is unusual but allowed is reported in
//! the response; see `warnings`.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Map, Value};

use super::{requests::GuideSignature, shape::Warning, warnings};
use crate::{
    api::problem::Problem,
    egress,
    model::{
        Secret,
        fields::{self, Fields},
        webhook::{
            Held, Settings,
            settings::{self, Receivers},
        },
    },
};

/// The longest reason of a pause, in characters.
pub const REASON_CHARACTERS_MAX: usize = 1_000;
/// The maximum number of unknown fields named in warnings.
pub const UNKNOWN_REPORTED_MAX: usize = 20;
/// Held deliveries sent per second after a resume: by default, and at most.
const RESUME_RATE_DEFAULT: i32 = 50;
const RESUME_RATE_MAX: i32 = 10_000;
/// How long an old secret also signs, in seconds: by default, and at most.
const GRACE_SECONDS_DEFAULT: i64 = 24 * 60 * 60;
const GRACE_SECONDS_MAX: i64 = 30 * 24 * 60 * 60;
/// The default reason of a pause.
const PAUSED_BY_HAND: &str = "paused by hand";

/// The receivers that this service delivers to.
pub(super) fn receivers(rules: &egress::Config) -> Receivers<'_> {
    Receivers { allowed: &rules.allowed_networks, require_https: rules.require_https }
}

/// Validated settings.
#[derive(Debug)]
pub(super) struct Checked {
    pub settings: Settings,
    /// Whether the request gives or requests a secret.
    pub replaces_secret: bool,
    /// Whether the secret was generated here and is therefore shown.
    pub shows_secret: bool,
    /// The event types, if the request names them.
    pub events: Option<Vec<String>>,
    pub warnings: Vec<Warning>,
}

/// Applies a request to the settings of a webhook, or to the defaults for a new one.
pub(super) fn settings(
    body: Map<String, Value>,
    before: Option<Settings>,
    rules: &egress::Config,
) -> Result<Checked, Problem> {
    let shows_secret = body.get("secret").is_some_and(Value::is_null);
    let named: BTreeSet<String> = body.keys().cloned().collect();
    let names = |field: &str| named.contains(field);
    let is_new = before.is_none();
    let mut settings = before.unwrap_or_default();
    let mut fields = Fields::of(body);
    settings.read(&mut fields, is_new, &receivers(rules));
    let events = names("events").then(|| settings.events.clone());
    let mut warnings = warnings::of(
        names("url").then_some(&settings.url),
        events.as_deref(),
        names("name").then_some(&settings.name),
        (names("secret") && !shows_secret).then_some(&settings.secret),
    );
    if settings.retry_schedule.is_some() && names("retry_count") {
        warnings.push(warnings::count_beside_schedule());
    }
    warnings.extend(fields.unknown().take(UNKNOWN_REPORTED_MAX).map(warnings::unknown_field));
    fields.end()?;
    Ok(Checked { settings, replaces_secret: names("secret"), shows_secret, events, warnings })
}

/// The reason of a pause.
pub(super) fn pause(body: Map<String, Value>) -> Result<String, Problem> {
    let mut fields = Fields::of(body);
    let reason = fields.read("reason", fields::text_of(REASON_CHARACTERS_MAX)).given();
    fields.end()?;
    Ok(reason.filter(|reason| !reason.trim().is_empty()).unwrap_or_else(|| PAUSED_BY_HAND.to_owned()))
}

/// What happens to the held deliveries, and how many are sent per second.
pub(super) fn resume(body: Map<String, Value>) -> Result<(Held, i32), Problem> {
    let mut fields = Fields::of(body);
    let held = fields.read("held", fields::word(Held::WORDS)).given();
    let rate = fields.read("rate", fields::whole(1, RESUME_RATE_MAX)).given();
    fields.end()?;
    Ok((held.unwrap_or_default(), rate.unwrap_or(RESUME_RATE_DEFAULT)))
}

#[derive(Debug)]
pub(super) struct Rotation {
    pub secret: Secret,
    pub grace: Duration,
    pub guide_signature_is_previous: bool,
}

/// A validated rotation.
pub(super) fn rotation(body: Map<String, Value>, rules: &egress::Config) -> Result<Rotation, Problem> {
    const SIGNS: &[(&str, GuideSignature)] =
        &[("new", GuideSignature::New), ("previous", GuideSignature::Previous)];
    let mut fields = Fields::of(body);
    let secret = settings::read_secret(&mut fields, &receivers(rules));
    let grace = fields.read("grace_seconds", fields::whole(0, GRACE_SECONDS_MAX)).given();
    let signs = fields.read("guide_signature", fields::word(SIGNS)).given();
    fields.end()?;
    let grace = u64::try_from(grace.unwrap_or(GRACE_SECONDS_DEFAULT)).unwrap_or_default();
    Ok(Rotation {
        secret: secret.unwrap_or_else(Secret::generate),
        grace: Duration::from_secs(grace),
        guide_signature_is_previous: signs == Some(GuideSignature::Previous),
    })
}

#[cfg(test)]
mod tests;
