//! `xtwebhooks migrate`: creates the tables, or brings them up to date.

use serde::Serialize;

use super::{failure::CommandFailure, output::Output};
use crate::store;

/// The database to migrate.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    store: store::Config,
}

#[derive(Serialize)]
struct Migrated {
    applied: usize,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    let pool = store::pool(&args.store, "migrate", 1)?;
    let applied = store::migrate::migrate(&pool).await?;
    output.show(&Migrated { applied }, |migrated| match migrated.applied {
        0 => "the tables are up to date".to_owned(),
        n => format!("{n} migrations applied"),
    })?;
    Ok(())
}
