//! What v0.3.0 left is carried over: each row of its ledger, and what waits in its queues.

use std::collections::BTreeMap;

use serde_json::{Value, json, value::RawValue};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, Service, eventually},
    receiver::Receiver,
    released::{self, COMPANY, KEY, KEY_OF_ALL},
};

/// How many rows each table and each partition has, and which tables are no partitions.
async fn rows(app: &App) -> BTreeMap<String, (i64, bool)> {
    let tables = "select t.table_name::text, not c.relispartition
                  from information_schema.tables t
                  join pg_class c on c.oid = format('%I.%I', t.table_schema, t.table_name)::regclass
                  where t.table_schema = 'public' and t.table_type = 'BASE TABLE'";
    let mut rows = BTreeMap::new();
    for table in sqlx::query(tables).fetch_all(&app.pool).await.expect("the tables") {
        let (name, whole): (String, bool) = (table.get(0), table.get(1));
        let count = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from \"{name}\"")));
        let count = count.fetch_one(&app.pool).await.expect("a count");
        rows.insert(name, (count, whole));
    }
    rows
}

/// The ledger of v0.3.0, migrated.
async fn migrated(receiver: &Receiver) -> App {
    let app = released::ledger(receiver).await;
    app.cli(&["migrate"]).await;
    // What it owes is a day old; some of it is four days older.
    app.set("PARK_MAX", "10d");
    app
}

/// A client with the key that v0.3.0 made.
async fn client(service: &Service) -> Client {
    Client::of(service).await.with(KEY)
}

async fn column<T>(app: &App, sql: &'static str) -> Vec<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(sql).bind(COMPANY).fetch_all(&app.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

#[tokio::test]
async fn the_migration_of_a_ledger_of_v0_3_0_loses_no_row() {
    let app = released::ledger(&Receiver::start().await).await;
    let before = rows(&app).await;
    let empty: Vec<_> = before.iter().filter(|(_, (count, whole))| *whole && *count == 0).collect();
    assert!(empty.is_empty() && before.len() > 22, "the dump has no row for {empty:?}");
    app.cli(&["migrate"]).await;
    let after = rows(&app).await;
    for (table, (count, _)) in before {
        assert!(
            after.get(&table).is_some_and(|(now, _)| *now >= count),
            "{table}: {count}, {:?}",
            after.get(&table)
        );
    }
    // Another time there is nothing to do.
    app.cli(&["migrate"]).await;
    assert_eq!(rows(&app).await, after);
}

#[tokio::test]
async fn the_api_shows_what_v0_3_0_wrote() {
    let app = migrated(&Receiver::start().await).await;
    let service = app.run(&["--role", "api"]).await;
    let client = client(&service).await;
    for (path, count) in [
        ("webhooks", "select count(*) from webhooks where company_id = $1 and deleted_at is null"),
        ("events", "select count(*) from events where company_id = $1"),
        ("deliveries", "select count(*) from webhook_deliveries where company_id = $1"),
        ("dead-letters", "select count(*) from dead_letters where company_id = $1"),
        ("replays", "select count(*) from replays where company_id = $1"),
        ("keys", "select count(*) from api_keys where company_id = $1"),
        ("audit-log", "select count(*) from audit_log where company_id = $1"),
        (
            "lanes",
            "select count(*) from lanes join webhooks w on w.id = webhook_id where w.company_id = $1 and deleted_at is null",
        ),
    ] {
        let shown = client.get(&format!("/v1/{path}?limit=200")).await;
        // Parsed no further than to where each row ends: `data` has what no value of Rust's can hold.
        let rows: Vec<&RawValue> =
            serde_json::from_str(&shown.text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let expected: i64 = column(&app, count).await[0];
        assert!(expected > 0, "{path}");
        assert_eq!((shown.status, rows.len()), (200, expected as usize), "{path}: {}", shown.text);
    }

    // A state seen is changed once.
    let webhooks = client.get("/v1/webhooks").await.expect(200);
    let named = |name: &str| {
        let mut all = webhooks.as_array().expect("a list").iter();
        all.find(|webhook| webhook["name"] == name).unwrap_or_else(|| panic!("{name}: {webhooks}")).clone()
    };
    let ok = named("ok");
    assert_eq!((&ok["description"], &ok["metadata"]), (&json!("as it became"), &json!({"owner": "alice"})));
    let path = format!("/v1/webhooks/{}", ok["id"].as_str().expect("an id"));
    let seen = client.get(&path).await.header("etag").to_owned();
    assert!(!seen.is_empty());
    let with = client.and("if-match", &seen);
    let changed = with.put(&path, json!({"description": "changed since"})).await;
    changed.expect(200);
    assert_ne!(changed.header("etag"), seen);
    with.put(&path, json!({"description": "too late"})).await.expect(412);
    assert_eq!(client.get(&path).await.expect(200)["description"], "changed since");

    // An event with what became of it, and a delivery with each of its attempts.
    let flaky = named("flaky")["id"].as_str().expect("an id").to_owned();
    let deliveries =
        client.get(&format!("/v1/webhooks/{flaky}/deliveries?event_type=ticket.closed")).await.expect(200);
    let twice = deliveries.as_array().expect("a list").iter().find(|delivery| delivery["attempts"] == 2);
    let twice = twice.unwrap_or_else(|| panic!("{deliveries}"));
    let text = |value: &Value| value.as_str().expect("an id").to_owned();
    let event = client.get(&format!("/v1/events/{}", text(&twice["event_id"]))).await.expect(200);
    let of_event = event["deliveries"].as_array().expect("its deliveries");
    assert!(of_event.iter().any(|delivery| delivery["id"] == twice["id"]), "{event}");
    let shown = client.get(&format!("/v1/deliveries/{}", text(&twice["id"]))).await.expect(200);
    let history = shown["history"].as_array().expect("its attempts");
    let statuses: Vec<_> = history.iter().map(|attempt| &attempt["response_status"]).collect();
    assert_eq!(statuses, [503, 200], "{shown}");

    let swings = named("swings")["id"].as_str().expect("an id").to_owned();
    let transitions = client.get(&format!("/v1/webhooks/{swings}/lane/transitions")).await.expect(200);
    let kinds: Vec<_> = transitions.as_array().expect("a list").iter().map(|t| text(&t["kind"])).collect();
    assert!(kinds.contains(&"opened".to_owned()) && kinds.contains(&"closed".to_owned()), "{transitions}");
    let registered = client.get("/v1/event-types/asset.created").await.expect(200);
    assert_eq!(registered["on_violation"], "dead_letter", "{registered}");
}

#[tokio::test]
async fn what_a_ledger_of_v0_3_0_owes_arrives() {
    let receiver = Receiver::start().await;
    let app = migrated(&receiver).await;
    // The broker is another, so what had a job there has lost it.
    app.set("WATERMARK_EVERY", "1s")
        .set("FRESH_MAX", "1s")
        .set("TIMEOUT_MAX", "5s")
        .set("LEASE_MARGIN", "1s");
    app.set("RESCUE_GRACE", "8s");
    let pending: Vec<Uuid> =
        column(&app, "select id from webhook_deliveries where company_id = $1 and status = 'pending'").await;
    let held: Vec<Uuid> =
        column(&app, "select id from webhook_deliveries where company_id = $1 and status = 'held'").await;
    let replays = app.count("select count(*) from replays where status <> 'done'").await;
    assert!(pending.len() > 10 && held.len() > 3 && replays > 0, "{pending:?} {held:?} {replays}");
    let service = app.run(&[]).await;
    let client = client(&service).await;
    let paused: Vec<Uuid> = column(
        &app,
        "select id from webhooks where company_id = $1 and paused_at is not null and deleted_at is null order by name",
    )
    .await;
    assert_eq!(paused.len(), 2, "one by a person, one by its receiver's 410");
    for webhook in paused {
        client.post(&format!("/v1/webhooks/{webhook}/resume"), json!({})).await.expect(200);
    }

    app.wait_for_count("select count(*) from webhook_deliveries where status in ('pending', 'held')", 0)
        .await;
    app.wait_for_count("select count(*) from replays where status <> 'done'", 0).await;
    let arrived: Vec<String> = receiver
        .requests()
        .iter()
        .filter_map(|request| request.header("x-xtsystems-delivery").map(str::to_owned))
        .collect();
    for id in pending.into_iter().chain(held) {
        assert!(arrived.contains(&id.to_string()), "{id}");
    }
    // `data` as it was published, with what a parser would have lost.
    let odd = released::ODD_DATA.as_bytes();
    let whole = |body: &[u8]| body.windows(odd.len()).any(|part| part == odd);
    assert!(receiver.requests().iter().any(|request| request.path() == "/later" && whole(&request.body)));
    // The company whose erasure had been asked for is erased.
    app.wait_for_count("select count(*) from erasures where stage <> 'done'", 0).await;

    let arrivals = receiver.count();
    app.publish(COMPANY, "asset.updated", json!({"n": 1})).await;
    receiver.wait_for(arrivals + 1).await;
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn dead_letters_of_v0_3_0_are_shown_and_replayed_byte_for_byte() {
    let receiver = Receiver::start().await;
    let app = migrated(&receiver).await;
    let letters = sqlx::query(
        "select id, kind, event_id, body, webhook_id from dead_letters where company_id = $1 and status = 'open' order by id",
    )
    .bind(COMPANY)
    .fetch_all(&app.pool)
    .await
    .expect("dead letters");
    let service = app.run(&[]).await;
    let client = client(&service).await;
    // What was a dead letter by its schema is taken in from now on.
    let operator = Client::of(&service).await.with(KEY_OF_ALL);
    operator.put("/v1/event-types/asset.created", json!({"on_violation": "flag"})).await.expect(200);

    let (mut deliveries, mut others, mut gone) = (0, 0, 0);
    for letter in letters {
        let (id, kind, body): (Uuid, &str, &[u8]) = (letter.get(0), letter.get(1), letter.get(3));
        let path = format!("/v1/dead-letters/{id}");
        let shown = client.get(&path).await.expect(200);
        assert_eq!((&shown["kind"], shown["body"].as_str().map(str::as_bytes)), (&json!(kind), Some(body)));
        // An event that is none in its second life is not what this test is of.
        if serde_json::from_slice::<&RawValue>(body).is_err() {
            continue;
        }
        client.post(&format!("{path}/replay"), json!({})).await.expect(202);
        if kind == "delivery" {
            let event: Uuid = letter.get(2);
            eventually("its very bytes arrive", async || {
                let requests = receiver.requests();
                let mut of_event = requests.iter().filter(|request| {
                    request.path().starts_with("/dead")
                        && request.header("webhook-id") == Some(&event.to_string())
                });
                of_event.any(|request| request.body == body).then_some(())
            })
            .await;
            deliveries += 1;
            let history = sqlx::query_scalar("select count(*) from events where id = $1").bind(event);
            gone += i64::from(history.fetch_one(&app.pool).await.ok() == Some(0_i64));
        } else {
            others += 1;
        }
        eventually("it says so", async || {
            (client.get(&path).await.expect(200)["status"] == "replayed").then_some(())
        })
        .await;
    }
    assert!(deliveries >= 3 && others >= 1 && gone == 1, "{deliveries} {others} {gone}");
    // Taken in as an event, it goes to the webhook that wants it.
    eventually("a replayed message arrives", async || {
        let of = |name: &str| name == "asset.created";
        let requests = receiver.requests();
        let mut arrived =
            requests.iter().filter(|request| request.header("x-xtsystems-event").is_some_and(of));
        arrived.any(|request| request.path() == "/ok").then_some(())
    })
    .await;
}
