//! Servers that go: RabbitMQ and PostgreSQL stopped hard and started again, under load.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually_within},
    load::{self, Load},
    private::Private,
    receiver::{Answer, Receiver, Request},
};

const RESTARTS: usize = 3;
const EVENTS_PER_SECOND: u64 = 400;
/// Every so many events the answer takes as long as a restart of the broker: its connection dies meanwhile.
const SLOW_EVERY: u64 = 199;
const SLOW: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(90);

fn key(request: &Request) -> (String, String) {
    let header = |name| request.header(name).expect("signed").to_owned();
    (header("x-xtsystems-delivery"), header("x-xtsystems-attempt"))
}

/// Requests by delivery and attempt, in the order of their arrival.
fn by_attempt(receiver: &Receiver) -> HashMap<(String, String), Vec<Request>> {
    let mut requests: HashMap<_, Vec<Request>> = HashMap::new();
    for request in receiver.requests() {
        requests.entry(key(&request)).or_default().push(request);
    }
    requests
}

/// Neither stopped nor restarted servers may cost a message its deliveries.
async fn assert_nothing_was_given_up(app: &App) {
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
    for queue in ["dead-letters", "suspects.jobs", "suspects.events"] {
        assert_eq!(app.depth(queue).await, 0, "{queue}");
    }
}

/// Waits until something new has been delivered: the service has recovered by itself.
async fn wait_until_it_goes_on(app: &App) {
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered'";
    let before = app.count(delivered).await;
    eventually_within(PATIENCE, "deliveries go on", async || {
        (app.count(delivered).await > before + 100).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hard_restarts_of_each_server_under_load_lose_nothing() {
    let _alone = load::alone().await;
    let private = Private::up().await;
    let (app, receiver) = (private.app().await, Receiver::start().await);
    app.set("TIMEOUT_MAX", "12s")
        .set("FRESH_MAX", "3s")
        .set("LEASE_MARGIN", "3s")
        .set("RESCUE_GRACE", "19s")
        .set("WATERMARK_EVERY", "1s");
    receiver.answer_by(|request, _| {
        let seq = request.json()["data"]["seq"].as_u64().expect("a number");
        Answer::ok().after(if seq % SLOW_EVERY == 0 { SLOW } else { Duration::from_millis(seq % 10) })
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 100})).await;
    let service = app.run(&[]).await;
    let load = Load::start(&app, company, EVENTS_PER_SECOND);
    let mut broker_deaths = Vec::new();
    for _ in 0..RESTARTS {
        wait_until_it_goes_on(&app).await;
        let died_at = Instant::now();
        private.restart("rabbitmq").await;
        wait_until_it_goes_on(&app).await;
        broker_deaths.push((died_at, Instant::now() + SLOW));
        private.restart("postgres").await;
        wait_until_it_goes_on(&app).await;
    }
    let published = load.stop().await;
    app.wait_until_delivered(published.confirmed.len(), PATIENCE).await;
    assert_eq!(service.stop().await, Some(0));

    let mut sequence = BTreeSet::new();
    let mut repeats = 0;
    for (key, requests) in by_attempt(&receiver) {
        sequence.insert(requests[0].json()["data"]["seq"].as_u64().expect("a number"));
        for pair in requests.windows(2) {
            repeats += 1;
            assert_eq!(pair[0].header("webhook-id"), pair[1].header("webhook-id"));
            // Only a connection to the broker that dies while a request is under way repeats it.
            let answered = pair[0].answered.get().copied().unwrap_or_else(Instant::now);
            let meanwhile = |(died, over): &(Instant, Instant)| pair[0].at < *over && answered > *died;
            assert!(broker_deaths.iter().any(meanwhile), "{key:?} was repeated for no reason");
        }
    }
    println!(
        "{} events at {:.0}/s, {} published again, {} requests, {repeats} repeats",
        published.confirmed.len(),
        published.rate,
        published.again,
        receiver.count(),
    );
    assert_eq!(sequence, published.confirmed, "by their numbers, exactly the confirmed events arrive");
    assert!(app.count("select sum(repeats) from webhook_deliveries").await >= repeats);
    assert_nothing_was_given_up(&app).await;
}

async fn is_failing(service: &Service) -> bool {
    service.metric("xtwebhooks_ledger_failing").await > 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_ledger_is_away_no_request_starts_and_nobody_consumes() {
    const EVENTS: u64 = 1_500;
    let _alone = load::alone().await;
    let private = Private::up().await;
    let (app, receiver) = (private.app().await, Receiver::start().await);
    receiver.answer_by(|_, _| Answer::ok().after(Duration::from_millis(100)));
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 10})).await;
    let service = app.run(&[]).await;
    let published = load::publish(&app, company, EVENTS).await;
    receiver.wait_for(200).await;

    private.stop("postgres").await;
    eventually_within(PATIENCE, "the worker notices", async || is_failing(&service).await.then_some(()))
        .await;
    eventually_within(PATIENCE, "the consumers are cancelled", async || {
        // Not by a passive declaration: it counts a cancelled consumer that still holds something.
        let consumers = private.rabbitmqctl(&["-q", "list_consumers", "queue_name"]).await;
        let of_jobs = |name: &str| {
            [".deliveries.", ".prompt.", ".suspects.jobs"].iter().any(|of_jobs| name.contains(of_jobs))
        };
        (!consumers.lines().any(of_jobs)).then_some(())
    })
    .await;
    eventually_within(PATIENCE, "what ran has ended", async || {
        (service.metric("xtwebhooks_deliver_in_flight").await == 0.0).then_some(())
    })
    .await;
    let (status, _) = service.get("/health/ready").await.expect("it answers");
    assert_eq!(status, 503);
    assert_eq!(service.get("/health/live").await.expect("it answers").0, 200);
    // What is published meanwhile waits in the queue of events.
    let begun = receiver.count();
    let more = Load::start(&app, company, 50);
    let held = Duration::from_secs(8);
    eventually_within(PATIENCE, "the outage lasts", async || {
        assert_eq!(receiver.count(), begun, "a request was started without a place to record it");
        (service.metric("xtwebhooks_ledger_failing").await > 0.0 && held < more.age()).then_some(())
    })
    .await;
    let more = more.stop().await;

    private.start("postgres").await;
    app.wait_until_delivered(published.confirmed.len() + more.confirmed.len(), PATIENCE).await;
    service.ready().await;
    assert!(!is_failing(&service).await);
    assert_eq!(service.stop().await, Some(0));
    for (key, requests) in by_attempt(&receiver) {
        assert_eq!(requests.len(), 1, "{key:?}");
    }
    assert_nothing_was_given_up(&app).await;
}
