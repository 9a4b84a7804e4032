//! `xtwebhooks companies`: erases a company and shows the progress.

use std::time::Duration;

use super::{
    client::{ApiClient, Remote},
    failure::CommandFailure,
    output::{Output, OutputTable},
};
use crate::{api::companies::Erasure, model::CompanyId};

/// How often `--wait` checks the erasure.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Erase all data of a company: webhooks, bodies, dead letters, names in the audit log; this cannot be undone
    Erase {
        /// Id of the company
        #[arg(value_name = "COMPANY")]
        id: CompanyId,
        /// Wait until the erasure is complete
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show the progress of an erasure, and how much has arrived since
    Erasure {
        /// Id of the company
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
    let mut table = OutputTable::new(&["ITEM", "COUNT"]);
    let counts = [
        ("webhooks removed", erasure.webhooks),
        ("deliveries emptied", erasure.deliveries),
        ("of these, cancelled", erasure.cancelled),
        ("events removed", erasure.events),
        ("dead letters removed", erasure.dead_letters),
        ("other rows removed", erasure.records),
        ("events dropped since", erasure.dropped),
    ];
    for (what, count) in counts {
        table.row([what.to_owned(), count.to_string()]);
    }
    let head = match erasure.done_at {
        Some(at) => format!("{} was erased at {at}", erasure.company_id),
        None => format!("{} is being erased; current stage: {}", erasure.company_id, erasure.stage),
    };
    format!("{head}\n\n{}", table.render("nothing"))
}
