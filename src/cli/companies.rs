//! `xtwebhooks companies`: to forget one, and to see how far that has come.

use std::time::Duration;

use super::{
    client::{ApiClient, Remote},
    failure::CommandFailure,
    output::{Output, OutputTable},
};
use crate::{api::companies::Erasure, model::CompanyId};

/// How often an erasure that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Remove everything of a company: webhooks, bodies, dead letters, names in the audit log; cannot be undone
    Erase {
        /// The company
        #[arg(value_name = "COMPANY")]
        id: CompanyId,
        /// Wait until nothing is left
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show how far an erasure has come, and what arrived since
    Erasure {
        /// The company
        #[arg(value_name = "COMPANY")]
        id: CompanyId,
        #[command(flatten)]
        remote: Remote,
    },
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    let erasure = match command {
        Command::Erase { id, wait, remote } => {
            let client = remote.client()?;
            let mut erasure: Erasure = client.delete(&format!("/v1/companies/{id}")).await?.body;
            while wait && erasure.done_at.is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
                erasure = look(&client, id).await?;
            }
            erasure
        }
        Command::Erasure { id, remote } => look(&remote.client()?, id).await?,
    };
    Ok(output.show(&erasure, text)?)
}

async fn look(client: &ApiClient, id: CompanyId) -> Result<Erasure, CommandFailure> {
    Ok(client.get(&format!("/v1/companies/{id}/erasure"), &[]).await?.body)
}

fn text(erasure: &Erasure) -> String {
    let mut table = OutputTable::new(&["WHAT", "SO FAR"]);
    let counts = [
        ("webhooks removed", erasure.webhooks),
        ("deliveries emptied", erasure.deliveries),
        ("of them cancelled", erasure.cancelled),
        ("events removed", erasure.events),
        ("dead letters removed", erasure.dead_letters),
        ("other rows", erasure.records),
        ("arrived since, dropped", erasure.dropped),
    ];
    for (what, count) in counts {
        table.row([what.to_owned(), count.to_string()]);
    }
    let head = match erasure.done_at {
        Some(at) => format!("{} is erased since {at}", erasure.company_id),
        None => format!("{} is being erased; now its {}", erasure.company_id, erasure.stage),
    };
    format!("{head}\n\n{}", table.render("nothing"))
}
