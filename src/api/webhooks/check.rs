//! What is taken for a webhook, and what is refused with the reason and the way out: the one place that says so.
//!
//! A body is taken field by field, so that a refusal names every field that is wrong. What is odd and allowed is told
//! beside the answer; `warnings` knows of what.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    shape::Warning,
    wanted::{GuideSignature, HeldChoice},
    warnings,
};
use crate::{
    api::{
        fields::{self, Field, Fields},
        problem::Problem,
    },
    egress,
    model::{CompanyId, RetryPolicy, Secret, address, request, retry_policy, signature, subscription},
    store::webhooks::{Change, Held, New},
};

/// The longest name, in characters, as the guide's column has it.
pub const NAME_CHARACTERS_MAX: usize = 255;
/// The longest description, in characters.
pub const DESCRIPTION_CHARACTERS_MAX: usize = 2_000;
/// The longest reason of a pause, in characters.
pub const REASON_CHARACTERS_MAX: usize = 1_000;
/// The most patterns of one webhook.
pub const EVENTS_MAX: usize = 100;
/// The most bytes of a webhook's metadata, written as JSON.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Attempts where nobody says how many.
const RETRY_COUNT_DEFAULT: i32 = retry_policy::ATTEMPTS_DEFAULT.cast_signed();
/// Attempts at most.
const RETRY_COUNT_MAX: i32 = retry_policy::ATTEMPTS_MAX.cast_signed();
/// The whole time of an attempt where nobody says how long, and at most, in seconds.
const TIMEOUT_SECONDS_DEFAULT: i32 = 30;
const TIMEOUT_SECONDS_MAX: i32 = 60;
/// The most requests at once that a webhook may ask for.
const MAX_IN_FLIGHT_MAX: i32 = 10_000;
/// The range of a pace, in requests a second.
const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 100_000.0;
/// How many of what was held are sent a second, where nobody says, and at most.
const RESUME_RATE_DEFAULT: i32 = 50;
const RESUME_RATE_MAX: i32 = 10_000;
/// How long an old secret signs too, where nobody says, and at most, in seconds.
const GRACE_SECONDS_DEFAULT: i64 = 24 * 60 * 60;
const GRACE_SECONDS_MAX: i64 = 30 * 24 * 60 * 60;
/// The reason of a pause where nobody gives one.
const PAUSED_BY_HAND: &str = "paused by hand";

/// A webhook that may be made, with what is odd about it.
pub(super) fn create(
    body: Map<String, Value>,
    company: CompanyId,
    actor: &str,
    rules: &egress::Config,
) -> Result<(New, Vec<Warning>), Problem> {
    let mut fields = Fields::of(body);
    let change = common(&mut fields);
    let name = fields.need("name", name);
    let url = fields.need("url", url(rules));
    let events = fields.need("events", events);
    let retry_schedule = change.retry_schedule.flatten();
    let mut odd = warnings::of(url.as_deref(), events.as_deref(), name.as_deref(), change.secret.as_ref());
    if retry_schedule.is_some() && change.retry_count.is_some() {
        odd.push(warnings::count_beside_schedule());
    }
    odd.extend(fields.unknown().take(UNKNOWN_TOLD_MAX).map(warnings::unknown_field));
    fields.end()?;
    // Whatever is missing has ended it.
    let new = New {
        company,
        name: name.unwrap_or_default(),
        description: change.description.flatten(),
        url: url.unwrap_or_default(),
        events: events.unwrap_or_default(),
        active: change.active.unwrap_or(true),
        secret: change.secret.unwrap_or_else(Secret::generate),
        headers: change.headers.unwrap_or_default(),
        retry_count: change.retry_count.unwrap_or(RETRY_COUNT_DEFAULT),
        retry_schedule,
        timeout_seconds: change.timeout_seconds.unwrap_or(TIMEOUT_SECONDS_DEFAULT),
        max_in_flight: change.max_in_flight.flatten(),
        rate_limit: change.rate_limit.flatten(),
        auto_recover: change.auto_recover.unwrap_or(false),
        metadata: change.metadata.unwrap_or_else(|| "{}".to_owned()),
        created_by: Some(actor.to_owned()),
    };
    Ok((new, odd))
}

/// Unknown fields that are named in warnings.
const UNKNOWN_TOLD_MAX: usize = 20;

/// A change that may be made.
#[derive(Debug)]
pub(super) struct Changed {
    pub change: Change,
    /// Whether its secret was made here, and so is shown.
    pub shows_secret: bool,
    pub warnings: Vec<Warning>,
}

/// A change, where `has_schedule` says whether the webhook has one already.
pub(super) fn update(
    body: Map<String, Value>,
    has_schedule: bool,
    rules: &egress::Config,
) -> Result<Changed, Problem> {
    let shows_secret = body.get("secret").is_some_and(Value::is_null);
    let mut fields = Fields::of(body);
    let mut change = common(&mut fields);
    change.name = fields.not_null("name", name);
    change.url = fields.not_null("url", url(rules));
    change.events = fields.not_null("events", events);
    let (url, events, name) = (change.url.as_deref(), change.events.as_deref(), change.name.as_deref());
    let given = change.secret.as_ref().filter(|_| !shows_secret);
    let mut warnings = warnings::of(url, events, name, given);
    let has_schedule = change.retry_schedule.as_ref().map_or(has_schedule, Option::is_some);
    if has_schedule && change.retry_count.is_some() {
        warnings.push(warnings::count_beside_schedule());
    }
    warnings.extend(fields.unknown().take(UNKNOWN_TOLD_MAX).map(warnings::unknown_field));
    fields.end()?;
    Ok(Changed { change, shows_secret, warnings })
}

/// The fields that have a default, with what their null resets to.
fn common(fields: &mut Fields) -> Change {
    Change {
        description: fields.read("description", fields::text_of(DESCRIPTION_CHARACTERS_MAX)).or_empty(),
        active: fields.read("active", fields::boolean).or_default(|| true),
        secret: fields.read("secret", secret).or_default(Secret::generate),
        headers: headers(fields),
        retry_count: fields
            .read("retry_count", fields::whole(1, RETRY_COUNT_MAX))
            .or_default(|| RETRY_COUNT_DEFAULT),
        retry_schedule: fields.read("retry_schedule", schedule).or_empty(),
        timeout_seconds: fields
            .read("timeout_seconds", fields::whole(1, TIMEOUT_SECONDS_MAX))
            .or_default(|| TIMEOUT_SECONDS_DEFAULT),
        max_in_flight: fields.read("max_in_flight", fields::whole(1, MAX_IN_FLIGHT_MAX)).or_empty(),
        rate_limit: fields.read("rate_limit", fields::number(RATE_MIN, RATE_MAX)).or_empty(),
        auto_recover: fields.read("auto_recover", fields::boolean).or_default(|| false),
        metadata: fields.read("metadata", metadata).or_default(|| "{}".to_owned()),
        ..Change::default()
    }
}

fn name(value: Value) -> Result<String, String> {
    let name = fields::text_of(NAME_CHARACTERS_MAX)(value)?;
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.chars().any(char::is_control) {
        return Err("has control characters, as a line break".to_owned());
    }
    Ok(name)
}

/// A URL that deliveries may go to, as far as that shows without a look-up.
pub(super) fn url(rules: &egress::Config) -> impl FnOnce(Value) -> Result<String, String> {
    let (allowed, require_https) = (&rules.allowed_networks, rules.require_https);
    move |value| {
        let text = fields::text(value)?;
        address::check_url(&text, allowed, require_https).map_err(|wrong| wrong.to_string())?;
        if text.contains('\0') {
            return Err("has the character U+0000, which cannot be kept".to_owned());
        }
        Ok(text)
    }
}

/// Patterns of event types, each once.
fn events(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(given) = value else {
        return Err(format!("must be a list of event types, not {}", fields::kind(&value)));
    };
    if given.is_empty() {
        return Err("must name at least one event type, or `*` for all".to_owned());
    }
    if given.len() > EVENTS_GIVEN_MAX {
        return Err(format!("has {} entries; at most {EVENTS_MAX} patterns are taken", given.len()));
    }
    let mut once: Vec<String> = Vec::with_capacity(given.len().min(EVENTS_MAX));
    let mut wrong = Vec::new();
    for pattern in given {
        match fields::text(pattern).and_then(|text| subscription::check_pattern(&text).map(|()| text)) {
            Ok(pattern) if once.contains(&pattern) => {}
            Ok(pattern) => once.push(pattern),
            Err(why) => wrong.push(why),
        }
    }
    if !wrong.is_empty() {
        wrong.truncate(WRONG_PATTERNS_TOLD_MAX);
        return Err(wrong.join("; "));
    }
    if once.len() > EVENTS_MAX {
        return Err(format!("has {} patterns; at most {EVENTS_MAX} are taken", once.len()));
    }
    Ok(once)
}

/// Entries that are looked at, for some may stand there twice: each is compared with those before it.
const EVENTS_GIVEN_MAX: usize = 10 * EVENTS_MAX;

/// Of so many wrong patterns it is told what is wrong with each.
const WRONG_PATTERNS_TOLD_MAX: usize = 10;

/// A secret that something can be signed with.
fn secret(value: Value) -> Result<Secret, String> {
    let text = fields::text(value)?;
    signature::check_secret(&text)?;
    Ok(Secret::new(text))
}

/// Headers by their names. Each that is wrong is named by itself.
fn headers(fields: &mut Fields) -> Option<BTreeMap<String, String>> {
    let given = fields.read("headers", |value| match value {
        Value::Object(given) => Ok(given),
        other => Err(format!("must be an object of texts by their names, not {}", fields::kind(&other))),
    });
    let Field::Given(given) = given else { return given.or_default(Map::new).map(|_| BTreeMap::new()) };
    if given.len() > request::OWN_HEADERS_MAX {
        fields.wrong(
            "headers",
            format!("has {} headers; at most {} are taken", given.len(), request::OWN_HEADERS_MAX),
        );
        return None;
    }
    let mut headers = BTreeMap::new();
    for (name, value) in given {
        let twice = headers.keys().any(|known: &String| known.eq_ignore_ascii_case(&name));
        let checked = fields::text(value).and_then(|value| {
            let value = value.trim().to_owned();
            request::check_header(&name, &value).map(|()| value)
        });
        match checked {
            Ok(_) if twice => fields.wrong(format!("headers.{name}"), "stands there twice; give it once"),
            Ok(value) => drop(headers.insert(name, value)),
            Err(wrong) => fields.wrong(format!("headers.{name}"), wrong),
        }
    }
    Some(headers)
}

/// Waits in seconds, as a list or by the name of a preset.
fn schedule(value: Value) -> Result<Vec<i32>, String> {
    let waits = match value {
        Value::String(name) if name == retry_policy::PATIENT => {
            RetryPolicy::patient().schedule().unwrap_or_default().to_vec()
        }
        Value::Array(waits) => {
            let wait = fields::whole(0, i64::from(u32::MAX));
            let seconds = waits.into_iter().map(|value| Ok(u32::try_from(wait(value)?).unwrap_or(u32::MAX)));
            seconds.collect::<Result<Vec<u32>, String>>()?
        }
        other => {
            return Err(format!(
                "must be a list of seconds or `{}`, not {}",
                retry_policy::PATIENT,
                fields::kind(&other)
            ));
        }
    };
    RetryPolicy::from_schedule(waits.clone()).map_err(|wrong| wrong.to_string())?;
    Ok(waits.into_iter().map(|wait| i32::try_from(wait).unwrap_or(i32::MAX)).collect())
}

/// An object, as the text that is kept of it.
#[expect(clippy::needless_pass_by_value, reason = "readers of fields take what was taken out")]
fn metadata(value: Value) -> Result<String, String> {
    if !value.is_object() {
        return Err(format!("must be an object, not {}", fields::kind(&value)));
    }
    let text = value.to_string();
    match text.len() {
        n if n > METADATA_BYTES_MAX => {
            Err(format!("has {n} bytes as JSON; at most {METADATA_BYTES_MAX} are taken"))
        }
        _ => Ok(text),
    }
}

/// Why somebody pauses.
pub(super) fn pause(body: Map<String, Value>) -> Result<String, Problem> {
    let mut fields = Fields::of(body);
    let reason = fields.read("reason", fields::text_of(REASON_CHARACTERS_MAX)).given();
    fields.end()?;
    Ok(reason.filter(|reason| !reason.trim().is_empty()).unwrap_or_else(|| PAUSED_BY_HAND.to_owned()))
}

/// What becomes of what was held.
pub(super) fn resume(body: Map<String, Value>) -> Result<Held, Problem> {
    const HELD: &[(&str, HeldChoice)] = &[("deliver", HeldChoice::Deliver), ("discard", HeldChoice::Discard)];
    let mut fields = Fields::of(body);
    let held = fields.read("held", fields::word(HELD)).given();
    let rate = fields.read("rate", fields::whole(1, RESUME_RATE_MAX)).given();
    fields.end()?;
    Ok(match held.unwrap_or(HeldChoice::Deliver) {
        HeldChoice::Deliver => Held::Deliver { rate: rate.unwrap_or(RESUME_RATE_DEFAULT) },
        HeldChoice::Discard => Held::Discard,
    })
}

/// A rotation.
#[derive(Debug)]
pub(super) struct Rotation {
    pub secret: Secret,
    pub grace: std::time::Duration,
    pub guide_signature_is_previous: bool,
}

/// A rotation that may be done.
pub(super) fn rotation(body: Map<String, Value>) -> Result<Rotation, Problem> {
    const SIGNS: &[(&str, GuideSignature)] =
        &[("new", GuideSignature::New), ("previous", GuideSignature::Previous)];
    let mut fields = Fields::of(body);
    let secret = fields.read("secret", secret).given();
    let grace = fields.read("grace_seconds", fields::whole(0, GRACE_SECONDS_MAX)).given();
    let signs = fields.read("guide_signature", fields::word(SIGNS)).given();
    fields.end()?;
    let grace = u64::try_from(grace.unwrap_or(GRACE_SECONDS_DEFAULT)).unwrap_or_default();
    Ok(Rotation {
        secret: secret.unwrap_or_else(Secret::generate),
        grace: std::time::Duration::from_secs(grace),
        guide_signature_is_previous: signs == Some(GuideSignature::Previous),
    })
}

#[cfg(test)]
mod tests;
