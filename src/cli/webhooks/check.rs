//! What is taken for a webhook, and what is refused with the reason and the way out.
//!
//! Ranges of numbers and lengths are constraints of the table, which answers for them.

use std::collections::BTreeMap;

use super::{super::failure::Failure, arguments::UrlRules};
use crate::model::{RetryPolicy, Secret, address, request, subscription};

/// The word that empties a field.
pub(super) const NONE: &str = "none";

/// The most patterns of one webhook.
const EVENTS_MAX: usize = 100;

/// The most headers of its own that a webhook has.
const HEADERS_MAX: usize = 50;

/// The longest secret, in bytes; the guide's column has room for as many characters.
const SECRET_BYTES_MAX: usize = 255;

/// A URL that deliveries may go to, as far as that shows without a look-up.
pub(super) fn url(text: &str, rules: &UrlRules) -> Result<(), Failure> {
    let url = address::check_url(text, &rules.allowed_networks, rules.require_https);
    let url = url.map_err(|why| Failure::refused("url", why))?;
    if let Some(hint) = address::hint(&url) {
        eprintln!("note: {hint}");
    }
    Ok(())
}

/// Patterns of event types, each once.
pub(super) fn events(patterns: Vec<String>) -> Result<Vec<String>, Failure> {
    let mut once: Vec<String> = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        subscription::check_pattern(&pattern).map_err(|why| Failure::refused("events", why))?;
        if !once.contains(&pattern) {
            once.push(pattern);
        }
    }
    if once.len() > EVENTS_MAX {
        return Err(Failure::refused(
            "events",
            format!("{} patterns; at most {EVENTS_MAX} are taken", once.len()),
        ));
    }
    Ok(once)
}

/// A secret that something can be signed with.
pub(super) fn secret(text: &str) -> Result<Secret, Failure> {
    match text.len() {
        0 => Err(Failure::refused("secret", "is empty; leave it out, and one is made")),
        n if n > SECRET_BYTES_MAX => {
            Err(Failure::refused("secret", format!("has {n} bytes; at most {SECRET_BYTES_MAX} are taken")))
        }
        _ => Ok(Secret::new(text)),
    }
}

/// Headers as `Name: value`; the word `none` alone for none.
pub(super) fn headers(lines: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut headers = BTreeMap::new();
    for line in lines.iter().filter(|line| *line != NONE) {
        let (name, value) = line.split_once(':').ok_or_else(|| {
            // The line is not repeated: it may well hold a token.
            Failure::refused("headers", "a header has no colon; write it as `Name: value`")
        })?;
        let (name, value) = (name.trim(), value.trim());
        request::check_header(name, value).map_err(|why| Failure::refused("headers", why))?;
        if headers.keys().any(|given: &String| given.eq_ignore_ascii_case(name)) {
            return Err(Failure::refused("headers", format!("`{name}` stands there twice; give it once")));
        }
        headers.insert(name.to_owned(), value.to_owned());
    }
    if headers.len() > HEADERS_MAX {
        return Err(Failure::refused(
            "headers",
            format!("{} headers; at most {HEADERS_MAX} are taken", headers.len()),
        ));
    }
    Ok(headers)
}

/// Waits in seconds; `none` for a policy by count.
pub(super) fn schedule(text: &str) -> Result<Option<Vec<i32>>, Failure> {
    if text == NONE {
        return Ok(None);
    }
    let policy: RetryPolicy = text.parse().map_err(|why| Failure::refused("retry_schedule", why))?;
    let seconds = |&wait: &u32| i32::try_from(wait).expect("a wait is a day at most");
    Ok(policy.schedule().map(|waits| waits.iter().map(seconds).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let read = |lines: &[&str]| headers(&lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>());
        let expected = BTreeMap::from([("Authorization".to_owned(), "Bearer a:b".to_owned())]);
        assert_eq!(read(&["Authorization:  Bearer a:b "]).unwrap(), expected);
        assert!(read(&["none"]).unwrap().is_empty());
        assert!(read(&["X-A: 1", "x-a: 2"]).unwrap_err().to_string().contains("twice"));
        assert!(!read(&["token hunter2"]).unwrap_err().to_string().contains("hunter2"));
    }

    #[test]
    fn a_schedule_is_waits_in_seconds() {
        assert_eq!(schedule("5s,5m,2h").unwrap(), Some(vec![5, 300, 7_200]));
        assert_eq!(schedule("patient").unwrap().unwrap().len(), 9);
        assert_eq!(schedule("none").unwrap(), None);
        assert!(schedule("25h").is_err());
    }

    #[test]
    fn a_pattern_given_twice_is_kept_once() {
        let given = ["a.b", "c.*", "a.b"].map(str::to_owned).to_vec();
        assert_eq!(events(given).unwrap(), ["a.b", "c.*"]);
        let many = (0..=EVENTS_MAX).map(|n| format!("a.{n}")).collect();
        assert!(events(many).is_err());
    }
}
