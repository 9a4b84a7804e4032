//! What comes of a request, as the ledger tells it: the attempt whole, the next step, and its time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use self::record::{Record, earlier, record};
use crate::support::{
    app::App,
    dns::Dns,
    receiver::{Answer, Receiver},
    tls::Authority,
};

mod record;
mod steps;

/// How much later than its attempt the ledger may write, on a machine that many share.
const LAG_MAX: TimeDelta = TimeDelta::seconds(15);

struct Row {
    name: &'static str,
    url: String,
    /// Further columns of the webhook.
    more: Value,
    outcome: &'static str,
    why: String,
    status: Option<i32>,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Delivered,
    /// The webhook is paused, for the receiver wants no more.
    Held,
    /// Of two attempts allowed the second follows after a second, then it is given up.
    TwiceThenDead,
    /// The next attempt waits in the ledger, for so many seconds.
    In(i64, i64),
    /// Given up at once.
    Dead(&'static str),
}

fn row(
    name: &'static str,
    url: String,
    outcome: &'static str,
    status: Option<i32>,
    next: Next,
    why: &str,
) -> Row {
    Row {
        name,
        url,
        more: json!({"retry_count": 2, "timeout_seconds": 1}),
        outcome,
        why: why.to_owned(),
        status,
        next,
    }
}

/// The receiver's answers: a path, the answer there, and what is expected to stand in the ledger.
type Answered = (&'static str, Answer, &'static str, Option<i32>, Next, &'static str);

fn answers() -> Vec<Answered> {
    use Next::{Delivered, Held, In, TwiceThenDead};
    let (drip, ms) = (Duration::from_millis(20), Duration::from_millis);
    let date = |status| {
        Answer::status(status)
            .header("Date", "Mon, 23 Nov 2026 12:00:00 GMT")
            .header("Retry-After", "Mon, 23 Nov 2026 12:01:30 GMT")
    };
    vec![
        (
            "/200",
            Answer::ok().after(ms(300)),
            "accepted",
            Some(200),
            Delivered,
            "the receiver accepted it with 200",
        ),
        (
            "/201",
            Answer::status(201).body("made"),
            "accepted",
            Some(201),
            Delivered,
            "the receiver accepted it with 201",
        ),
        ("/204", Answer::status(204), "accepted", Some(204), Delivered, "the receiver accepted it with 204"),
        (
            "/301",
            Answer::status(301).header("Location", "/200"),
            "redirected",
            Some(301),
            TwiceThenDead,
            "the receiver answered 301 with a redirect to /200; redirects are not followed: set the webhook's URL to the final URL",
        ),
        (
            "/307",
            Answer::status(307).header("Location", "/201"),
            "redirected",
            Some(307),
            TwiceThenDead,
            "the receiver answered 307 with a redirect to /201; redirects are not followed: set the webhook's URL to the final URL",
        ),
        (
            "/404",
            Answer::status(404),
            "refused",
            Some(404),
            TwiceThenDead,
            "the receiver refused it with 404, not found: nothing exists at this URL",
        ),
        (
            "/410",
            Answer::status(410),
            "gone",
            Some(410),
            Held,
            "the receiver answered 410, gone permanently, which pauses the webhook",
        ),
        (
            "/429",
            Answer::status(429).header("Retry-After", "17"),
            "throttled",
            Some(429),
            In(17, 17),
            "the receiver answered 429, too many requests, and asked to wait 17 s",
        ),
        (
            "/429-short",
            Answer::status(429).header("Retry-After", "1"),
            "throttled",
            Some(429),
            TwiceThenDead,
            "the receiver answered 429, too many requests, and asked to wait 1 s",
        ),
        (
            "/429-long",
            Answer::status(429).header("Retry-After", "864000"),
            "throttled",
            Some(429),
            In(86_400, 86_400),
            "the receiver answered 429, too many requests, and asked to wait 10 days",
        ),
        (
            "/500",
            Answer::status(500).body("oh\0no"),
            "server_error",
            Some(500),
            TwiceThenDead,
            "the receiver answered 500, a server error",
        ),
        (
            "/503",
            date(503),
            "server_error",
            Some(503),
            In(90, 90),
            "the receiver answered 503, a server error, and asked to wait 90 s",
        ),
        (
            "/close",
            Answer::close(),
            "unreachable",
            None,
            TwiceThenDead,
            "RECEIVER closed the connection without an answer",
        ),
        (
            "/reset",
            Answer::reset(),
            "unreachable",
            None,
            TwiceThenDead,
            "RECEIVER reset the connection before it answered",
        ),
        (
            "/half",
            Answer::half(),
            "cut",
            Some(200),
            TwiceThenDead,
            "the answer 200 ended before it was complete: the connection was closed in the middle of the answer",
        ),
        (
            "/drip",
            Answer::dripping(200, drip),
            "timed_out",
            Some(200),
            TwiceThenDead,
            "the receiver began to answer but did not finish within 1 s",
        ),
        (
            "/never",
            Answer::silence(),
            "timed_out",
            None,
            TwiceThenDead,
            "the receiver accepted the connection but did not answer within 1 s",
        ),
    ]
}

#[tokio::test]
async fn every_outcome_has_its_row_its_next_step_and_its_time() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let dns = Dns::start(&[("tls.test", &["127.0.0.1"]), ("empty.test", &[])]).await;
    let (authority, folder) = (Authority::new(), tempfile::tempdir().expect("a folder"));
    let expired = Receiver::start_tls(authority.expired_server(&["tls.test"])).await;
    let wrong = Receiver::start_tls(authority.server(&["other.test"])).await;
    let closed = Receiver::start().await;
    let closed_url = closed.url("/");
    let at_closed = format!("{} refused the connection", closed.address());
    closed.stop().await;
    app.set("DNS_SERVERS", dns.address());
    app.set("EXTRA_CA_FILE", authority.write(folder.path()).display());

    let (mut rows, mut receivers) = (Vec::new(), Vec::new());
    for (path, answer, outcome, status, next, why) in answers() {
        // Each its own, so that no connection of one is used for another.
        let receiver = Receiver::start().await;
        receiver.answer([answer]);
        let why = why.replace("RECEIVER", &receiver.address().to_string());
        rows.push(row(path, receiver.url(path), outcome, status, next, &why));
        receivers.push(receiver);
    }
    let twice = Next::TwiceThenDead;
    let tls = |at: &Receiver, what: &str| {
        format!("the TLS handshake with {} failed: the server's certificate {what}", at.address())
    };
    let unreachable = |name, url, why: &str| row(name, url, "unreachable", None, twice, why);
    rows.extend([
        unreachable("expired", expired.url_by_name("tls.test", "/"), &tls(&expired, "has expired")),
        unreachable("wrong name", wrong.url_by_name("tls.test", "/"), &tls(&wrong, "is for another name")),
        unreachable(
            "no such name",
            "http://none.test/".to_owned(),
            "the host name does not resolve: there is no host named none.test",
        ),
        unreachable(
            "no address",
            "http://empty.test/".to_owned(),
            "the host name does not resolve: empty.test has no address",
        ),
        unreachable("no connection", closed_url, &at_closed),
        row(
            "no URL",
            "nowhere".to_owned(),
            "fault",
            None,
            Next::Dead("fault"),
            "not sent: the webhook's URL cannot be used: relative URL without a base",
        ),
    ]);
    // A schedule's waits are the ledger's, a fifth more or less.
    receiver.answer_at("/schedule", [Answer::status(500)]);
    let why = "the receiver answered 500, a server error";
    let schedule =
        row("schedule", receiver.url("/schedule"), "server_error", Some(500), Next::In(480, 720), why);
    rows.push(Row { more: json!({"retry_schedule": [600, 600]}), ..schedule });

    for Row { name, url, more, .. } in &rows {
        let mut more = more.clone();
        more["name"] = (*name).into();
        app.webhook(company, url, more).await;
    }
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({"id": 7})).await;
    let waiting = rows.iter().filter(|row| matches!(row.next, Next::In(..))).count() as i64;
    app.wait_for_count("select count(*) from webhook_deliveries where attempts > 0 and status = 'pending' and queued_at is null", waiting).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status <> 'pending'",
        rows.len() as i64 - waiting,
    )
    .await;
    assert_eq!(service.stop().await, Some(0));
    for row in &rows {
        check(&app, row).await;
    }
    let dead = rows.iter().filter(|row| matches!(row.next, Next::TwiceThenDead | Next::Dead(_))).count();
    assert_eq!(app.count("select count(*) from dead_letters").await, dead as i64);
    assert_eq!(app.count("select count(*) from webhooks where paused_at is not null").await, 1);
}

async fn check(app: &App, row: &Row) {
    let (name, found) = (row.name, record(app, row.name).await);
    assert_eq!(
        (found.outcome.as_deref(), found.why.as_deref()),
        (Some(row.outcome), Some(&*row.why)),
        "{name}"
    );
    assert_eq!(found.response_status, row.status, "{name}");
    let (status, reason, attempts) = match row.next {
        Next::Delivered => ("delivered", None, 1),
        Next::Held => ("held", Some("paused"), 1),
        Next::TwiceThenDead => ("dead", Some("attempts exhausted"), 2),
        Next::In(..) => ("pending", None, 1),
        Next::Dead(reason) => ("dead", Some(reason), 1),
    };
    assert_eq!(
        (&*found.status, found.reason.as_deref(), found.attempts),
        (status, reason, attempts),
        "{name}"
    );
    assert!(found.queued_at.is_none() && found.claimed_until.is_none(), "{name}: nothing is under way");
    assert_eq!(found.delivered_at.is_some(), row.next == Next::Delivered, "{name}");
    assert_eq!((found.repeats, found.rescues), (0, 0), "{name}");
    found.check_parts(row);
    let before = earlier(app, found.id).await;
    match row.next {
        Next::In(least, most) => check_due(name, &found, found.due_at, least, most),
        Next::TwiceThenDead => {
            let [first] = &before[..] else { panic!("{name}: {} earlier attempts", before.len()) };
            assert_eq!((&first.outcome, &first.why), (&found.outcome, &found.why), "{name}");
            first.check_parts(row);
            // The last attempt leaves the due time as it was: that of itself.
            check_due(name, first, found.due_at, 1, 1);
            let late = found.attempted_at.expect("attempted") - found.due_at;
            assert!(
                (TimeDelta::milliseconds(-100)..LAG_MAX).contains(&late),
                "{name}: {late} after it was due"
            );
        }
        _ => assert!(before.is_empty(), "{name}"),
    }
    check_dead_letter(app, row, &found).await;
}

/// The next attempt is due so many seconds after this one has ended and was written.
fn check_due(name: &str, attempt: &Record, due_at: DateTime<Utc>, least: i64, most: i64) {
    let total = TimeDelta::microseconds(attempt.total_us.expect("it took its time").into());
    let wait = due_at - (attempt.attempted_at.expect("attempted") + total);
    let least = TimeDelta::seconds(least) - TimeDelta::milliseconds(100);
    assert!((least..TimeDelta::seconds(most) + LAG_MAX).contains(&wait), "{name}: due after {wait}");
}

async fn check_dead_letter(app: &App, row: &Row, found: &Record) {
    type Kept = (Uuid, Uuid, String, i32, Option<String>, Option<i32>);
    let kept: Option<Kept> = sqlx::query_as(
        "select company_id, webhook_id, reason, attempts, outcome, response_status
         from dead_letters
         where id = $1 and kind = 'delivery' and status = 'open'",
    )
    .bind(found.id)
    .fetch_optional(&app.pool)
    .await
    .expect("read");
    let expected = found.status == "dead";
    assert_eq!(kept.is_some(), expected, "{}", row.name);
    let Some((company, webhook, reason, attempts, outcome, status)) = kept else { return };
    assert_eq!(
        (webhook, Some(reason), attempts),
        (found.webhook_id, found.reason.clone(), found.attempts),
        "{}",
        row.name
    );
    assert_eq!((outcome, status), (found.outcome.clone(), row.status), "{}", row.name);
    let (company, id) = (company.to_string(), found.id.to_string());
    let letter = app.cli(&["dead-letters", "show", "--company", &company, &id]).await;
    let body = letter["body"].as_str().expect("it keeps what was to be posted");
    assert!(
        body.starts_with(r#"{"event_type":"ticket.created","data":{"id":7},"company_id":""#),
        "{}",
        row.name
    );
}
