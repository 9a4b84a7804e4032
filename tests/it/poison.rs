//! The delivery limit kills no innocent, and a poison ends: with a limit of ten, what kills its process each time is
//! the one dead letter, and forty rolling restarts with a backlog make none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::BasicProperties;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually_within},
    load,
    receiver::{Answer, Receiver},
};

/// How often the broker hands a message out before it goes to quarantine.
const DELIVERY_LIMIT: usize = 10;
/// How often it is handed out alone before an event is given up.
const ALONE: usize = 9;
const PATIENCE: Duration = Duration::from_secs(90);

/// Leases, grace and marks so short that what a death leaves over comes again within seconds.
fn hasten(app: &App) {
    app.set("DELIVERY_LIMIT", DELIVERY_LIMIT)
        .set("FRESH_MAX", "2s")
        .set("TIMEOUT_MAX", "2s")
        .set("LEASE_MARGIN", "1s")
        .set("RESCUE_GRACE", "6s")
        .set("WATERMARK_EVERY", "1s");
}

async fn wait_for_count(app: &App, sql: &'static str, expected: i64) {
    eventually_within(PATIENCE, sql, async || (app.count(sql).await == expected).then_some(())).await;
}

/// Waits until these queues are empty. Jobs may be there for deliveries that are settled: whoever takes one finds that
/// there is nothing to do.
async fn nothing_is_left(app: &App, queues: &[&str]) {
    for queue in queues {
        eventually_within(PATIENCE, queue, async || (app.depth(queue).await == 0).then_some(())).await;
    }
}

/// The one dead letter: its event type and its reason.
async fn the_dead_letter(app: &App) -> (String, String) {
    let letters: Vec<(String, String)> = sqlx::query_as("select event_type, reason from dead_letters")
        .fetch_all(&app.pool)
        .await
        .expect("read");
    let [letter] = <[_; 1]>::try_from(letters).expect("exactly one");
    letter
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_poison_and_its_neighbours_in_the_prefetch_exactly_the_poison_ends() {
    const NEIGHBOURS: i64 = 60;
    let _alone = load::alone().await;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    hasten(&app);
    receiver.answer_at("/poison", [Answer::silence()]);
    // So slow and so few at once that most of them are in the prefetch whenever the worker dies.
    receiver.answer_at("/neighbour", [Answer::ok().after(Duration::from_millis(200))]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/poison"), json!({"events": ["a.poison"]})).await;
    let few = json!({"events": ["a.neighbour"], "max_in_flight": 1});
    app.webhook(company, &receiver.url("/neighbour"), few).await;
    let upstream = app.run(&["--role", "ingest,dead-letter,schedule"]).await;
    for n in 0..NEIGHBOURS {
        app.publish(company, "a.neighbour", json!({"n": n})).await;
        if n == NEIGHBOURS / 2 {
            app.publish(company, "a.poison", json!({})).await;
        }
    }

    let (began, mut deaths, mut seen) = (Instant::now(), 0, 0);
    let dead = "select count(*) from dead_letters";
    while app.count(dead).await == 0 {
        let worker = app.start(&["--role", "deliver"]).await;
        let is_struck = eventually_within(PATIENCE, "the poison comes, or has ended", async || {
            let arrived = receiver.requests().iter().filter(|request| request.path() == "/poison").count();
            if arrived > seen {
                seen = arrived;
                return Some(true);
            }
            (app.count(dead).await > 0).then_some(false)
        })
        .await;
        if is_struck {
            deaths += 1;
        }
        worker.kill().await;
    }
    println!("{deaths} deaths in {:?}", began.elapsed());
    let worker = app.run(&["--role", "deliver"]).await;
    let delivered =
        "select count(*) from webhook_deliveries where event_type = 'a.neighbour' and status = 'delivered'";
    wait_for_count(&app, delivered, NEIGHBOURS).await;
    nothing_is_left(&app, &["dead-letters", "suspects.jobs"]).await;
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(upstream.stop().await, Some(0));
    let (event_type, reason) = the_dead_letter(&app).await;
    assert_eq!(event_type, "a.poison");
    assert!(reason.starts_with("ended the worker ") && reason.ends_with(" times"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_ends_every_ingest_is_given_up_and_its_neighbours_arrive() {
    const NEIGHBOURS: i64 = 20;
    /// Whoever writes the poison waits for this lock, and is killed meanwhile.
    const TRAP: &str = "create function trap() returns trigger language plpgsql as $$
                        begin perform pg_advisory_xact_lock(42); return new; end $$;
                        create trigger trap before insert on events for each row
                        when (new.event_type = 'a.poison') execute function trap()";
    let _alone = load::alone().await;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    hasten(&app);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let others = app.run(&["--role", "dead-letter,schedule,deliver"]).await;
    let mut holder = PgConnection::connect(&app.database_url).await.expect("the database answers");
    holder.execute(TRAP).await.expect("the trap is set");
    holder.execute("select pg_advisory_lock(42)").await.expect("locked");
    for n in 0..NEIGHBOURS {
        // Only their routing key says what they are, and they keep it wherever they are asked for.
        let body = json!({"company_id": company, "event_id": n.to_string(), "data": n}).to_string();
        assert!(app.publish_raw("a.neighbour", body.as_bytes(), BasicProperties::default()).await);
        if n == NEIGHBOURS / 2 {
            app.publish(company, "a.poison", json!({})).await;
        }
    }

    let trapped = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                   where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";
    // A server of which the client has died goes on waiting; the death is to be the whole of it.
    let end = "select pg_terminate_backend(l.pid) from pg_locks l join pg_database d on d.oid = l.database
               where d.datname = current_database() and l.locktype = 'advisory' and not l.granted";
    let (began, mut deaths) = (Instant::now(), 0);
    let dead = "select count(*) from dead_letters";
    while app.count(dead).await == 0 {
        let ingest = app.start(&["--role", "ingest"]).await;
        let is_struck = eventually_within(PATIENCE, "the poison is taken in, or has ended", async || {
            if app.count(trapped).await > 0 {
                return Some(true);
            }
            (app.count(dead).await > 0).then_some(false)
        })
        .await;
        if is_struck {
            deaths += 1;
        }
        ingest.kill().await;
        holder.execute(end).await.expect("ended");
    }
    println!("{deaths} deaths in {:?}", began.elapsed());
    assert!(deaths >= DELIVERY_LIMIT + ALONE, "{deaths}: the limits decide");
    let ingest = app.run(&["--role", "ingest"]).await;
    wait_for_count(&app, "select count(*) from webhook_deliveries where status = 'delivered'", NEIGHBOURS)
        .await;
    nothing_is_left(&app, &["events", "dead-letters", "suspects.events"]).await;
    assert_eq!(ingest.stop().await, Some(0));
    assert_eq!(others.stop().await, Some(0));
    let (event_type, reason) = the_dead_letter(&app).await;
    assert_eq!((&*event_type, &*reason), ("a.poison", "ended the worker 9 times"));
    let neighbours = "select count(*) from webhook_deliveries where event_type = 'a.neighbour'";
    assert_eq!(app.count(neighbours).await, NEIGHBOURS);
}

/// Ends a process, by a crash or by a stop in turn.
async fn end(process: Service, n: usize) {
    if n.is_multiple_of(2) {
        process.kill().await;
    } else {
        assert_eq!(process.stop().await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_rolling_restarts_with_a_backlog_make_no_dead_letter() {
    const RESTARTS: usize = 40;
    const EVENTS: u64 = 1_000;
    const PREFETCH: usize = 50;
    let _alone = load::alone().await;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    hasten(&app);
    app.set("PREFETCH", PREFETCH);
    let hurries = Arc::new(AtomicBool::new(false));
    let is_hurrying = Arc::clone(&hurries);
    // So slow that the backlog outlasts the restarts.
    receiver.answer_by(move |_, _| {
        Answer::ok().after(Duration::from_millis(if is_hurrying.load(Ordering::Relaxed) { 0 } else { 150 }))
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 1})).await;
    let upstream = app.run(&["--role", "ingest,dead-letter,schedule"]).await;
    let published = load::publish(&app, company, EVENTS).await;
    let began = Instant::now();
    // First those that hardly live: they die as soon as they hold what was handed out to them, so that the same jobs
    // are handed out again and again.
    for n in 0..RESTARTS / 2 {
        let worker = app.start(&["--role", "deliver"]).await;
        eventually_within(PATIENCE, "it holds some", async || {
            (worker.metric("xtwebhooks_broker_consumed_total").await > 0.0).then_some(())
        })
        .await;
        end(worker, n).await;
    }
    eventually_within(PATIENCE, "some were handed out too often", async || {
        (app.depth("suspects.jobs").await > 0).then_some(())
    })
    .await;
    // Then a rolling update after the other: the next one is there before the one before goes.
    let mut worker = app.run(&["--role", "deliver"]).await;
    for n in RESTARTS / 2..RESTARTS {
        let next = app.run(&["--role", "deliver"]).await;
        end(worker, n).await;
        worker = next;
    }
    let left = app.count("select count(*) from webhook_deliveries where status <> 'delivered'").await;
    println!("{RESTARTS} restarts in {:?}, {left} left", began.elapsed());
    assert!(left > PREFETCH as i64, "the backlog was larger than the prefetch to the end: {left}");
    hurries.store(true, Ordering::Relaxed);
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered'";
    wait_for_count(&app, delivered, published.confirmed.len() as i64).await;
    nothing_is_left(&app, &["dead-letters", "suspects.jobs"]).await;
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(upstream.stop().await, Some(0));
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
}
