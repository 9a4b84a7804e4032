//! Which webhooks want an event, and why another does not.
//!
//! A pattern is an event type, `*` for all, or `ticket.*` for every type that starts with `ticket.`. A star has no
//! meaning anywhere else.

use super::event::{EVENT_TYPE_BYTES_MAX, EventType};

/// The pattern of every type.
pub const ALL: &str = "*";

/// Whether one of `patterns` wants `event_type`.
#[must_use]
pub fn matches(patterns: &[String], event_type: &EventType) -> bool {
    patterns.iter().any(|pattern| matches_one(pattern, event_type.as_str()))
}

fn matches_one(pattern: &str, event_type: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        // The dot belongs to the prefix: `ticket.*` wants neither `ticket` nor `tickets.created`.
        Some(prefix) if prefix.ends_with('.') => event_type.starts_with(prefix),
        _ => pattern == event_type,
    }
}

/// Whether `text` can be subscribed to; if not, what is wrong with it.
pub fn check_pattern(text: &str) -> Result<(), String> {
    let name = match text.strip_suffix(".*") {
        _ if text == ALL => return Ok(()),
        Some(prefix) => prefix,
        None => text,
    };
    if name.contains('*') {
        return Err(format!("`{text}`: a star must be alone (`*`) or at the end after a dot (`ticket.*`)"));
    }
    if text.len() > EVENT_TYPE_BYTES_MAX {
        return Err(format!("`{text}` is longer than {EVENT_TYPE_BYTES_MAX} characters"));
    }
    name.parse::<EventType>().map(drop).map_err(|bad| format!("`{text}` {bad}"))
}

/// Why a webhook gets no delivery of an event of its company.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NonMatch {
    /// It is switched off.
    Inactive,
    Deleted,
    /// None of its patterns wants the type.
    TypeNotSubscribed,
    /// It was created after the event was matched.
    NotYetThere,
}

impl NonMatch {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Deleted => "deleted",
            Self::TypeNotSubscribed => "type not subscribed",
            Self::NotYetThere => "not yet there",
        }
    }
}

/// Why a webhook in that state did not want events of this type; `None` if it did. The caller ensures that webhook and
/// event are of one company.
#[must_use]
pub fn why_not_then(
    patterns: &[String],
    active: bool,
    deleted: bool,
    event_type: &EventType,
) -> Option<NonMatch> {
    if deleted {
        Some(NonMatch::Deleted)
    } else if !active {
        Some(NonMatch::Inactive)
    } else if matches(patterns, event_type) {
        None
    } else {
        Some(NonMatch::TypeNotSubscribed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{event_type, webhook};

    #[test]
    fn a_pattern_is_a_type_or_a_prefix_up_to_a_dot_or_all() {
        let check = |patterns: &[&str], name: &str, expected: bool| {
            let owned: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            assert_eq!(matches(&owned, &event_type(name)), expected, "{patterns:?} for {name}");
        };
        check(&["ticket.created"], "ticket.created", true);
        check(&["ticket.created"], "ticket.closed", false);
        check(&["ticket.created"], "ticket.created.late", false);
        check(&["ticket.create"], "ticket.created", false);
        check(&["Ticket.created"], "ticket.created", false);
        check(&["ticket.*"], "ticket.created", true);
        check(&["ticket.*"], "ticket.created.late", true);
        check(&["ticket.*"], "ticket.", true);
        check(&["ticket.*"], "ticket", false);
        check(&["ticket.*"], "tickets.created", false);
        check(&["ticket.created.*"], "ticket.created", false);
        check(&["*"], "anything:at/all", true);
        check(&["asset.created", "ticket.*"], "ticket.closed", true);
        check(&[], "ticket.created", false);
        // Such patterns are refused; if one is in the ledger all the same, it wants nothing.
        check(&["ticket*"], "ticket.created", false);
        check(&["*.created"], "ticket.created", false);
        check(&["t*.created"], "ticket.created", false);
        check(&["**"], "ticket.created", false);
        check(&[""], "ticket.created", false);
    }

    #[test]
    fn a_star_may_stand_alone_or_at_the_end_behind_a_dot() {
        let check = |text: &str, expected: Result<(), &str>| {
            assert_eq!(check_pattern(text), expected.map_err(str::to_owned), "{text:?}");
        };
        check("*", Ok(()));
        check("ticket.*", Ok(()));
        check("ticket.created.*", Ok(()));
        check("ticket.created", Ok(()));
        for text in ["ticket*", "*.created", "t*.created", "**", "*.*", "ticket.*.*"] {
            let reason =
                format!("`{text}`: a star must be alone (`*`) or at the end after a dot (`ticket.*`)");
            check(text, Err(&reason));
        }
        let characters =
            "may contain only letters, digits and . _ - : / and must start with a letter or digit";
        check("", Err("`` is empty"));
        check(".*", Err("`.*` is empty"));
        check("a b", Err(&format!("`a b` {characters}")));
        check(".created", Err(&format!("`.created` {characters}")));
        let long = "a".repeat(101);
        check(&long[1..], Ok(()));
        check(&long, Err(&format!("`{long}` is longer than 100 characters")));
        let long = format!("{}.*", &long[..99]);
        check(&long, Err(&format!("`{long}` is longer than 100 characters")));
    }

    #[test]
    fn a_webhook_says_why_it_does_not_want_an_event() {
        let check = |name: &str, active: bool, deleted: bool, expected: Option<NonMatch>| {
            assert_eq!(
                why_not_then(&webhook().settings.events, active, deleted, &event_type(name)),
                expected
            );
        };
        check("ticket.created", true, false, None);
        check("asset.created", true, false, Some(NonMatch::TypeNotSubscribed));
        check("ticket.created", false, false, Some(NonMatch::Inactive));
        check("asset.created", false, false, Some(NonMatch::Inactive));
        check("ticket.created", false, true, Some(NonMatch::Deleted));
        check("ticket.created", true, true, Some(NonMatch::Deleted));
    }
}
