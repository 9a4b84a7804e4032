//! How a command fails: one sentence, and an exit code that a script can act on.

use std::{fmt, process::ExitCode};

use crate::{broker, store};

/// Why a command failed.
#[derive(Debug)]
pub(super) enum CommandFailure {
    /// Something broke.
    Failed(anyhow::Error),
    /// The arguments do not fit together.
    Usage(String),
    /// The database or the broker cannot be reached.
    Unreachable(anyhow::Error),
    /// It does not exist, or not in this company.
    NotFound(String),
    /// The request is not allowed; the sentence names the field and says what to do.
    Refused(String),
}

impl CommandFailure {
    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::NotFound(_) => 4,
            Self::Refused(_) => 5,
        })
    }

    /// A value that is not accepted; `field` is its name in the API.
    pub(super) fn refused(field: &str, why: impl fmt::Display) -> Self {
        Self::Refused(format!("`{field}`: {why}"))
    }
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::Unreachable(error) => f.write_str(&chain(error)),
            Self::Usage(text) | Self::NotFound(text) | Self::Refused(text) => f.write_str(text),
        }
    }
}

impl From<anyhow::Error> for CommandFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<store::Error> for CommandFailure {
    fn from(error: store::Error) -> Self {
        use store::Error as E;
        match error {
            E::NameTaken | E::Refused { .. } => Self::Refused(error.to_string()),
            E::Unreachable(_) | E::NotLetIn(_) => Self::Unreachable(error.into()),
            E::BadUrl(_) => Self::Usage(chain(&error.into())),
            _ => Self::Failed(error.into()),
        }
    }
}

impl From<broker::Error> for CommandFailure {
    fn from(error: broker::Error) -> Self {
        use broker::Error as E;
        match error {
            E::Url(_) => Self::Usage(error.to_string()),
            E::Credentials(_) | E::Refused(_) | E::Unreachable(_) | E::Channel(_) | E::Silent { .. } => {
                Self::Unreachable(error.into())
            }
            _ => Self::Failed(error.into()),
        }
    }
}

/// An error with its sources, each once: some libraries repeat in theirs what the source says.
fn chain(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, source| {
        let source = source.to_string();
        if !text.contains(&source) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{colon}{source}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_can_tell_the_failures_apart() {
        let check = |failure: CommandFailure, code: u8, text: &str| {
            assert_eq!(
                format!("{:?}", failure.exit_code()),
                format!("{:?}", ExitCode::from(code)),
                "{failure}"
            );
            assert!(failure.to_string().contains(text), "{failure}");
        };
        let lost = || sqlx::Error::PoolTimedOut;
        check(store::Error::NameTaken.into(), 5, "`name` is taken");
        check(store::Error::Refused { field: "rate", reason: "must be 1" }.into(), 5, "`rate` must be 1");
        check(store::Error::Unreachable(lost()).into(), 3, "DATABASE_URL");
        check(store::Error::NotLetIn(lost()).into(), 3, "DATABASE_URL");
        check(store::Error::BadUrl(lost()).into(), 2, "postgres://");
        check(store::Error::NotMigrated { missing: 2, known: 5 }.into(), 1, "xtwebhooks migrate");
        check(CommandFailure::refused("url", "is required"), 5, "`url`: is required");
        check(CommandFailure::NotFound("Webhook not found".to_owned()), 4, "Webhook not found");
        check(CommandFailure::Failed(anyhow::anyhow!("inner").context("outer")), 1, "outer: inner");
        check(broker::Error::Unreachable("refused".to_owned()).into(), 3, "RabbitMQ cannot be reached");
        check(broker::Error::Url("empty".to_owned()).into(), 2, "AMQP_URL");
        check(broker::Error::NoExchange { name: "x".to_owned() }.into(), 1, "`x`");
    }

    #[test]
    fn what_a_source_repeats_is_said_once() {
        let error = anyhow::anyhow!("no route").context("cannot connect: no route").context("unreachable");
        assert_eq!(chain(&error), "unreachable: cannot connect: no route");
    }
}
