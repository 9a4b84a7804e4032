//! Prompt jobs: a company that publishes without measure does not hold up one that publishes now and then.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use xtwebhooks::ingest::SHARE_JOBS;

use crate::support::{
    app::{App, eventually},
    load,
    receiver::{Answer, Receiver},
};

const QUEUED: &str = "select count(*) from webhook_deliveries where queued_at is not null";

/// Waits until so many deliveries have jobs, and these are in their queues; gives how many are in the ordinary one and
/// in the prompt one.
async fn queued(app: &App, deliveries: i64) -> (u32, u32) {
    app.wait_for_count(QUEUED, deliveries).await;
    eventually("the jobs are in their queues", async || {
        (i64::from(app.jobs().await) == deliveries).then_some(())
    })
    .await;
    (app.depth("deliveries.0").await, app.depth("prompt.0").await)
}

#[tokio::test]
async fn a_greedy_companys_backlog_holds_up_no_fresh_job_of_a_quiet_one() {
    const WINDOW: i64 = 300;
    const GREEDY: usize = 1_000;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("WINDOW_JOBS", WINDOW).set("PROMPT_JOBS", 50_000);
    receiver.answer_at("/greedy", [Answer::ok().after(Duration::from_millis(10))]);
    let (greedy, quiet) = (Uuid::new_v4(), Uuid::new_v4());
    app.webhook(greedy, &receiver.url("/greedy"), json!({"max_in_flight": 4})).await;
    app.webhook(quiet, &receiver.url("/quiet"), json!({})).await;
    // Without schedule: what ingest leaves in the ledger stays there.
    let ingest = app.run(&["--role", "ingest"]).await;
    load::publish(&app, greedy, GREEDY as u64).await;
    app.wait_for_count("select count(*) from webhook_deliveries", GREEDY as i64).await;
    let backlog = app.count(QUEUED).await;
    assert!((WINDOW..GREEDY as i64).contains(&backlog), "the ordinary queue is full: {backlog} jobs");

    app.publish(quiet, "ticket.created", json!({"n": 1})).await;
    let (ordinary, prompt) = queued(&app, backlog + 1).await;
    assert!(i64::from(ordinary) >= WINDOW, "{ordinary}");
    assert!(prompt > SHARE_JOBS, "{prompt}: the share of the greedy one, and the quiet one's");
    let worker = app.run(&["--role", "deliver"]).await;
    eventually("the quiet one's arrives", async || {
        receiver.requests().iter().any(|request| request.path() == "/quiet").then_some(())
    })
    .await;
    // Its event was the last of all, and of the greedy company's jobs four are worked on at a time.
    let place =
        receiver.requests().iter().position(|request| request.path() == "/quiet").expect("it is there");
    assert!(place < backlog as usize / 2, "{place} of the greedy company's {backlog} went before it");
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(ingest.stop().await, Some(0));
}

#[tokio::test]
async fn what_a_company_has_beyond_its_share_stands_in_line() {
    const EVENTS: i64 = 1_000;
    let (app, company, other) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    app.set("WINDOW_JOBS", 50_000);
    for company in [company, other] {
        app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    }
    let ingest = app.run(&["--role", "ingest"]).await;
    load::publish(&app, company, EVENTS as u64).await;
    let (ordinary, prompt) = queued(&app, EVENTS).await;
    assert!(prompt >= SHARE_JOBS, "{prompt}");
    assert!(ordinary > 0, "all of {EVENTS} are within its share");
    // The share of another is its own.
    app.publish(other, "ticket.created", json!({})).await;
    assert_eq!(queued(&app, EVENTS + 1).await, (ordinary, prompt + 1));
    let published = |queue: &'static str| {
        let metric = format!(r#"xtwebhooks_broker_published_total{{queue="{queue}",fate="confirmed"}}"#);
        let ingest = &ingest;
        async move { ingest.metric(&metric).await }
    };
    assert_eq!(published("deliveries").await, f64::from(ordinary));
    assert_eq!(published("prompt").await, f64::from(prompt + 1));
    assert_eq!(ingest.stop().await, Some(0));
}

#[tokio::test]
async fn where_a_prompt_queue_has_no_room_jobs_stand_in_line() {
    const ROOM: u32 = 5;
    const EVENTS: u32 = 20;
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("PROMPT_JOBS", ROOM);
    app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let ingest = app.run(&["--role", "ingest"]).await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    let (_, prompt) = queued(&app, EVENTS.into()).await;
    // No more than there is room for, and what was on its way while they were counted.
    assert!((ROOM..=2 * ROOM).contains(&prompt), "{prompt}");
    assert_eq!(ingest.stop().await, Some(0));
}

#[tokio::test]
async fn a_prompt_job_that_finds_no_queue_is_left_to_schedule_and_arrives() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let ingest = app.run(&["--role", "ingest"]).await;
    let queue = format!("{}.prompt.0", app.prefix);
    app.channel().await.queue_delete(queue.into(), Default::default()).await.expect("it can be deleted");
    app.publish(company, "ticket.created", json!({})).await;
    eventually("it came back", async || {
        let returned = r#"xtwebhooks_broker_published_total{queue="prompt",fate="returned"}"#;
        (ingest.metric(returned).await == 1.0).then_some(())
    })
    .await;
    let others = app.run(&["--role", "schedule,deliver"]).await;
    receiver.wait_for(1).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered' and rescues = 0",
        1,
    )
    .await;
    assert_eq!(others.stop().await, Some(0));
    assert_eq!(ingest.stop().await, Some(0));
}
