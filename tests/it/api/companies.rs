//! A company is erased: nothing of its texts remains, whatever dies meanwhile, and what comes later is dropped.

use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, PATIENCE, eventually, eventually_within},
    past::execute,
    receiver::{Answer, Receiver},
    service::Service,
};

/// Every column that can hold a text, of every table: those of the partitions are found by their parents.
const COLUMNS: &str = "
    select c.relname::text, a.attname::text, a.atttypid = 'bytea'::regtype
    from pg_class c
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'json'::regtype, 'jsonb'::regtype, 'bytea'::regtype,
                         'text[]'::regtype)
    order by 1, 2";

/// Where a marker stands: table, column, and in how many rows.
async fn found(app: &App, marker: &str) -> Vec<(String, String, i64)> {
    let columns: Vec<(String, String, bool)> =
        sqlx::query_as(COLUMNS).fetch_all(&app.pool).await.expect("the catalogue answers");
    assert!(columns.len() > 50, "{columns:?}");
    let mut found = Vec::new();
    for (table, column, is_bytes) in columns {
        let text =
            if is_bytes { format!("encode({column}, 'escape')") } else { format!("\"{column}\"::text") };
        let sql = format!("select count(*) from {table} where {text} like '%{marker}%'");
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&app.pool).await.expect("counted");
        if rows > 0 {
            found.push((table, column, rows));
        }
    }
    found
}

/// A client that may do everything in every company.
async fn operator(app: &App, service: &Service) -> Client {
    Client::of(service).await.with(&app.key(None, &["admin"]).await)
}

/// For how long a process may go on with what it remembers of webhooks.
const CACHES_LAST: TimeDelta = TimeDelta::seconds(10);

/// Has what was asked for lie so far back that it is begun at once.
async fn asked_long_ago(app: &App) {
    execute(app, "update erasures set asked_at = asked_at - interval '1 minute'").await;
}

/// Waits until an erasure is done; gives how it stands then.
async fn erased(operator: &Client, company: Uuid) -> Value {
    let path = format!("/v1/companies/{company}/erasure");
    eventually_within(2 * PATIENCE, "the erasure is done", async || {
        let erasure = operator.get(&path).await.expect(200);
        (erasure["status"] == "done").then_some(erasure)
    })
    .await
}

/// Puts texts of a company wherever there is room for one.
async fn furnish(app: &App, receiver: &Receiver, company: Uuid, marker: &str) {
    receiver.answer_at(
        &format!("/{marker}/failing"),
        [Answer::status(500).header("x-told", marker).body(marker.to_owned())],
    );
    let webhook = async |name: &str, more: Value| {
        let mut all = json!({
            "name": format!("{marker} {name}"), "events": [format!("ticket.{marker}")], "secret": format!("{marker}-of-length"),
            "headers": {"X-Marker": marker},
        });
        all.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
        app.webhook(company, &receiver.url(&format!("/{marker}/{name}")), all).await
    };
    webhook("ok", json!({})).await;
    webhook("failing", json!({"retry_count": 2})).await;
    webhook("waiting", json!({"retry_schedule": [3600]})).await;
    receiver.answer_at(&format!("/{marker}/waiting"), [Answer::status(503).body(marker.to_owned())]);
    let paused = webhook("paused", json!({})).await;
    let deleted = webhook("deleted", json!({})).await;
    execute(
        app,
        &format!(
            "update webhooks set paused_at = now(), paused_by = '{marker}', pause_reason = '{marker}' where id = '{paused}';
             update webhooks set description = '{marker}', metadata = '{{\"of\": \"{marker}\"}}', created_by = '{marker}'
             where company_id = '{company}';
             update webhooks set deleted_at = now() where id = '{deleted}';
             insert into audit_log (id, company_id, actor, action, subject, before, after, address)
             values (gen_random_uuid(), '{company}', 'user {marker}', 'webhook.update', '{marker}', '\"{marker}\"', '\"{marker}\"', '{marker}');
             insert into idempotency_keys (company_id, key, request_sha256, response_body)
             values ('{company}', '{marker}', '\\x00', '{marker}');
             insert into intake_keys (company_id, message_id, event_id) values ('{company}', '{marker}', gen_random_uuid());
             insert into event_stats (company_id, event_type, minute, writer, events, unmatched, deliveries)
             values ('{company}', '{marker}', now(), 1, 1, 1, 1);
             insert into delivery_stats (company_id, webhook_id, event_type, minute, outcome, writer, attempts, delivered, dead,
                                         total_us_sum, latency_histogram)
             values ('{company}', '{paused}', '{marker}', now(), 'accepted', 1, 1, 1, 0, 1, '{{1}}');
             insert into replays (id, company_id, kind, filter, rate, requested_by, status)
             values (gen_random_uuid(), '{company}', 'replay', '{{\"event_type\": \"{marker}\"}}', 1, '{marker}', 'done');"
        ),
    )
    .await;
    for n in 0..3 {
        app.publish(company, &format!("ticket.{marker}"), json!({"text": marker, "n": n})).await;
    }
    // A message that is none, and says whose it is.
    let body = json!({"event_type": 7, "company_id": company, "data": marker}).to_string();
    assert!(app.publish_raw("ticket.created", body.as_bytes(), Default::default()).await);
}

#[tokio::test]
async fn nothing_of_an_erased_companys_texts_remains_and_another_companys_all() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let (goes, stays) = (Uuid::new_v4(), Uuid::new_v4());
    let service = app.run(&[]).await;
    furnish(&app, &receiver, goes, "gone8d1f").await;
    furnish(&app, &receiver, stays, "kept5a2c").await;
    let settled = "select count(*) from webhook_deliveries
                   where status in ('delivered', 'dead', 'held') or (status = 'pending' and attempts = 1 and due_at > now() + interval '1 minute')";
    app.wait_for_count(settled, 24).await;
    app.wait_for_count("select count(*) from dead_letters where kind = 'message'", 2).await;
    let (client, operator) = (app.client(&service, goes).await, operator(&app, &service).await);
    let id: Uuid =
        sqlx::query_scalar("select id from webhooks where company_id = $1 and deleted_at is null limit 1")
            .bind(goes)
            .fetch_one(&app.pool)
            .await
            .expect("a webhook");
    client.get(&format!("/v1/webhooks/{id}")).await.expect(200);
    let (mine, others) = (found(&app, "gone8d1f").await, found(&app, "kept5a2c").await);
    let places = |found: &[(String, String, i64)]| {
        found.iter().map(|(table, column, _)| format!("{table}.{column}")).collect::<Vec<_>>()
    };
    for place in [
        "events.data",
        "webhook_deliveries.response_body",
        "webhook_delivery_attempts.request_head",
        "dead_letters.body",
        "dead_letters.data",
        "audit_log.after",
        "webhooks.secret",
        "webhook_versions.events",
    ] {
        assert!(places(&mine).contains(&place.to_owned()), "{place}: {mine:?}");
    }

    let asked = operator.delete(&format!("/v1/companies/{goes}")).await.expect(202);
    assert_eq!((&asked["company_id"], &asked["dropped"]), (&json!(goes), &json!(0)));
    // At once: no webhook is there any more, and its keys are none.
    let living = format!("select count(*) from webhooks where company_id = '{goes}' and deleted_at is null");
    let living: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(living)).fetch_one(&app.pool).await.expect("counted");
    assert_eq!(living, 0);
    operator.and("x-company-id", goes).get(&format!("/v1/webhooks/{id}")).await.expect(404);
    client.get(&format!("/v1/webhooks/{id}")).await.expect(401);

    let done = erased(&operator, goes).await;
    assert_eq!(found(&app, "gone8d1f").await, [], "{done}");
    // Not before every process knows of it: what one writes until then is found.
    let at =
        |field: &str| DateTime::parse_from_rfc3339(done[field].as_str().expect("a time")).expect("RFC 3339");
    assert!(at("done_at") - at("asked_at") >= CACHES_LAST, "{done}");
    assert_eq!(
        (&done["webhooks"], &done["deliveries"], &done["cancelled"]),
        (&json!(5), &json!(12), &json!(6))
    );
    assert_eq!(done["dead_letters"], 4);
    // Its own three, and the one that said that a webhook was paused.
    assert!(done["events"].as_i64().is_some_and(|events| events >= 3), "{done}");
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'cancelled' and reason = 'company erased'",
        6,
    )
    .await;
    // What a later report about the other company adds is its own.
    let after = found(&app, "kept5a2c").await;
    assert_eq!(places(&after), places(&others));
    for (before, after) in others.iter().zip(&after) {
        assert!(after.2 >= before.2, "{before:?} {after:?}");
    }
    // Who asked for it stays known.
    app.wait_for_count(
        "select count(*) from audit_log where action = 'company.erase' and actor like 'key xtwh_%'",
        1,
    )
    .await;

    // What arrives later is dropped, be it an event or none.
    app.publish(goes, "ticket.gone8d1f", json!({"text": "gone8d1f"})).await;
    app.publish(stays, "ticket.kept5a2c", json!({"text": "kept5a2c", "n": 4})).await;
    let body = json!({"event_type": 7, "company_id": goes, "data": "gone8d1f"}).to_string();
    assert!(app.publish_raw("ticket.created", body.as_bytes(), Default::default()).await);
    let path = format!("/v1/companies/{goes}/erasure");
    eventually("both are counted", async || {
        let dropped = operator.get(&path).await.expect(200)["dropped"].as_i64();
        // What the service itself had to say to the company is dropped as well.
        dropped.is_some_and(|dropped| dropped >= 2).then_some(())
    })
    .await;
    assert!(service.metric("xtwebhooks_ingest_messages_total{result=\"erased\"}").await >= 1.0);
    app.wait_for_count("select count(*) from events where event_type = 'ticket.kept5a2c'", 4).await;
    assert_eq!(found(&app, "gone8d1f").await, []);
    // Nor does it begin again.
    let there = operator.and("x-company-id", goes);
    let webhook = json!({"name": "n", "url": "http://127.0.0.1:9/", "events": ["ticket.created"]});
    let key = json!({"name": "n", "scopes": ["webhooks:read"]});
    for (path, wanted) in [("/v1/webhooks", webhook), ("/v1/keys", key)] {
        let refused = there.post(path, wanted).await.expect(422);
        assert!(refused["detail"].to_string().contains("was erased"), "{refused}");
    }
}

/// Deliveries of today with texts, so many that a few steps do not do.
async fn many_deliveries(app: &App, company: Uuid, webhook: Uuid, count: u32) {
    execute(
        app,
        &format!(
            "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, attempts, outcome,
                                             attempted_at, response_body)
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid,
                    '{company}', '{webhook}', gen_random_uuid(), 'ticket.created', 'event', 'delivered', 1, 'accepted', now(), 'marked77'
             from generate_series(1, {count}) n"
        ),
    )
    .await;
}

#[tokio::test]
async fn an_erasure_goes_on_where_a_crash_left_it() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    many_deliveries(&app, company, webhook, 30_000).await;
    let api = app.run(&["--role", "api"]).await;
    let operator = operator(&app, &api).await;
    let prune = app.run(&["--role", "prune"]).await;
    operator.delete(&format!("/v1/companies/{company}")).await.expect(202);
    asked_long_ago(&app).await;
    let path = format!("/v1/companies/{company}/erasure");
    eventually("it has begun", async || {
        (operator.get(&path).await.expect(200)["deliveries"] != 0).then_some(())
    })
    .await;
    prune.kill().await;
    let left = operator.get(&path).await.expect(200);
    assert_eq!(left["status"], "running", "{left}");
    // The dead one's lease need not be waited for.
    execute(&app, "update leases set held_until = now() - interval '1 second'").await;
    let _prune = app.run(&["--role", "prune"]).await;
    let done = erased(&operator, company).await;
    assert_eq!(done["deliveries"], 30_000, "each once: {done}");
    assert_eq!(found(&app, "marked77").await, []);
    // Asked for again it finds nothing, and ends as well.
    let again = operator.delete(&format!("/v1/companies/{company}")).await.expect(202);
    assert_eq!(again["status"], "running");
    asked_long_ago(&app).await;
    assert_eq!(erased(&operator, company).await["deliveries"], 30_000);
}

#[tokio::test]
async fn an_erasure_under_way_holds_up_nothing_that_arrives() {
    let (app, goes, stays) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let webhook = app.webhook(goes, "http://127.0.0.1:9/", json!({})).await;
    many_deliveries(&app, goes, webhook, 10).await;
    let service = app.run(&[]).await;
    let operator = operator(&app, &service).await;
    // A chunk that takes as long as the test wants.
    let mut holding = app.pool.begin().await.expect("begun");
    sqlx::query("select from webhook_deliveries for update").execute(&mut *holding).await.expect("locked");
    operator.delete(&format!("/v1/companies/{goes}")).await.expect(202);
    asked_long_ago(&app).await;
    app.wait_for_count(
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '-- erasures.deliveries%'",
        1,
    )
    .await;
    let row = sqlx::query("select from erasures for update nowait").execute(&app.pool).await;
    assert_eq!(row.expect("the chunk does not hold it").rows_affected(), 1);
    // For both, and what is no event, of which a trigger drops the dead letter.
    app.publish(goes, "ticket.created", json!({})).await;
    app.publish(stays, "ticket.updated", json!({})).await;
    let body = json!({"event_type": 7, "company_id": goes}).to_string();
    assert!(app.publish_raw("ticket.created", body.as_bytes(), Default::default()).await);
    app.wait_for_count("select count(*) from events where event_type = 'ticket.updated'", 1).await;
    app.wait_for_count("select count(*) from erasures where dropped = 2 and deliveries = 0", 1).await;
    holding.rollback().await.expect("let go");
    let done = erased(&operator, goes).await;
    assert_eq!((&done["deliveries"], &done["dropped"]), (&json!(10), &json!(2)));
}

#[tokio::test]
async fn only_who_administers_all_companies_can_erase_one() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let nobody = Client::of(&service).await;
    let own = nobody.with(&app.key(Some(company), &["admin"]).await);
    let reader = nobody.with(&app.key(None, &["webhooks:delete"]).await);
    let path = format!("/v1/companies/{company}");
    let refused = own.delete(&path).await.expect(403);
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("all companies")), "{refused}");
    own.get(&format!("{path}/erasure")).await.expect(403);
    reader.delete(&path).await.expect(403);
    nobody.delete(&path).await.expect(401);
    let operator = operator(&app, &service).await;
    assert_eq!(operator.get(&format!("{path}/erasure")).await.expect(404)["detail"], "Erasure not found");
    operator.delete("/v1/companies/none").await.expect(404);
    // Another's is as one that does not exist, before its erasure and after.
    let other = format!("/v1/companies/{}", Uuid::new_v4());
    let before = own.and("x-request-id", "r").delete(&other).await.expect(404);
    operator.delete(&other).await.expect(202);
    assert_eq!(own.and("x-request-id", "r").delete(&other).await.expect(404), before);
    assert_eq!(before["detail"], "Company not found");
    app.wait_for_count("select count(*) from erasures", 1).await;
}

#[tokio::test]
async fn the_command_line_erases_and_waits() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let _prune = app.run(&["--role", "prune"]).await;
    let id = company.to_string();
    let (code, _, said) = app.try_cli(&["companies", "erasure", &id]).await;
    assert_eq!((code, said.contains("Erasure not found")), (4, true), "{said}");
    let done = app.cli(&["companies", "erase", &id, "--wait"]).await;
    assert_eq!((&done["status"], &done["webhooks"]), (&json!("done"), &json!(1)));
    assert_eq!(app.cli(&["companies", "erasure", &id]).await["company_id"], json!(company));
}
