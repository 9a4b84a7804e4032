//! `xtwebhooks topology`: the exchanges, queues and ports that result from the settings. Connects to nothing.

use serde_json::{Value, json};

use super::{
    failure::CommandFailure,
    output::{Output, OutputTable},
};
use crate::{
    api,
    broker::{self, Topology},
    telemetry::probes,
};

/// The settings that determine them.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    broker: broker::Config,
    #[command(flatten)]
    probes: probes::Config,
    #[command(flatten)]
    api: api::Config,
}

pub(super) fn execute(args: &Args, output: Output) -> Result<(), CommandFailure> {
    let mut topology = Topology::new(&args.broker).to_json();
    if let Value::Object(parts) = &mut topology {
        let (api, probes) = (args.api.api_address.port(), args.probes.probes_address.port());
        parts.insert("ports".to_owned(), json!({ "api": api, "probes": probes }));
    }
    Ok(output.show(&topology, text)?)
}

fn text(topology: &Value) -> String {
    let word = |part: &Value, name: &str| part[name].as_str().unwrap_or_default().to_owned();
    let listed = |name: &str| topology[name].as_array().cloned().unwrap_or_default();
    let arguments = |part: &Value| {
        let pairs = part["arguments"].as_object().into_iter().flatten();
        pairs.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    };

    let mut exchanges = OutputTable::new(&["EXCHANGE", "TYPE", "ARGUMENTS"]);
    for exchange in listed("exchanges") {
        exchanges.row([word(&exchange, "name"), word(&exchange, "type"), arguments(&exchange)]);
    }
    let mut queues = OutputTable::new(&["QUEUE", "ARGUMENTS"]);
    for queue in listed("queues") {
        queues.row([word(&queue, "name"), arguments(&queue)]);
    }
    let mut ports = OutputTable::new(&["PORT", "NUMBER"]);
    for (name, port) in topology["ports"].as_object().into_iter().flatten() {
        ports.row([name.clone(), port.to_string()]);
    }
    let bindings = listed("bindings").len();
    let tables = [exchanges, queues, ports].map(|table| table.render("none"));
    format!("{}\n\n{bindings} bindings; `--json` lists them", tables.join("\n\n"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Topology_ {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_queue_and_port_is_named() {
        let parsed = [
            "x",
            "--amqp-prefix=p",
            "--delivery-shards=2",
            "--probes-address=0.0.0.0:1234",
            "--api-address=0.0.0.0:2345",
        ];
        let args = Topology_::try_parse_from(parsed).unwrap().args;
        let mut topology = Topology::new(&args.broker).to_json();
        topology["ports"] = json!({ "api": 2345, "probes": 1234 });
        let text = text(&topology);
        for word in [
            "p.events",
            "p.deliveries.1",
            "p.retry.64s",
            "p.dead-letters",
            "x-delivery-limit=100",
            "1234",
            "2345",
        ] {
            assert!(text.contains(word), "{word} in\n{text}");
        }
    }
}
