//! The command line: runs every role of the service, and has the commands to operate it.
//!
//! Results go to standard output, as tables for people or with `--json` as the REST API answers them; everything
//! else goes to standard error. Each command reads its arguments, asks the API, the ledger or the broker, and passes
//! the answer to `output` as one of the API's types.
//!
//! Begin with `run.rs` for the service itself, with `webhooks.rs` for a command.

mod args;
mod audit;
mod client;
mod companies;
mod dead_letters;
mod deliveries;
mod doctor;
mod event_types;
mod events;
mod failure;
mod keys;
mod lanes;
mod migrate;
mod openapi;
mod output;
mod publish;
mod receive;
mod renamed;
mod replay;
mod run;
#[cfg(test)]
mod settings;
mod topology;
mod webhooks;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{failure::CommandFailure, output::Output};
use crate::telemetry::logging;

/// Delivers XTSystems' domain events to customers' servers as signed webhooks, with retries, history and replay
#[derive(Parser, Debug)]
#[command(name = "xtwebhooks", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write results as JSON, in the same form as the REST API
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    logging: logging::Config,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 2 usage error, 3 database, broker or API unreachable, 4 not found, 5 refused";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service, with all roles or those given
    Run(run::Args),
    /// Create the database tables, or bring them up to date
    Migrate(migrate::Args),
    /// Show the exchanges, queues and ports that result from the settings
    Topology(topology::Args),
    /// Create, show, change, pause and test webhooks
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Erase all data of a company, and show the progress
    #[command(subcommand)]
    Companies(companies::Command),
    /// Publish events as XTSystems does, from arguments or standard input
    Publish(publish::Args),
    /// Run a test receiver that verifies and prints what arrives
    Receive(receive::Args),
    /// Show events and what became of them
    #[command(subcommand)]
    Events(events::Command),
    /// Show and register event types and their schemas
    #[command(subcommand)]
    EventTypes(event_types::Command),
    /// Show deliveries and their attempts
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// Show the state of each webhook's receiver, and what waits for it
    #[command(subcommand)]
    Lanes(lanes::Command),
    /// Show, replay and discard dead letters
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Send deliveries again
    Replay(replay::Args),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Show who changed what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Check that the database and the broker are set up as the service needs them; changes nothing
    Doctor(doctor::Args),
}

/// Reads the command line, runs the command, and returns the exit code.
pub fn main() -> ExitCode {
    let (args, warnings) = renamed::current(std::env::args_os(), |name| std::env::var(name).ok());
    let cli = Cli::parse_from(args);
    // A command reports a failure in one sentence; the service logs. The AMQP library's own lines only repeat what
    // `broker` logs about the same problem.
    let fallback = if matches!(cli.command, Command::Run(_)) { "info,lapin=off" } else { "off" };
    if let Err(error) = logging::init(&cli.logging, fallback) {
        eprintln!("xtwebhooks: cannot start logging: {error}");
        return ExitCode::FAILURE;
    }
    for warning in warnings {
        // Only the service logs.
        if matches!(cli.command, Command::Run(_)) {
            tracing::warn!("{warning}");
        } else {
            eprintln!("xtwebhooks: {warning}");
        }
    }
    // Two libraries of the tree would each bring a provider of their own and panic at the first handshake.
    // It can only fail if one is installed already, which is fine too.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("xtwebhooks: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(execute(cli.command, Output::new(cli.json))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtwebhooks: {failure}");
            failure.exit_code()
        }
    }
}

async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::Run(args) => run::execute(args).await,
        Command::Migrate(args) => migrate::execute(args, output).await,
        Command::Topology(args) => topology::execute(&args, output),
        Command::Publish(args) => publish::execute(args, output).await,
        Command::Webhooks(command) => webhooks::execute(command, output).await,
        Command::Companies(command) => companies::execute(command, output).await,
        Command::Receive(args) => receive::execute(args, output).await,
        Command::Events(command) => events::execute(command, output).await,
        Command::EventTypes(command) => event_types::execute(command, output).await,
        Command::Deliveries(command) => deliveries::execute(command, output).await,
        Command::Lanes(command) => lanes::execute(command, output).await,
        Command::Keys(command) => keys::execute(command, output).await,
        Command::Audit(command) => audit::execute(command, output).await,
        Command::Openapi => openapi::execute(output),
        Command::Doctor(args) => doctor::execute(args, output).await,
        Command::DeadLetters(command) => dead_letters::execute(command, output).await,
        Command::Replay(args) => replay::execute(args, output).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
