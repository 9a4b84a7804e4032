//! Whose fault a refused batch is: one bad row stands alone, and trouble of our own costs no good event anything.

use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually},
    receiver::{Answer, Receiver},
};

impl App {
    async fn sql(&self, sql: &str) {
        self.pool.execute(AssertSqlSafe(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Declares the queues, so that events can wait for the first ingest.
async fn declare(app: &App) {
    assert_eq!(app.run(&["--role", "dead-letter"]).await.stop().await, Some(0));
}

#[tokio::test]
async fn one_event_that_the_ledger_refuses_stands_alone() {
    const EVENTS: i64 = 60;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.sql("alter table events add constraint no_poison check (event_type <> 'ticket.poison')").await;
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    declare(&app).await;
    for n in 0..EVENTS {
        app.publish(company, if n == 31 { "ticket.poison" } else { "ticket.created" }, json!({"n": n})).await;
    }

    // All of them wait together, so they come in one batch.
    let service = app.run(&[]).await;
    receiver.wait_for(EVENTS as usize - 1).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", EVENTS - 1)
        .await;
    app.wait_for_count("select count(*) from dead_letters where kind = 'message' and status = 'open'", 1)
        .await;
    let (reason, event_type, body): (String, String, Vec<u8>) =
        sqlx::query_as("select reason, event_type, body from dead_letters")
            .fetch_one(&app.pool)
            .await
            .expect("a row");
    assert!(reason.contains("23514") && reason.contains("no_poison"), "{reason}");
    assert_eq!(event_type, "ticket.poison");
    assert!(String::from_utf8_lossy(&body).contains("\"n\":31"));
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), EVENTS as usize - 1);
    assert_eq!(app.depth("events").await, 0);
}

#[tokio::test]
async fn an_answer_that_the_ledger_refuses_is_recorded_without_its_texts() {
    const EVENTS: i64 = 24;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.sql(
        "alter table webhook_deliveries add constraint no_poison check (response_body not like '%poison%')",
    )
    .await;
    // They are answered together, so they are recorded in few batches.
    receiver.answer_by(|request, _| {
        let poison = request.json()["data"]["n"] == 7 && request.header("x-xtsystems-attempt") == Some("1");
        let answer = if poison { Answer::status(500).body("poison") } else { Answer::ok().body("fine") };
        answer.after(Duration::from_millis(500))
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    declare(&app).await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    let service = app.run(&[]).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", EVENTS).await;
    assert_eq!(service.stop().await, Some(0));

    // One request each, and a second one to the delivery that failed: never one more because of the record.
    assert_eq!(receiver.count(), EVENTS as usize + 1);
    let whole = "select count(*) from webhook_deliveries
                 where response_body = 'fine' and request_head is not null and why is not null and url is not null";
    assert_eq!(app.count(whole).await, EVENTS);
    let bare = "select count(*) from webhook_delivery_attempts
                where number = 1 and response_status = 500 and outcome = 'server_error' and total_us > 0
                  and num_nonnulls(response_body, response_head, request_head, url, address, why) = 0";
    assert_eq!(app.count(bare).await, 1);
    assert_eq!(app.count("select count(*) from webhook_delivery_attempts").await, 1);
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
}

async fn wait_for_trouble(service: &Service) {
    for role in ["ingest", "deliver"] {
        eventually(&format!("{role} fails to commit"), async || {
            let (status, text) = service.get("/health/ready").await?;
            let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let mut checks = told["checks"].as_array().expect("checks").iter();
            (status == 503 && checks.any(|check| check["name"] == role && check["ok"] == false)).then_some(())
        })
        .await;
    }
}

/// Lets trouble begin while requests are open and events come in, and end again: everything must arrive once.
async fn no_good_event_is_lost(app: &App, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
    const EVENTS: i64 = 20;
    let receiver = Receiver::start().await;
    receiver.answer_by(|_, _| Answer::ok().after(Duration::from_millis(700)));
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(EVENTS as usize).await;
    begin().await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": EVENTS + n})).await;
    }
    wait_for_trouble(&service).await;
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
    end().await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 2 * EVENTS)
        .await;
    service.ready().await;
    // Schedule, too, is at work again: it alone can deliver what waits in the ledger.
    eventually("schedule is active", async || {
        (service.metric("xtwebhooks_schedule_active").await > 0.0).then_some(())
    })
    .await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 2 * EVENTS as usize, "each delivery is requested once");
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
    for queue in ["events", "dead-letters", "suspects.events", "suspects.jobs"] {
        assert_eq!(app.depth(queue).await, 0, "{queue}");
    }
}

/// Refuses every write with this SQLSTATE while the table `trouble` has a row.
async fn refused_with(sqlstate: &str) {
    let app = App::new().await;
    app.sql("create table trouble (code text)").await;
    app.sql(
        "create function make_trouble() returns trigger language plpgsql as $$
         begin
             if exists (select from trouble) then
                 raise exception 'trouble' using errcode = (select code from trouble limit 1);
             end if;
             return null;
         end $$",
    )
    .await;
    for table in ["events", "webhook_deliveries"] {
        app.sql(&format!(
            "create trigger trouble before insert or update on {table} for each statement
             execute function make_trouble()"
        ))
        .await;
    }
    no_good_event_is_lost(
        &app,
        async || app.sql(&format!("insert into trouble values ('{sqlstate}')")).await,
        async || app.sql("delete from trouble").await,
    )
    .await;
}

#[tokio::test]
async fn a_full_disk_makes_no_event_a_dead_letter() {
    refused_with("53100").await;
}

#[tokio::test]
async fn a_dead_lock_makes_no_event_a_dead_letter() {
    refused_with("40P01").await;
}

#[tokio::test]
async fn a_lock_that_is_not_given_in_time_makes_no_event_a_dead_letter() {
    refused_with("55P03").await;
}

#[tokio::test]
async fn a_statement_that_is_ended_makes_no_event_a_dead_letter() {
    refused_with("57014").await;
}

#[tokio::test]
async fn a_read_only_database_makes_no_event_a_dead_letter() {
    let app = App::new().await;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and application_name like 'xtwebhooks/%'";
    let read_only = async |on: &str| {
        app.sql(&format!(
            "begin read write;
             do $$ begin
                 execute format('alter database %I set default_transaction_read_only = {on}', current_database());
             end $$;
             commit"
        ))
        .await;
    };
    no_good_event_is_lost(
        &app,
        async || {
            read_only("on").await;
            app.sql(cut).await;
        },
        // Nobody ends the connections now: the service must see by itself that they are of no use.
        async || read_only("off").await,
    )
    .await;
}
