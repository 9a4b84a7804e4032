//! The arguments that create or change a webhook, under the names of the API's fields.
//!
//! They are only read here; the API validates them.

use clap::Arg;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    super::{client::Remote, failure::CommandFailure},
    WebhookArg,
};
use crate::model::{RetryPolicy, webhook::settings::TIMEOUT_SECONDS_DEFAULT};

/// A new webhook.
#[derive(clap::Args, Debug)]
#[command(mut_args(of_a_new_one))]
pub(in crate::cli) struct CreateWebhook {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    settings: SettingArgs,
}

impl CreateWebhook {
    /// The API's address, and the body to send.
    pub(super) fn request(self) -> Result<(Remote, Object), CommandFailure> {
        Ok((self.remote, self.settings.body()?))
    }
}

/// A change: settings that are not given stay as they are.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct UpdateWebhook {
    #[command(flatten)]
    one: WebhookArg,
    #[command(flatten)]
    settings: SettingArgs,
}

impl UpdateWebhook {
    /// Which webhook, and what to change.
    pub(super) fn request(self) -> Result<(WebhookArg, Object), CommandFailure> {
        Ok((self.one, self.settings.body()?))
    }
}

/// The settings of a webhook. `none` empties a field, or resets it to its default.
#[derive(clap::Args, Debug)]
struct SettingArgs {
    /// Name, unique in the company
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// URL to post to
    #[arg(long)]
    url: Option<String>,
    /// Event types to send: `ticket.created,asset.*`, or `*` for all
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// Secret that signs every request from now on; `rotate-secret` gives receivers time to switch
    /// [a new webhook: generated]
    #[arg(long, value_name = "TEXT")]
    secret: Option<String>,
    /// Additional header, as `Name: value`; repeatable; the headers given replace all existing ones, `none`
    /// removes them
    #[arg(long, value_name = "HEADER")]
    headers: Option<Vec<String>>,
    /// Whether the webhook gets events; pending deliveries of an inactive webhook are cancelled
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
    /// Total attempts, 1 to 20, with waits of 1, 2, 4 … 64 s between them, unless there is a schedule [a new
    /// webhook: 3]
    #[arg(long, value_name = "N")]
    retry_count: Option<i32>,
    /// Waits between attempts, instead of a count: `5s,5m,2h`, `patient` for three days, or `none`
    #[arg(long, value_name = "WAITS")]
    retry_schedule: Option<String>,
    /// Total time that an attempt may take, 1 to 60 s
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<i32>,
    /// Seconds after its event, or after the request for its replay, in which a retry may start, 60 to 2,592,000, or
    /// `none`
    #[arg(long, value_name = "SECONDS", value_parser = or_none::<i32>)]
    max_attempt_age_seconds: Option<OrNone<i32>>,
    /// Requests in flight from each worker, or `none` for the service's default, LANE_IN_FLIGHT_MAX
    #[arg(long, value_name = "N", value_parser = or_none::<i32>)]
    max_in_flight: Option<OrNone<i32>>,
    /// Requests per second over all workers, or `none` for no limit
    #[arg(long, value_name = "PER_SECOND", value_parser = or_none::<f64>)]
    rate_limit: Option<OrNone<f64>>,
    /// After an outage, send again what was given up during it
    #[arg(long, value_name = "BOOL", default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    auto_recover: Option<bool>,
    /// Note for people, or `none`
    #[arg(long, value_name = "TEXT", value_parser = or_none::<String>)]
    description: Option<OrNone<String>>,
    /// JSON object to store with the webhook; replaces the whole object
    #[arg(long, value_name = "JSON", value_parser = object)]
    metadata: Option<Object>,
}

impl SettingArgs {
    /// The body with the settings that are given.
    fn body(self) -> Result<Object, CommandFailure> {
        let mut body = Object::new();
        set(&mut body, "name", self.name);
        set(&mut body, "url", self.url);
        set(&mut body, "events", self.events);
        set(&mut body, "secret", self.secret);
        set(&mut body, "headers", self.headers.as_deref().map(headers).transpose()?);
        set(&mut body, "active", self.active);
        set(&mut body, "retry_count", self.retry_count);
        set(&mut body, "retry_schedule", self.retry_schedule.as_deref().map(schedule).transpose()?);
        set(&mut body, "timeout_seconds", self.timeout_seconds);
        set(&mut body, "max_attempt_age_seconds", self.max_attempt_age_seconds.map(|value| value.0));
        set(&mut body, "max_in_flight", self.max_in_flight.map(|value| value.0));
        set(&mut body, "rate_limit", self.rate_limit.map(|value| value.0));
        set(&mut body, "auto_recover", self.auto_recover);
        set(&mut body, "description", self.description.map(|value| value.0));
        set(&mut body, "metadata", self.metadata);
        Ok(body)
    }
}

/// An argument for a new webhook: whether it is required, and the default that help shows.
fn of_a_new_one(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "name" | "url" | "events" => arg.required(true),
        "secret" => arg.env("WEBHOOK_SECRET").hide_env_values(true),
        "active" => arg.default_value("true"),
        "auto_recover" => arg.default_value("false"),
        "timeout_seconds" => arg.default_value(TIMEOUT_SECONDS_DEFAULT.to_string()),
        _ => arg,
    }
}

/// The word that empties a field.
const NONE: &str = "none";

/// A body, or part of one.
type Object = Map<String, Value>;

/// Puts a field into a body, if it is given.
fn set(body: &mut Object, name: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        // Texts, numbers and lists of them always make JSON.
        body.insert(name.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }
}

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// Headers as `Name: value`; the word `none` alone for none.
fn headers(lines: &[String]) -> Result<Object, CommandFailure> {
    let mut headers = Object::new();
    for line in lines.iter().filter(|line| *line != NONE) {
        let (name, value) = line.split_once(':').ok_or_else(|| {
            // The line is not repeated: it may contain a token.
            CommandFailure::refused("headers", "a header has no colon; write it as `Name: value`")
        })?;
        let known = headers.insert(name.trim().to_owned(), value.trim().into());
        if known.is_some() {
            return Err(CommandFailure::refused(
                "headers",
                format!("`{}` is given more than once", name.trim()),
            ));
        }
    }
    Ok(headers)
}

/// Waits in seconds; `none` for a policy by count.
fn schedule(text: &str) -> Result<Option<Vec<u32>>, CommandFailure> {
    if text == NONE {
        return Ok(None);
    }
    let policy: RetryPolicy = text.parse().map_err(|why| CommandFailure::refused("retry_schedule", why))?;
    Ok(policy.schedule().map(<[u32]>::to_vec))
}

/// A value, or the word `none`, which empties the field.
#[derive(Clone, Debug, PartialEq)]
struct OrNone<T>(Option<T>);

fn or_none<T>(text: &str) -> Result<OrNone<T>, T::Err>
where
    T: std::str::FromStr,
{
    if text == NONE { Ok(OrNone(None)) } else { text.parse().map(|value| OrNone(Some(value))) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Create_ {
        #[command(flatten)]
        args: CreateWebhook,
    }

    #[derive(Parser)]
    struct Update_ {
        #[command(flatten)]
        args: UpdateWebhook,
    }

    fn create(more: &[&str]) -> Result<Value, CommandFailure> {
        let usual = ["create", "--api-key=k", "--name=bot", "--url=https://example.com/"];
        let parsed = Create_::try_parse_from(usual.iter().chain(more))
            .map_err(|e| CommandFailure::Usage(e.to_string()))?;
        parsed.args.request().map(|(_, body)| Value::Object(body))
    }

    fn update(more: &[&str]) -> Value {
        let usual = ["update", "--api-key=k", "018f5b6e-0000-7000-8000-000000000001"];
        let parsed = Update_::try_parse_from(usual.iter().chain(more)).expect("arguments");
        Value::Object(parsed.args.request().expect("a body").1)
    }

    #[test]
    fn arguments_become_the_fields_of_the_api() {
        let body = create(&[
            "--events=ticket.*,a.b",
            "--headers=Authorization:  Bearer a:b ",
            "--retry-schedule=5s,5m,2h",
            "--rate-limit=2.5",
            "--metadata={\"team\": \"blue\"}",
        ]);
        let expected = json!({
            "name": "bot", "url": "https://example.com/", "events": ["ticket.*", "a.b"], "active": true,
            "headers": {"Authorization": "Bearer a:b"}, "retry_schedule": [5, 300, 7200], "timeout_seconds": 30,
            "rate_limit": 2.5, "auto_recover": false, "metadata": {"team": "blue"},
        });
        assert_eq!(body.unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_refused_here_and_no_token_is_repeated() {
        let check = |more: &[&str], expected: &str| {
            let refusal = create(&[&["--events=*"], more].concat()).unwrap_err().to_string();
            assert!(refusal.contains(expected) && !refusal.contains("hunter2"), "{refusal}");
        };
        check(&["--headers=token hunter2"], "`headers`");
        check(&["--headers=X-A: 1", "--headers=X-A: 2"], "more than once");
        check(&["--retry-schedule=soon"], "`retry_schedule`");
        check(&["--metadata=[]"], "not a JSON object");
        assert!(create(&[]).is_err(), "--events is needed");
    }

    #[test]
    fn a_change_names_what_is_given_and_none_is_null() {
        assert_eq!(update(&[]), json!({}));
        let body = update(&[
            "--active=false",
            "--retry-schedule=none",
            "--max-in-flight=none",
            "--rate-limit=2.5",
            "--headers=none",
            "--auto-recover",
        ]);
        let expected = json!({"active": false, "retry_schedule": null, "max_in_flight": null, "rate_limit": 2.5,
            "headers": {}, "auto_recover": true});
        assert_eq!(body, expected);
    }
}
