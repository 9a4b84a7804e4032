//! Judges the broker's answers.

use super::{super::run::Args, Finding, Severity};
use crate::broker::{
    Queue,
    inspect::{Depth, Inspection},
};

/// More events than this are not a short burst: ingest takes thousands per second.
const EVENTS_WARNED: u32 = 10_000;

/// All of it.
pub(super) fn of_inspection(inspection: &Inspection, settings: &Args) -> Vec<Finding> {
    let version = inspection.version.as_deref().unwrap_or("(unknown version)");
    let mut findings = vec![Finding::ok("broker", format!("RabbitMQ {version} answers"))];
    findings.extend(of_topology(inspection));
    findings.extend(inspection.queues.iter().filter_map(of_queue));
    findings.push(of_consumer_timeout(settings));
    findings
}

/// Whether everything is declared as the settings say.
fn of_topology(inspection: &Inspection) -> Vec<Finding> {
    let exchanges = inspection.missing_exchanges.iter().map(|name| format!("exchange {name}"));
    let queues = inspection.missing_queues.iter().map(|name| format!("queue {name}"));
    let missing: Vec<String> = exchanges.chain(queues).collect();
    let mut findings: Vec<Finding> = inspection
        .mismatches
        .iter()
        .map(|mismatch| {
            let remedy =
                "do what the finding says; until then no process of the service starts with these settings";
            Finding::bad(Severity::Fault, "topology", mismatch.to_string(), remedy)
        })
        .collect();
    if !missing.is_empty() {
        let nothing = inspection.queues.is_empty() && inspection.mismatches.is_empty();
        let state = if nothing { "nothing is declared yet" } else { "some are missing" };
        let found = format!("{state}: {}", missing.join(", "));
        let remedy = "start the service, which declares everything; if it is already running, its settings differ from these";
        findings.push(Finding::bad(Severity::Warning, "topology", found, remedy));
    }
    if findings.is_empty() {
        let found = format!("all {} queues exist with the expected arguments", inspection.queues.len());
        findings.push(Finding::ok("topology", found));
    }
    findings
}

/// Whether a queue holds what it should not, or has no consumer.
fn of_queue(depth: &Depth) -> Option<Finding> {
    let Depth { queue, name, ready, consumers } = depth;
    let role = match queue {
        Queue::Events | Queue::QuarantineEvents => "ingest",
        Queue::Deliveries(_) | Queue::Prompt(_) | Queue::QuarantineJobs => "deliver",
        Queue::DeadLetters => "dead-letter",
        // These have no consumers: their messages move on when their time is over.
        Queue::Retry(_) => return None,
    };
    let found = format!("{name}: {ready} ready, {consumers} consumers");
    let warn = |remedy: String| Some(Finding::bad(Severity::Warning, "queues", found.clone(), remedy));
    match queue {
        _ if *consumers == 0 => warn(format!("make sure that a process with the role {role} is running")),
        Queue::QuarantineEvents | Queue::QuarantineJobs if *ready > 0 => warn(format!(
            "processes died while they held these messages: find out why processes with the role {role} crash. Each \
             message is tried alone; one that crashes its process again becomes a dead letter"
        )),
        Queue::Events if *ready > EVENTS_WARNED => warn(
            "ingest is falling behind: check its log, or run more processes with the role ingest".to_owned(),
        ),
        _ => Some(Finding::ok("queues", found)),
    }
}

/// AMQP has no request for it.
fn of_consumer_timeout(settings: &Args) -> Finding {
    // A message is held while its request waits for a place and is made, and its record for a ledger that is away.
    let held = settings.egress.timeout_max * 2 + settings.deliver.lease_margin;
    let remedy = format!(
        "run `rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'` (milliseconds, 1800000 by default); \
         it must be longer than {}, and longer than any outage of the database after which no request should be repeated",
        humantime::format_duration(held),
    );
    Finding::bad(Severity::Unknown, "consumer_timeout", "cannot be read over AMQP", remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Error;

    #[test]
    fn a_queue_is_judged_by_what_it_is_for() {
        let check = |queue: Queue, ready: u32, consumers: u32, expected: Option<Severity>| {
            let depth = Depth { queue, name: "q".to_owned(), ready, consumers };
            assert_eq!(of_queue(&depth).map(|finding| finding.level), expected, "{depth:?}");
        };
        check(Queue::Events, 10_000, 1, Some(Severity::Ok));
        check(Queue::Events, 10_001, 1, Some(Severity::Warning));
        check(Queue::Events, 0, 0, Some(Severity::Warning));
        check(Queue::Deliveries(3), 1_000, 2, Some(Severity::Ok));
        check(Queue::Prompt(3), 500, 2, Some(Severity::Ok));
        check(Queue::Prompt(3), 0, 0, Some(Severity::Warning));
        check(Queue::QuarantineJobs, 1, 2, Some(Severity::Warning));
        check(Queue::QuarantineEvents, 0, 2, Some(Severity::Ok));
        check(Queue::DeadLetters, 5, 0, Some(Severity::Warning));
        check(Queue::Retry(crate::model::RetryTier::ALL[0]), 7, 0, None);
    }

    #[test]
    fn what_is_missing_is_made_by_a_start_and_what_differs_is_a_fault() {
        let inspection = |missing: &[&str], mismatches: Vec<Error>| Inspection {
            version: Some("3.13.0".to_owned()),
            missing_exchanges: Vec::new(),
            missing_queues: missing.iter().map(|&name| name.to_owned()).collect(),
            mismatches,
            queues: Vec::new(),
        };
        let levels = |i: &Inspection| of_topology(i).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&inspection(&[], vec![])), [Severity::Ok]);
        assert_eq!(levels(&inspection(&["p.events"], vec![])), [Severity::Warning]);
        let mismatch = Error::Mismatch {
            kind: "queue",
            name: "p.events".to_owned(),
            argument: "x-delivery-limit".to_owned(),
            needed: "10".to_owned(),
            current: "100".to_owned(),
        };
        assert_eq!(levels(&inspection(&["q"], vec![mismatch])), [Severity::Fault, Severity::Warning]);
    }
}
