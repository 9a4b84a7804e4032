//! Warnings: what is unusual about a webhook but allowed.

use url::Url;

use super::shape::Warning;
use crate::model::{Secret, address, signature, subscription};

/// How similar two names must be to suggest one for the other; 1 is equality (Jaro-Winkler).
const ALIKE: f64 = 0.8;

/// Warnings about the request itself.
pub(super) fn of(
    url: Option<&str>,
    events: Option<&[String]>,
    name: Option<&str>,
    secret: Option<&Secret>,
) -> Vec<Warning> {
    let mut odd = Vec::new();
    if let Some(url) = url.and_then(|url| Url::parse(url).ok()) {
        odd.extend(of_url(&url));
    }
    if name.is_some_and(|name| name.trim().is_empty()) {
        odd.push(Warning::new("name", "is blank, so the webhook is hard to find in a list"));
    }
    let everything = |pattern: &String| pattern == subscription::ALL;
    if let Some(events) = events
        && events.len() > 1
        && events.iter().any(everything)
    {
        odd.push(Warning::new(
            "events",
            "`*` already includes all event types; the other entries have no effect",
        ));
    }
    if secret.is_some_and(|secret| signature::is_no_base64(secret.expose())) {
        odd.push(Warning::new(
            "secret",
            "begins with `whsec_` but no base64 follows: the literal text is used as the key, while Standard Webhooks \
             libraries expect base64",
        ));
    }
    odd
}

/// Warnings about a URL.
pub(super) fn of_url(url: &Url) -> Vec<Warning> {
    let mut odd = Vec::new();
    if url.scheme() == "http" {
        odd.push(Warning::new("url", "is http: anyone on the network path can read and change what is sent"));
    }
    if let Some(hint) = address::hint(url) {
        odd.push(Warning::new("url", hint));
    }
    if url.fragment().is_some() {
        odd.push(Warning::new("url", "has a fragment (#…), which is never sent"));
    }
    odd
}

/// A count that has no effect because of a schedule.
pub(super) fn count_beside_schedule() -> Warning {
    Warning::new("retry_count", "is stored but not followed while retry_schedule is set")
}

pub(super) fn unknown_field(name: &str) -> Warning {
    let name: String = name.chars().take(NAME_REPORTED_MAX).collect();
    Warning::new(name, "is not a known field and was ignored")
}

/// The maximum length of an unknown field's name in a warning, in characters.
const NAME_REPORTED_MAX: usize = 100;

/// Warnings about subscriptions to unknown types, each with the most similar known name.
pub(super) fn unknown_types(events: &[String], known: &[String]) -> Vec<Warning> {
    let mut odd = Vec::new();
    for (at, pattern) in events.iter().enumerate() {
        if let Some(message) = unknown_type(pattern, known) {
            odd.push(Warning::new(format!("events[{at}]"), message));
        }
    }
    odd
}

fn unknown_type(pattern: &str, known: &[String]) -> Option<String> {
    if pattern == subscription::ALL {
        return None;
    }
    let (is_known, nearest) = if let Some(prefix) = pattern.strip_suffix('*') {
        let prefixes = known.iter().filter_map(|name| Some(&name[..=name.rfind('.')?]));
        let nearest = nearest(prefix, prefixes).map(|prefix| format!("{prefix}*"));
        (known.iter().any(|name| name.starts_with(prefix)), nearest)
    } else {
        let nearest = nearest(pattern, known.iter().map(String::as_str)).map(str::to_owned);
        (known.iter().any(|name| name == pattern), nearest)
    };
    if is_known {
        return None;
    }
    let what =
        if pattern.ends_with('*') { "no matching type has been seen yet" } else { "has not been seen yet" };
    let meant = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Some(format!("`{pattern}`: {what}{meant}"))
}

fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let alike = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = alike.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(alike, _)| *alike >= ALIKE).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_is_not_known_is_told_with_the_nearest_that_is() {
        let known = ["ticket.created", "ticket.updated", "asset.created"].map(str::to_owned);
        let check = |pattern: &str, expected: Option<&str>| {
            assert_eq!(unknown_type(pattern, &known).as_deref(), expected, "{pattern}");
        };
        check("*", None);
        check("ticket.created", None);
        check("ticket.*", None);
        let meant = "`ticket.create`: has not been seen yet; did you mean `ticket.created`?";
        check("ticket.create", Some(meant));
        let meant = "`tickets.*`: no matching type has been seen yet; did you mean `ticket.*`?";
        check("tickets.*", Some(meant));
        check("zzz", Some("`zzz`: has not been seen yet"));
    }

    #[test]
    fn what_is_odd_about_a_url_is_told() {
        let check = |url: &str, expected: usize| {
            assert_eq!(of_url(&Url::parse(url).unwrap()).len(), expected, "{url}");
        };
        check("https://example.com/", 0);
        check("http://example.com/", 1);
        check("http://bot.svc.cluster.local:3000/x", 2);
        check("https://example.com/#here", 1);
    }
}
