//! Log lines: text for people, JSON for machines, on standard error, because results go to standard output.
//!
//! No setting makes a line show what a message carries: the AMQP client logs returned messages and, at its most verbose
//! level, every frame with its bytes. A fixed filter after the configured one removes those.

use std::io::{self, IsTerminal};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For machines: one JSON object per line.
    Json,
    /// For people.
    Text,
}

/// What is logged, and how.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
#[group(skip)]
pub struct Config {
    /// Format of the log lines [default: text on a terminal, otherwise json]
    #[arg(long, env = "LOG_FORMAT", value_name = "FORMAT", global = true)]
    pub log_format: Option<Format>,
    /// What to log: a level, or levels per module such as `info,xtwebhooks::deliver=debug` [default: info for `run`,
    /// otherwise nothing]
    #[arg(long, env = "LOG", value_name = "FILTER", global = true, value_parser = check_filter)]
    pub log: Option<String>,
}

fn check_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Starts logging for the whole process, with the filter `fallback` where none is set.
///
/// # Errors
/// When it was started before, or the filter cannot be read.
pub fn init(config: &Config, fallback: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(config.log.as_deref().unwrap_or(fallback))?.and(filter_fn(may_be_shown));
    let on_terminal = io::stderr().is_terminal();
    let format = config.log_format.unwrap_or(if on_terminal { Format::Text } else { Format::Json });
    let lines = fmt::layer().with_writer(io::stderr);
    let layer = match format {
        // Fields are on the same level as the message, so that lines can be filtered by any of them.
        Format::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        Format::Text => lines.with_ansi(on_terminal).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

/// Whether lines of this kind can be shown without showing what a message carries.
fn may_be_shown(line: &Metadata<'_>) -> bool {
    is_harmless(line.target(), *line.level())
}

fn is_harmless(target: &str, level: Level) -> bool {
    let of = |module: &str| {
        target == module || target.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"))
    };
    !of("lapin::returned_messages") && (!of("lapin") || level <= Level::DEBUG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_shows_what_a_message_carries() {
        let check = |target: &str, level: Level, expected: bool| {
            assert_eq!(is_harmless(target, level), expected, "{target} {level}");
        };
        check("lapin::returned_messages", Level::WARN, false);
        check("lapin::returned_messages", Level::ERROR, false);
        check("lapin::channels", Level::TRACE, false);
        check("lapin", Level::TRACE, false);
        check("lapin::channels", Level::DEBUG, true);
        check("lapin::connection", Level::ERROR, true);
        check("lapinary", Level::TRACE, true);
        check("xtwebhooks::ingest", Level::TRACE, true);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_at_the_start() {
        assert!(check_filter("info,xtwebhooks::deliver=debug").is_ok());
        assert!(check_filter("xtwebhooks=loud").is_err());
    }
}
