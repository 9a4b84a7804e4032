//! The command line: every role of the service, and what a person needs to look after it.
//!
//! Results go to standard output, as tables for people or with `--json` as the REST API answers them; everything
//! else goes to standard error. Each command reads its arguments, asks the ledger or the broker, makes of the answer
//! one of the API's shapes, and hands it to `output`: only the asking knows how the answer came.
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

/// Carries XTSystems' domain events to other people's servers: signed, retried, recorded, replayable
#[derive(Parser, Debug)]
#[command(name = "xtwebhooks", version, max_term_width = 110, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Write results as JSON, in the shapes of the REST API
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    logging: logging::Config,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 usage, 3 database or broker unreachable, 4 not found, 5 refused";

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service: all roles in one process, or those named
    Run(run::Args),
    /// Make the tables, or bring them up to date
    Migrate(migrate::Args),
    /// Show the exchanges, queues and ports that the settings lead to
    Topology(topology::Args),
    /// Register webhooks, look at them, change and pause them
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Forget a company, and see how far that has come
    #[command(subcommand)]
    Companies(companies::Command),
    /// Publish events as XTSystems does, from arguments or from standard input
    Publish(publish::Args),
    /// Listen as a receiver would, verify what arrives and print it
    Receive(receive::Args),
    /// Look at what was taken in, and what became of it
    #[command(subcommand)]
    Events(events::Command),
    /// Look at what kinds of events there are, and say what they must look like
    #[command(subcommand)]
    EventTypes(event_types::Command),
    /// Look at what was sent to whom, and what came of it
    #[command(subcommand)]
    Deliveries(deliveries::Command),
    /// Look at how each webhook's receiver does, and what waits for it
    #[command(subcommand)]
    Lanes(lanes::Command),
    /// Look at what was given up
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Send deliveries again
    Replay(replay::Args),
    /// Say who may call the API, and what each may do
    #[command(subcommand)]
    Keys(keys::Command),
    /// Look at who changed what
    #[command(subcommand)]
    Audit(audit::Command),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Look whether database and broker are as the service needs them; changes nothing
    Doctor(doctor::Args),
}

/// Reads the command line, does what it says, and tells the exit code.
pub fn main() -> ExitCode {
    let (args, warnings) = renamed::current(std::env::args_os(), |name| std::env::var(name).ok());
    let cli = Cli::parse_from(args);
    // A command says in one sentence what went wrong; the service logs. The AMQP library's own lines only repeat
    // what `broker` says of the same trouble.
    let fallback = if matches!(cli.command, Command::Run(_)) { "info,lapin=off" } else { "off" };
    if let Err(error) = logging::init(&cli.logging, fallback) {
        eprintln!("xtwebhooks: logging cannot be started: {error}");
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
    // It can only fail where one is installed already, and that one serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("xtwebhooks: no threads can be had from the system: {error}");
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
