//! What can go wrong with RabbitMQ, in messages that tell the operator what to do.

use lapin::ErrorKind;

/// Why the broker cannot be used. The first group does not go away by itself: a role that starts gives up on it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `AMQP_URL` cannot be read. The text never repeats the URL, which holds a password.
    #[error("AMQP_URL is not a URL such as amqp://user:password@host:5672/vhost: {0}")]
    Url(String),
    /// The server rejects the user's name or password.
    #[error("RabbitMQ rejected the user name or password in AMQP_URL: {0}")]
    Credentials(String),
    /// The server refuses something else: the virtual host is missing, or the user may not use or configure it.
    #[error(
        "RabbitMQ refused access: {0}; check the virtual host in AMQP_URL and the user's permissions on it"
    )]
    Refused(String),
    /// A server from before quorum queues had message TTLs.
    #[error(
        "RabbitMQ {found} is too old: version 3.10 or later is required, for message TTL and dead-lettering in quorum queues"
    )]
    TooOld {
        /// The version that the server tells.
        found: String,
    },
    /// An exchange or a queue exists, but is not ours or was made with another setting.
    #[error(
        "{kind} `{name}` exists with {argument} = {current}, but {needed} is needed: restore the setting, choose another \
         AMQP_PREFIX, or stop every process, drain the {kind} and delete it; it will be declared again"
    )]
    Mismatch {
        /// `queue` or `exchange`.
        kind: &'static str,
        name: String,
        /// The argument that differs.
        argument: String,
        /// What we declare.
        needed: String,
        /// What is there.
        current: String,
    },
    /// The exchange of events is not there for its publisher.
    #[error(
        "exchange `{name}` does not exist: check EVENTS_EXCHANGE, or start the service once to create it"
    )]
    NoExchange { name: String },
    /// No connection could be opened, or it broke.
    #[error("RabbitMQ cannot be reached: {0}")]
    Unreachable(String),
    /// The server closed a channel, or did not answer on it.
    #[error("RabbitMQ closed a channel: {0}")]
    Channel(String),
    /// The connection is open, but nothing comes back.
    #[error("RabbitMQ did not answer within {seconds} s: {what}")]
    Silent {
        /// What was asked.
        what: &'static str,
        /// How long we waited.
        seconds: u64,
    },
    /// The process is stopping.
    #[error("the broker connections are closed because the process is stopping")]
    Closed,
}

impl Error {
    /// Whether retrying cannot help, so that a start had better fail with the reason.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Url(_)
                | Self::Credentials(_)
                | Self::Refused(_)
                | Self::TooOld { .. }
                | Self::Mismatch { .. }
                | Self::NoExchange { .. }
        )
    }

    pub(super) fn silent(what: &'static str, after: std::time::Duration) -> Self {
        Self::Silent { what, seconds: after.as_secs() }
    }
}

/// `403 ACCESS_REFUSED`: credentials while connecting, permissions later.
const ACCESS_REFUSED: u16 = 403;
/// `404 NOT_FOUND`: the queue or exchange is not there.
const NOT_FOUND: u16 = 404;
/// `406 PRECONDITION_FAILED`: it is there with other arguments.
const PRECONDITION_FAILED: u16 = 406;
/// `530 NOT_ALLOWED`: while connecting, the virtual host is missing or forbidden.
const NOT_ALLOWED: u16 = 530;

fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(reply) => Some((reply.get_id(), reply.get_message().to_string())),
        _ => None,
    }
}

/// Whether the server said that a queue or an exchange does not exist.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    reply(error).is_some_and(|(code, _)| code == NOT_FOUND)
}

/// The meaning of an error while connecting.
pub(super) fn on_connect(error: &lapin::Error) -> Error {
    match reply(error) {
        Some((ACCESS_REFUSED, text)) => Error::Credentials(text),
        Some((NOT_ALLOWED, text)) => Error::Refused(text),
        Some((_, text)) => Error::Unreachable(text),
        None => Error::Unreachable(error.to_string()),
    }
}

/// The meaning of an error while declaring.
pub(super) fn on_declare(error: &lapin::Error) -> Error {
    match reply(error) {
        Some((PRECONDITION_FAILED, text)) => mismatch(&text).unwrap_or(Error::Refused(text)),
        Some((ACCESS_REFUSED, text)) => Error::Refused(text),
        _ => on_channel(error),
    }
}

/// The meaning of an error on an open channel.
pub(super) fn on_channel(error: &lapin::Error) -> Error {
    match reply(error) {
        Some((_, text)) => Error::Channel(text),
        None => Error::Unreachable(error.to_string()),
    }
}

/// Reads RabbitMQ's sentence about an argument that differs:
/// `PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '2' but current is '1'`.
/// A value is either quoted or `none`, or `the value '2' of type 'signedint'`. Quotes are kept where they are all.
fn mismatch(text: &str) -> Option<Error> {
    let rest = text.split_once("inequivalent arg '")?.1;
    let (argument, rest) = rest.split_once("' for ")?;
    let (kind, rest) = rest.split_once(" '")?;
    let (name, rest) = rest.split_once("' in vhost")?;
    let rest = rest.split_once("received ")?.1;
    let (needed, current) = rest.split_once(" but current is ")?;
    Some(Error::Mismatch {
        kind: if kind == "exchange" { "exchange" } else { "queue" },
        name: name.to_owned(),
        argument: argument.to_owned(),
        needed: value(needed),
        current: value(current),
    })
}

fn value(text: &str) -> String {
    let text = text.strip_prefix("the value ").unwrap_or(text);
    let text = text.split_once(" of type ").map_or(text, |(value, _)| value);
    let bare = text.trim_matches('\'');
    if bare.is_empty() { text.to_owned() } else { bare.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mismatch_is_read_from_the_servers_sentence() {
        let check = |text: &str, expected: Option<[&str; 5]>| {
            let found = mismatch(text).map(|error| match error {
                Error::Mismatch { kind, name, argument, needed, current } => {
                    [kind.to_owned(), name, argument, needed, current]
                }
                other => panic!("{other}"),
            });
            assert_eq!(found, expected.map(|fields| fields.map(str::to_owned)), "{text}");
        };
        check(
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'p.retry.1s' in vhost '/': received \
             '2' but current is '1'",
            Some(["queue", "p.retry.1s", "x-max-length", "2", "1"]),
        );
        check(
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost 'it's': received the \
             value '7' of type 'signedint' but current is none",
            Some(["queue", "q", "x-delivery-limit", "7", "none"]),
        );
        check(
            "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received none but \
             current is the value 'quorum' of type 'longstr'",
            Some(["queue", "q", "x-queue-type", "none", "quorum"]),
        );
        check(
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'topic' but \
             current is 'fanout'",
            Some(["exchange", "e", "type", "topic", "fanout"]),
        );
        check("PRECONDITION_FAILED - unknown delivery tag 7", None);
    }

    #[test]
    fn only_what_does_not_mend_itself_ends_a_start() {
        let check = |error: Error, expected: bool| assert_eq!(error.is_fatal(), expected, "{error}");
        check(Error::Url("empty host".into()), true);
        check(Error::Credentials("no".into()), true);
        check(Error::TooOld { found: "3.9.1".into() }, true);
        check(Error::NoExchange { name: "x".into() }, true);
        check(Error::Unreachable("refused".into()), false);
        check(Error::Channel("gone".into()), false);
        check(Error::silent("a channel", std::time::Duration::from_secs(2)), false);
        check(Error::Closed, false);
    }
}
