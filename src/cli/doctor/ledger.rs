//! Judges the database's answers.

use std::time::Duration;

use chrono::NaiveDate;

use super::{super::run::CLOCK_OFFSET_MAX, Finding, Severity};
use crate::store::checkup::{Late, Lease, ServerReport};

/// Above this a clock is worth a warning, although the service goes by the database's clock.
const CLOCK_OFFSET_WARNED: Duration = Duration::from_secs(1);
/// With fewer days ahead, prune has not run for a week.
const DAYS_AHEAD_WARNED: usize = 7;
/// What is due gets a job within moments; if it takes longer, something delays the scheduler.
const OVERDUE_WARNED: Duration = Duration::from_mins(1);
/// A job so old is behind a long backlog, or lost and about to be rescued.
const JOB_AGE_WARNED: Duration = Duration::from_mins(10);
/// This many watermarks may be missing.
const WATERMARKS_MISSED: u32 = 6;

/// The server and those of its settings that keep what was committed.
pub(super) fn of_server(server: &ServerReport) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("database", format!("PostgreSQL {} answers", server.version))];
    if server.is_standby {
        let remedy = "set DATABASE_URL to the primary";
        findings.push(Finding::bad(
            Severity::Fault,
            "database",
            "the server is a standby and accepts no writes",
            remedy,
        ));
    }
    let off = [
        (
            "synchronous_commit",
            &server.synchronous_commit,
            "an acknowledged event may be lost if the server crashes",
        ),
        ("fsync", &server.fsync, "a power failure may destroy the ledger"),
        ("full_page_writes", &server.full_page_writes, "a power failure may destroy the ledger"),
        (
            "autovacuum",
            &server.autovacuum,
            "tables and indexes grow without limit, and query plans use outdated statistics",
        ),
    ];
    let bad: Vec<Finding> = off
        .into_iter()
        .filter(|(_, value, _)| *value == "off")
        .map(|(name, _, harm)| {
            let found = format!("{name} is off: {harm}");
            Finding::bad(Severity::Warning, "database settings", found, format!("set {name} = on"))
        })
        .collect();
    if bad.is_empty() {
        findings.push(Finding::ok("database settings", "commits are durable, and autovacuum is on"));
    }
    findings.extend(bad);
    findings
}

/// Whether there is room for the connections of the service, beside those of others.
pub(super) fn of_connections(server: &ServerReport, needed: u32) -> Finding {
    let others = server.connected - server.ours;
    let room = i64::from(server.max_connections) - i64::from(server.reserved) - others;
    let found = format!(
        "the service opens up to {needed} connections; of max_connections = {}, {} are reserved and {others} are in \
         use by others, which leaves {} (the service has {} open now)",
        server.max_connections,
        server.reserved,
        room.max(0),
        server.ours,
    );
    let remedy = "raise max_connections, run fewer processes, or use a connection pooler (in transaction mode, with \
                  DATABASE_LISTEN_URL bypassing it)";
    match i64::from(needed) {
        needed if needed > room => Finding::bad(Severity::Fault, "connections", found, remedy),
        // A rolling update runs the new processes beside the old.
        needed if 2 * needed > room => {
            let found =
                format!("{found}; this is not enough for a rolling update, which needs twice as many");
            Finding::bad(Severity::Warning, "connections", found, remedy)
        }
        _ => Finding::ok("connections", found),
    }
}

/// How far this machine's clock is from the database's.
pub(super) fn of_clock(offset: Duration) -> Finding {
    let found = format!("this machine's clock differs from the database's by {} ms", offset.as_millis());
    let remedy = "synchronise both machines with a time server";
    match offset {
        offset if offset > CLOCK_OFFSET_MAX => Finding::bad(
            Severity::Fault,
            "clock",
            format!("{found}; a role on this machine would not become ready"),
            remedy,
        ),
        offset if offset > CLOCK_OFFSET_WARNED => Finding::bad(Severity::Warning, "clock", found, remedy),
        _ => Finding::ok("clock", found),
    }
}

/// Whether the coming days have their partitions.
pub(super) fn of_days(today: NaiveDate, days: &[NaiveDate]) -> Finding {
    let ready = today.iter_days().zip(days).take_while(|(expected, day)| expected == *day).count();
    let remedy = "make sure that a process with the role prune is running; it creates the partitions of the coming days";
    match ready {
        0 => Finding::bad(
            Severity::Fault,
            "partitions",
            format!("the partitions of today, {today}, are missing"),
            remedy,
        ),
        n if n <= DAYS_AHEAD_WARNED => {
            let found = format!("only the partitions of today and the next {} days exist", n - 1);
            Finding::bad(Severity::Warning, "partitions", found, remedy)
        }
        n => Finding::ok("partitions", format!("the partitions of today and the next {} days exist", n - 1)),
    }
}

/// Whether the two roles of which one process is active have one.
pub(super) fn of_leases(leases: &[Lease]) -> Vec<Finding> {
    let of = |(name, check, harm): (&str, &'static str, &str)| {
        let remedy = format!("make sure that a process with the role {name} is running");
        match leases.iter().find(|lease| lease.name == name) {
            Some(lease) if lease.is_held => {
                let since = lease.taken_at.format("%Y-%m-%d %H:%M:%S");
                Finding::ok(check, format!("{} has been active since {since}", lease.holder))
            }
            Some(lease) => Finding::bad(
                Severity::Warning,
                check,
                format!("no process is active ({} was the last): {harm}", lease.holder),
                remedy,
            ),
            None => Finding::bad(
                Severity::Warning,
                check,
                format!("no process has been active yet: {harm}"),
                remedy,
            ),
        }
    };
    [
        ("feed", "schedule", "deliveries that wait in the ledger are not sent"),
        ("prune", "prune", "no partitions are created ahead, and none are dropped"),
    ]
    .map(of)
    .into()
}

/// Whether something waits longer than it should.
pub(super) fn of_late(late: &Late, watermark_every: Duration) -> Vec<Finding> {
    let age = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let rounded = |age: Duration| humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    let due = match late.overdue_seconds.map(age) {
        None => Finding::ok(
            "due deliveries",
            "no delivery is overdue, except those that a pause or their lane delays",
        ),
        Some(age) if age <= OVERDUE_WARNED => {
            Finding::ok("due deliveries", format!("the oldest is overdue by {}", rounded(age)))
        }
        Some(age) => {
            let found = format!(
                "the oldest is overdue by {}, although neither a pause nor its lane delays it",
                rounded(age)
            );
            let remedy = "run `xtwebhooks lanes list --failing` and check the log of the active scheduler to see what it waits \
                          for; the cause may be its lane's pace";
            Finding::bad(Severity::Warning, "due deliveries", found, remedy)
        }
    };
    let job = match late.oldest_job_seconds.map(age) {
        None => Finding::ok("jobs", "no delivery has a job"),
        Some(age) if age <= JOB_AGE_WARNED => {
            Finding::ok("jobs", format!("the oldest has been due for {}", rounded(age)))
        }
        Some(age) => {
            let remedy =
                "make sure that processes with the role deliver are running and keep up with the queue";
            Finding::bad(
                Severity::Warning,
                "jobs",
                format!("the oldest has been due for {}", rounded(age)),
                remedy,
            )
        }
    };
    let mark = match late.tide_mark_seconds.map(age) {
        Some(age) if age <= watermark_every * WATERMARKS_MISSED => {
            Finding::ok("watermarks", format!("the latest passed through {} ago", rounded(age)))
        }
        other => {
            let found = other.map_or_else(
                || "none has passed through yet".to_owned(),
                |age| format!("the latest passed through {} ago", rounded(age)),
            );
            let remedy = "lost jobs are not found until watermarks pass through: make sure that schedule and deliver are \
                          running; a long backlog delays watermarks by its length";
            Finding::bad(Severity::Warning, "watermarks", found, remedy)
        }
    };
    vec![due, job, mark]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerReport {
        ServerReport {
            version: "15.4".to_owned(),
            is_standby: false,
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            autovacuum: "on".to_owned(),
            max_connections: 100,
            reserved: 3,
            connected: 30,
            ours: 20,
        }
    }

    #[test]
    fn a_server_that_may_lose_what_was_committed_is_warned_of() {
        let levels = |server: &ServerReport| of_server(server).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&server()), [Severity::Ok, Severity::Ok]);
        let off = || "off".to_owned();
        assert_eq!(
            levels(&ServerReport { fsync: off(), autovacuum: off(), ..server() })[1..],
            [Severity::Warning; 2]
        );
        assert_eq!(
            levels(&ServerReport { synchronous_commit: "local".to_owned(), ..server() })[1..],
            [Severity::Ok]
        );
        assert_eq!(levels(&ServerReport { is_standby: true, ..server() })[1], Severity::Fault);
    }

    #[test]
    fn connections_must_find_room_twice_over() {
        let check = |needed: u32, expected: Severity| {
            let finding = of_connections(&server(), needed);
            assert_eq!(finding.level, expected, "{needed}: {}", finding.found);
        };
        // 100 less 3 and the 10 of others.
        check(43, Severity::Ok);
        check(44, Severity::Warning);
        check(87, Severity::Warning);
        check(88, Severity::Fault);
    }

    #[test]
    fn days_count_from_today_without_a_gap() {
        let today = NaiveDate::from_ymd_opt(2026, 1, 30).expect("a day");
        let check = |offsets: &[usize], expected: Severity, text: &str| {
            let days: Vec<_> = offsets.iter().filter_map(|n| today.iter_days().nth(*n)).collect();
            let finding = of_days(today, &days);
            assert!(finding.level == expected && finding.found.contains(text), "{offsets:?}: {finding:?}");
        };
        check(&(0..=14).collect::<Vec<_>>(), Severity::Ok, "the next 14 days exist");
        check(
            &[0, 1, 2, 4, 5, 6, 7, 8, 9, 10],
            Severity::Warning,
            "only the partitions of today and the next 2 days",
        );
        check(&[0], Severity::Warning, "only the partitions of today and the next 0 days");
        check(&[1, 2], Severity::Fault, "of today, 2026-01-30, are missing");
        check(&[], Severity::Fault, "are missing");
    }

    #[test]
    fn what_is_late_is_warned_of() {
        let check = |late: Late, expected: [Severity; 3]| {
            let levels: Vec<_> = of_late(&late, Duration::from_secs(10)).iter().map(|f| f.level).collect();
            assert_eq!(levels, expected, "{late:?}");
        };
        let late = |overdue_seconds, oldest_job_seconds, tide_mark_seconds| Late {
            overdue_seconds,
            oldest_job_seconds,
            tide_mark_seconds,
        };
        check(late(None, None, Some(3.0)), [Severity::Ok, Severity::Ok, Severity::Ok]);
        check(late(Some(59.0), Some(-5.0), Some(59.0)), [Severity::Ok, Severity::Ok, Severity::Ok]);
        check(
            late(Some(61.0), Some(601.0), Some(61.0)),
            [Severity::Warning, Severity::Warning, Severity::Warning],
        );
        check(late(None, None, None), [Severity::Ok, Severity::Ok, Severity::Warning]);
    }

    #[test]
    fn clocks_and_leases_are_judged() {
        let clock = |ms| of_clock(Duration::from_millis(ms)).level;
        assert_eq!(
            [clock(10), clock(1_500), clock(61_000)],
            [Severity::Ok, Severity::Warning, Severity::Fault]
        );
        let lease = |is_held| Lease {
            name: "feed".to_owned(),
            holder: "pod-1".to_owned(),
            taken_at: chrono::DateTime::UNIX_EPOCH,
            is_held,
        };
        let levels = |leases: &[Lease]| of_leases(leases).iter().map(|f| f.level).collect::<Vec<_>>();
        assert_eq!(levels(&[lease(true)]), [Severity::Ok, Severity::Warning]);
        assert_eq!(levels(&[lease(false)]), [Severity::Warning, Severity::Warning]);
    }
}
