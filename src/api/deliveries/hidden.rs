//! What callers without access to bodies see of headers: all names, and the values that contain no secret.
//!
//! A webhook's own headers are often tokens, and a response may set cookies. Headers of the service itself are shown, also
//! the signature: it is valid for one body and one second, and is needed to find out why a receiver refuses it. So these
//! lists say what is shown; everything else is hidden.

/// Request headers whose values are shown, in addition to the service's own.
const OF_REQUESTS: [&str; 6] =
    ["content-type", "content-length", "host", "user-agent", "traceparent", "accept"];
/// The prefixes of the service's own headers.
const OWN: [&str; 2] = ["x-xtsystems-", "webhook-"];
/// Response headers whose values are shown.
const OF_ANSWERS: [&str; 12] = [
    "allow",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "retry-after",
    "server",
    "transfer-encoding",
    "via",
    "x-ratelimit-remaining",
    "x-ratelimit-reset-after",
];
/// The placeholder for a hidden value.
const LEFT_OUT: &str = "…";

/// The headers of a request.
pub(super) fn request(head: &str) -> String {
    lines(head, |name| OF_REQUESTS.contains(&name) || OWN.iter().any(|prefix| name.starts_with(prefix)))
}

/// The headers of an answer.
pub(super) fn answer(head: &str) -> String {
    lines(head, |name| OF_ANSWERS.contains(&name))
}

fn lines(head: &str, is_shown: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.split_once(':') {
        Some((name, _)) if !is_shown(&name.trim().to_ascii_lowercase()) => format!("{name}: {LEFT_OUT}"),
        _ => line.trim_end().to_owned(),
    };
    head.lines().map(|text| line(text) + "\r\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_and_values_go_but_for_those_that_hold_no_secret() {
        let sent = "Content-Type: application/json\r\nAuthorization: Bearer t0ken\r\nX-XTSystems-Signature: sha256=ab\r\n\
                    webhook-id: 1\r\nX-Key: a:b\r\n";
        let shown = "Content-Type: application/json\r\nAuthorization: …\r\nX-XTSystems-Signature: sha256=ab\r\n\
                     webhook-id: 1\r\nX-Key: …\r\n";
        assert_eq!(request(sent), shown);
        assert_eq!(answer("retry-after: 5\r\nset-cookie: s=1\r\n"), "retry-after: 5\r\nset-cookie: …\r\n");
        assert_eq!(request(""), "");
    }
}
