//! Days of the history: made ahead, made by whoever misses one, and ended before they are dropped.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

/// The shortest retention that the other settings allow, in days.
const RETENTION_DAYS: i64 = 4;
const PARENTS: [&str; 3] = ["events", "webhook_deliveries", "webhook_delivery_attempts"];
const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";

fn retained(app: &App) {
    app.set("RETENTION", format!("{RETENTION_DAYS}d")).set("PARK_MAX", "1h");
}

async fn has_day(app: &App, parent: &str, day: DateTime<Utc>) -> bool {
    sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("{parent}_{}", day.format("%Y%m%d")))
        .fetch_one(&app.pool)
        .await
        .expect("it can be asked")
}

#[tokio::test]
async fn a_day_past_the_retention_ends_what_it_owes_before_it_goes_and_that_can_be_replayed() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let then = Utc::now() - TimeDelta::days(RETENTION_DAYS + 2);
    let kept_day = Utc::now() - TimeDelta::days(RETENTION_DAYS - 1);
    let pending = owe(&app, company, webhook, then, "pending").await;
    owe(&app, company, webhook, then, "held").await;
    owe(&app, company, webhook, kept_day, "delivered").await;
    let prune = app.run(&["--role", "prune"]).await;
    let expired = "select count(*) from dead_letters where reason = 'expired' and status = 'open'";
    app.wait_for_count(expired, 2).await;
    for parent in PARENTS {
        eventually("the day is dropped", async || (!has_day(&app, parent, then).await).then_some(())).await;
    }
    assert!(has_day(&app, "events", kept_day).await, "a day within the retention stays");
    assert_eq!(prune.stop().await, Some(0));
    let of = company.to_string();
    let letter = app.cli(&["dead-letters", "show", "--company", &of, &pending.0.to_string()]).await;
    let timestamp = then.timestamp();
    let expected = format!(
        r#"{{"event_type":"ticket.created","data":{{"kept":  "as it was"}},"company_id":"{company}","timestamp":{timestamp}}}"#
    );
    assert_eq!(letter["body"], expected.as_str());

    // Its event is gone; the dead letter has all that is needed.
    let _service = app.run(&[]).await;
    app.cli(&["replay", "--company", &company.to_string(), "--status", "dead", "--wait"]).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].body, expected.as_bytes());
    assert_eq!(requests[1].body, expected.as_bytes());
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered' and trigger = 'replay'",
        2,
    )
    .await;
}

#[tokio::test]
async fn a_day_that_a_replay_may_still_read_stays_until_the_replay_is_done() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let then = Utc::now() - TimeDelta::days(RETENTION_DAYS + 2);
    let delivery = owe(&app, company, webhook, then, "delivered").await;
    let (of, id) = (company.to_string(), webhook.to_string());
    app.cli(&["webhooks", "pause", "--company", &of, &id]).await;
    app.cli(&["replay", "--company", &of, &delivery.to_string()]).await;
    let running = app.run(&["--role", "schedule,deliver"]).await;
    // Made, and waiting for the end of the pause: its body is in the old day alone.
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'pending' and trigger = 'replay'",
        1,
    )
    .await;
    app.wait_for_count("select count(*) from replays where status = 'running'", 1).await;
    let prune = app.run(&["--role", "prune"]).await;
    eventually("prune looked at the day", async || {
        let log = prune.log();
        log.iter()
            .any(|line| {
                line["message"].as_str().is_some_and(|text| text.contains("a running replay may need"))
            })
            .then_some(())
    })
    .await;
    assert!(has_day(&app, "events", then).await);
    assert_eq!(prune.stop().await, Some(0));
    app.cli(&["webhooks", "resume", "--company", &of, &id]).await;
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].json()["data"]["kept"], "as it was");
    app.wait_for_count("select count(*) from replays where kind = 'replay' and status = 'done'", 1).await;
    assert_eq!(running.stop().await, Some(0));
    let _prune = app.run(&["--role", "prune"]).await;
    eventually("the day is dropped", async || (!has_day(&app, "events", then).await).then_some(())).await;
}

#[tokio::test]
async fn days_are_made_two_weeks_ahead() {
    let app = App::new().await;
    let day = |ahead: i64| Utc::now() + TimeDelta::days(ahead);
    for parent in PARENTS {
        for ahead in 1..=14 {
            execute(&app, &format!("drop table {parent}_{}", day(ahead).format("%Y%m%d"))).await;
        }
    }
    let _prune = app.run(&["--role", "prune"]).await;
    for parent in PARENTS {
        for ahead in [1, 14] {
            eventually("the day is there", async || has_day(&app, parent, day(ahead)).await.then_some(()))
                .await;
        }
    }
}

#[tokio::test]
async fn a_missing_day_is_made_by_whoever_needs_it() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&["--role", "ingest,deliver,dead-letter,schedule"]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    let sql = "do $$ declare name text; begin
        for name in select inhrelid::regclass::text from pg_inherits
            where inhparent::regclass::text in ('events', 'webhook_deliveries', 'webhook_delivery_attempts') loop execute 'drop table ' || name; end loop;
    end $$";
    // Whoever is at work takes locks on the days in another order, and one of the two is told of a dead-lock.
    let drop_all = async || {
        let dropped = async || sqlx::raw_sql(sql).execute(&app.pool).await.ok();
        eventually("every day is dropped", dropped).await;
    };
    drop_all().await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let open = "select count(*) from dead_letters where status = 'open'";
    app.wait_for_count(open, 1).await;

    // And by schedule, for what a replay makes: the source is a dead letter whose days are gone.
    drop_all().await;
    app.cli(&["replay", "--company", &company.to_string(), "--status", "dead", "--wait"]).await;
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[1].body, requests[0].body);
    app.wait_for_count(DELIVERED, 1).await;
}

#[tokio::test]
async fn transitions_of_lanes_are_kept_as_long_as_the_history() {
    let app = App::new().await;
    retained(&app);
    execute(
        &app,
        &format!(
            "insert into lane_transitions (webhook_id, at, kind, company_id)
             select gen_random_uuid(), now() - make_interval(days => n), 'opened', gen_random_uuid()
             from generate_series(1, 2 * {RETENTION_DAYS}) n, generate_series(1, 300)"
        ),
    )
    .await;
    let _prune = app.run(&["--role", "prune"]).await;
    // Those of the last day within it are a little older than it by the time they are looked at.
    app.wait_for_count("select count(*) from lane_transitions", 300 * (RETENTION_DAYS - 1)).await;
}

/// What a dump does: it reads all tables in one transaction, for hours.
async fn dumped(app: &App) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut dump = app.pool.begin().await.expect("begun");
    sqlx::raw_sql("lock table events, webhook_deliveries, webhook_delivery_attempts in access share mode")
        .execute(&mut *dump)
        .await
        .expect("locked");
    dump
}

#[tokio::test]
async fn days_are_made_beside_a_dump_and_deliveries_go_on() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let _service = app.run(&["--role", "ingest,deliver,schedule"]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    let tomorrow = Utc::now() + TimeDelta::days(1);
    for parent in PARENTS {
        execute(&app, &format!("drop table {parent}_{}", tomorrow.format("%Y%m%d"))).await;
    }
    let dump = dumped(&app).await;
    let _prune = app.run(&["--role", "prune"]).await;
    for parent in PARENTS {
        eventually("the day is made", async || has_day(&app, parent, tomorrow).await.then_some(())).await;
    }
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(2).await;
    dump.rollback().await.expect("ended");
}

#[tokio::test]
async fn a_day_that_a_dump_reads_is_dropped_after_it_and_holds_up_nothing_meanwhile() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let days = [RETENTION_DAYS + 2, RETENTION_DAYS + 3].map(|ago| Utc::now() - TimeDelta::days(ago));
    for day in days {
        owe(&app, company, webhook, day, "pending").await;
    }
    execute(
        &app,
        "insert into dead_letters (id, kind, reason, created_at)
                   values (gen_random_uuid(), 'event', 'old', now() - interval '91 days')",
    )
    .await;
    let dump = dumped(&app).await;
    let prune = app.run(&["--role", "prune"]).await;
    // Neither day can be dropped; each says so, and the duties that follow are done.
    eventually("both days were tried", async || {
        let tried = |line: &serde_json::Value| line["duty"].as_str() == Some("drop a day");
        (prune.log().iter().filter(|line| tried(line)).count() == days.len()).then_some(())
    })
    .await;
    app.wait_for_count("select count(*) from dead_letters where reason = 'old'", 0).await;
    app.wait_for_count("select count(*) from dead_letters where reason = 'expired'", 2).await;
    let _service = app.run(&["--role", "ingest,deliver,schedule"]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    dump.rollback().await.expect("ended");
    assert_eq!(prune.stop().await, Some(0));
    let _prune = app.run(&["--role", "prune"]).await;
    for (parent, day) in PARENTS.iter().flat_map(|parent| days.map(|day| (parent, day))) {
        eventually("the day is dropped", async || (!has_day(&app, parent, day).await).then_some(())).await;
    }
}
