//! Becoming dead leaves a dead letter, once, whatever statement does it; and those of before are sent as they are.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;
use xtwebhooks::{
    model::{DeliveryId, id::first_at},
    store::{
        dispose::{self, Disposed, Disposition},
        due, give_up, partitions,
    },
};

use crate::support::{
    app::App,
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";

/// What a delivery's dead letter says: reason, rendered body, data, time. There is one at most.
type Kept = (String, Option<Vec<u8>>, Option<String>, Option<i64>);

async fn kept(app: &App, delivery: DeliveryId) -> Option<Kept> {
    sqlx::query_as(r#"select reason, body, data::text, "timestamp" from dead_letters where id = $1"#)
        .bind(delivery.0)
        .fetch_optional(&app.pool)
        .await
        .expect("read")
}

/// What an event that [`owe`] writes carries.
const DATA: &str = r#"{"kept":  "as it was"}"#;

fn with_data(reason: &str, at: DateTime<Utc>) -> Kept {
    (reason.to_owned(), None, Some(DATA.to_owned()), Some(at.timestamp()))
}

#[tokio::test]
async fn whatever_statement_ends_a_delivery_its_dead_letter_stands_beside_it() {
    let (app, company, webhook) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let (now, old) = (Utc::now(), Utc::now() - TimeDelta::days(3));

    let given_up = owe(&app, company, webhook, now, "pending").await;
    give_up::give_up(&app.pool, &[given_up], 1, "ended the worker").await.expect("given up");
    assert_eq!(kept(&app, given_up).await, Some(with_data("ended the worker", now)));

    let aside = owe(&app, company, webhook, now, "pending").await;
    let expired = Disposed { delivery: aside, attempt: 1, aside: Disposition::Expired, holds_claim: false };
    dispose::set_aside(&app.pool, &[expired]).await.expect("set aside");
    assert_eq!(kept(&app, aside).await, Some(with_data("expired", now)));

    let parked = owe(&app, company, webhook, old, "pending").await;
    let (from, to) = (first_at(old - TimeDelta::hours(1)), first_at(now));
    let park_max = std::time::Duration::from_secs(3600);
    due::expire_parked(&app.pool, from, to, park_max, 100).await.expect("expired");
    assert_eq!(kept(&app, parked).await, Some(with_data("expired", old)));

    let held = owe(&app, company, webhook, old, "held").await;
    assert_eq!(partitions::expire(&app.pool, old.date_naive(), 100).await.expect("expired"), 1);
    assert_eq!(kept(&app, held).await, Some(with_data("expired", old)));

    // What leaves none: a test, what is cancelled, and what is dead already.
    let test = owe(&app, company, webhook, now, "pending").await;
    execute(&app, &format!("update webhook_deliveries set trigger = 'test' where id = '{}'", test.0)).await;
    give_up::give_up(&app.pool, &[test], 1, "ended the worker").await.expect("given up");
    assert_eq!(kept(&app, test).await, None);
    let cancelled = Disposed {
        delivery: owe(&app, company, webhook, now, "pending").await,
        attempt: 1,
        aside: Disposition::Cancelled("webhook deleted"),
        holds_claim: false,
    };
    dispose::set_aside(&app.pool, &[cancelled]).await.expect("set aside");
    assert_eq!(kept(&app, cancelled.delivery).await, None);
    execute(&app, "delete from dead_letters").await;
    execute(&app, "update webhook_deliveries set status = 'dead' where status = 'dead'").await;
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);

    // Without its event it still is one, with nothing to send.
    let bare = owe(&app, company, webhook, now, "pending").await;
    execute(&app, "delete from events").await;
    give_up::give_up(&app.pool, &[bare], 1, "ended the worker").await.expect("given up");
    assert_eq!(kept(&app, bare).await, Some(("ended the worker".to_owned(), None, None, None)));
}

#[tokio::test]
async fn a_process_of_0_3_0_writes_its_own_dead_letters_on_this_ledger_and_each_once() {
    let (app, company, webhook) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let now = Utc::now();
    // As it gave up what was parked, set aside or recorded: both in one statement.
    let together = owe(&app, company, webhook, now, "pending").await;
    let kept_then = r#"
        insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, attempts, outcome,
                                  response_status, body)
        select x.id, 'delivery', x.company_id, x.webhook_id, x.event_id, x.event_type, x.reason, x.attempts, x.outcome,
               x.response_status,
               convert_to('{"event_type":' || to_json(e.event_type) || ',"data":' || e.data
                   || ',"company_id":"' || e.company_id || '","timestamp":' || e."timestamp" || '}', 'UTF8')
        from expired x
        left join events e on e.id = x.event_id
        where x.trigger <> 'test'
        on conflict (id) do nothing"#;
    execute(
        &app,
        &format!(
            "with expired as (
                update webhook_deliveries set status = 'dead', reason = 'expired' where id = '{}' returning *
            ) {kept_then}",
            together.0
        ),
    )
    .await;
    let body = format!(
        r#"{{"event_type":"ticket.created","data":{DATA},"company_id":"{company}","timestamp":{}}}"#,
        now.timestamp()
    );
    assert_eq!(kept(&app, together).await, Some(("expired".to_owned(), Some(body.into_bytes()), None, None)));

    // As it gave up a killer: one statement after the other.
    let apart = owe(&app, company, webhook, now, "pending").await;
    execute(
        &app,
        &format!(
            "begin;
             update webhook_deliveries set status = 'dead', reason = 'expired' where id = '{0}';
             with expired as (select * from webhook_deliveries where id = '{0}') {kept_then};
             commit",
            apart.0
        ),
    )
    .await;
    assert_eq!(kept(&app, apart).await, Some(with_data("expired", now)));
}

#[tokio::test]
async fn a_dead_letter_of_before_is_shown_and_posted_as_it_is() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from dead_letters where data is not null", 1).await;
    // Bytes that no release would render, so that they are known again.
    let body = r#"{"rendered":  "earlier\u0000"}"#;
    execute(
        &app,
        &format!(
            r#"update dead_letters set body = convert_to('{body}', 'UTF8'), data = null, "timestamp" = null"#
        ),
    )
    .await;
    execute(&app, "delete from events").await;

    let of = company.to_string();
    let letter = app.cli(&["dead-letters", "list", "--company", &of]).await[0].clone();
    let id = letter["id"].as_str().expect("an id");
    assert_eq!(app.cli(&["dead-letters", "show", "--company", &of, id]).await["body"], body);
    let delivery = app.cli(&["deliveries", "show", "--company", &of, id]).await;
    assert_eq!(delivery["payload"], serde_json::from_str::<serde_json::Value>(body).expect("it is JSON"));
    app.cli(&["dead-letters", "replay", "--company", &of, id]).await;
    app.wait_for_count(DELIVERED, 1).await;
    assert_eq!(String::from_utf8_lossy(&receiver.requests()[1].body), body);
    assert_eq!(service.stop().await, Some(0));
}
