//! Event types: the registry, what its schemas do to events, and how many of each there were.

use serde_json::{Value, json};
use uuid::Uuid;
use xtwebhooks::{model::CompanyId, store::event_types};

use crate::support::{
    api::Client,
    app::{App, eventually},
    receiver::Receiver,
};

/// Publishes an event of a type until it has, or has not, a violation: what ingest remembers follows within moments.
async fn violation_of(app: &App, client: &Client, event_type: &str, data: &Value) -> Option<String> {
    let event = json!({"event_type": event_type, "data": data, "timestamp": chrono::Utc::now().timestamp(),
                       "event_id": Uuid::new_v4()});
    let accepted = client.post("/v1/events", event).await.expect(202);
    let id: Uuid = accepted["id"].as_str().expect("an id").parse().expect("a UUID");
    let row = eventually("the event is taken in", async || {
        let row =
            sqlx::query_scalar::<_, Option<String>>("select violation from events where id = $1").bind(id);
        row.fetch_optional(&app.pool).await.expect("read")
    });
    row.await
}

#[tokio::test]
async fn the_guides_types_are_there_and_what_was_published_is_counted_beside_them() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.webhook(company, "http://127.0.0.1:9/", json!({"events": ["ticket.created"]})).await;
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let event =
        |event_type: &str, n: usize| json!({"event_type": event_type, "event_id": n.to_string(), "data": {}});
    let mut events: Vec<Value> = (0..5).map(|n| event("ticket.created", n)).collect();
    events.extend((5..8).map(|n| event("x/y:z", n)));
    client.post("/v1/events", json!(events)).await.expect(202);
    // A repeat is no event, and counts as none.
    client.post("/v1/events", json!(events)).await.expect(202);
    client.post("/v1/events", event("last.one", 99)).await.expect(202);
    app.wait_for_count("select count(*) from events", 9).await;
    // What is older than a week is not counted.
    sqlx::query(
        "insert into event_stats values ($1, 'ticket.created', now() - interval '8 days', 1, 100, 0, 100)",
    )
    .bind(company)
    .execute(&app.pool)
    .await
    .expect("written");

    let types = client.get("/v1/event-types").await.expect(200);
    let of = |types: &Value, name: &str| {
        let mut those = types.as_array().expect("a list").iter();
        those.find(|row| row["name"] == name).cloned().unwrap_or_default()
    };
    let created = of(&types, "ticket.created");
    assert_eq!((&created["events_7d"], &created["unmatched_7d"]), (&json!(5), &json!(0)));
    assert_eq!(
        (&created["description"], &created["registered"]),
        (&json!("New ticket created"), &json!(true))
    );
    assert_eq!(created["sample"]["title"], "Printer on fire");
    let seen = of(&types, "x/y:z");
    assert_eq!(
        (&seen["events_7d"], &seen["unmatched_7d"], &seen["registered"]),
        (&json!(3), &json!(3), &json!(false))
    );
    let names: Vec<&str> =
        types.as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
    for name in [
        "ticket.updated",
        "ticket.closed",
        "asset.created",
        "asset.updated",
        "user.created",
        "company.created",
        "machine.registered",
        "machine.approved",
        "alert.triggered",
        "webhook.failing",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    // Page by page it is the same.
    let (mut paged, mut next) = (Vec::new(), Some("/v1/event-types?limit=4".to_owned()));
    while let Some(path) = next {
        let page = client.get(&path).await;
        let rows = page.expect(200);
        paged.extend(rows.as_array().expect("a list").iter().map(|row| row["name"].clone()));
        next = page.next();
    }
    assert_eq!(json!(paged), json!(names));
    assert_eq!(client.get("/v1/event-types/x%2Fy:z").await.expect(200), seen);
    assert_eq!(client.get("/v1/event-types/never.seen").await.expect(404)["detail"], "Event type not found");
    // Another company sees the registry, and nothing of what this one published.
    let other = app.client(&service, Uuid::new_v4()).await;
    let theirs = other.get("/v1/event-types").await.expect(200);
    assert_eq!(
        (&of(&theirs, "ticket.created")["events_7d"], &of(&theirs, "x/y:z")),
        (&json!(0), &Value::Null)
    );
    other.get("/v1/event-types/x%2Fy:z").await.expect(404);

    let known = event_types::known(&app.pool, CompanyId(company)).await.expect("read");
    assert!(
        ["ticket.created", "x/y:z", "last.one"].iter().all(|name| known.iter().any(|known| known == name))
    );
    let theirs = event_types::known(&app.pool, CompanyId(Uuid::new_v4())).await.expect("read");
    assert!(!theirs.iter().any(|name| name == "x/y:z") && theirs.iter().any(|name| name == "ticket.created"));

    // Counts go with the history they are of.
    sqlx::query("update event_stats set minute = minute - interval '40 days' where event_type = 'x/y:z'")
        .execute(&app.pool)
        .await
        .expect("aged");
    let _prune = app.run(&["--role", "prune"]).await;
    app.wait_for_count("select count(*) from event_stats where event_type = 'x/y:z'", 0).await;
    assert!(app.count("select count(*) from event_stats where event_type = 'ticket.created'").await > 0);
}

#[tokio::test]
async fn a_type_is_registered_changed_and_deleted_by_those_who_administer_all_companies() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let all = client.with(&app.key(None, &["admin"]).await);
    let path = "/v1/event-types/order.placed";
    client.put(path, json!({"description": "d"})).await.expect(403);
    client.delete(path).await.expect(403);
    let writer = client.with(&app.key(None, &["events:write", "events:read"]).await);
    writer.put(path, json!({"description": "d"})).await.expect(403);

    assert_eq!(all.put(path, json!({})).await.expect(422)["errors"][0]["field"], "description");
    let body = json!({"description": "An order was placed", "sample": {"id": 1},
                      "schemas": {"1": {"type": "object"}}, "on_violation": "dead_letter", "unknown": 1});
    let made = all.put(path, body).await.expect(200);
    assert_eq!(
        (&made["schemas"]["1"], &made["on_violation"]),
        (&json!({"type": "object"}), &json!("dead_letter"))
    );
    // What is left out stays, null resets.
    let changed = all.put(path, json!({"description": "Placed", "sample": null})).await.expect(200);
    assert_eq!((&changed["description"], &changed["sample"]), (&json!("Placed"), &Value::Null));
    assert_eq!(changed["schemas"], made["schemas"]);
    assert_eq!(client.get(path).await.expect(200)["events_7d"], json!(0));
    assert_eq!(all.get(path).await.expect(200)["events_7d"], Value::Null);
    for (bad, field) in [
        (json!({"schemas": {"1": {"$ref": "http://127.0.0.1:9/schema"}}}), "schemas.1"),
        (json!({"schemas": {"1": {"type": "text"}}}), "schemas.1"),
        (json!({"schemas": {"one": {}}}), "schemas"),
        (json!({"on_violation": "drop"}), "on_violation"),
        (json!({"description": "\u{0}"}), "description"),
        (json!({"description": "x".repeat(1_001)}), "description"),
    ] {
        assert_eq!(all.put(path, bad.clone()).await.expect(422)["errors"][0]["field"], field, "{bad}");
    }
    all.put("/v1/event-types/webhook.failing", json!({"description": "x"})).await.expect(422);
    all.delete("/v1/event-types/webhook.failing").await.expect(403);
    all.put("/v1/event-types/a%20b", json!({"description": "x"})).await.expect(404);
    all.get("/v1/event-types/a%00b").await.expect(404);
    assert_eq!(all.delete(path).await.expect(200)["message"], "Event type deleted successfully");
    all.delete(path).await.expect(404);
    all.get(path).await.expect(404);
    let actions: Vec<String> =
        sqlx::query_scalar("select action from audit_log where subject = 'order.placed' order by id")
            .fetch_all(&app.pool)
            .await
            .expect("read");
    assert_eq!(actions, ["event_type.create", "event_type.update", "event_type.delete"]);
}

#[tokio::test]
async fn an_event_that_violates_its_schema_is_flagged_and_sent_or_is_a_dead_letter_by_setting() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({"events": ["*"]})).await;
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    let all = client.with(&app.key(None, &["admin"]).await);
    let path = "/v1/event-types/ticket.created";
    assert_eq!(violation_of(&app, &client, "ticket.created", &json!({})).await, None);
    let old = json!({"type": "object", "required": ["title"]});
    let new = json!({"type": "object", "required": ["priority"], "properties": {"priority": {"enum": ["low", "high"]}}});
    all.put(path, json!({"schemas": {"1": old, "2": new}})).await.expect(200);
    let bad = json!({"priority": "s3cret"});
    let flagged = eventually("ingest knows the schema", async || {
        violation_of(&app, &client, "ticket.created", &bad).await
    });
    let flagged = flagged.await;
    assert!(flagged.contains("`data/priority`") && flagged.contains("version 2"), "{flagged}");
    assert!(flagged.contains("low") && !flagged.contains("s3cret"), "{flagged}");
    assert_eq!(violation_of(&app, &client, "ticket.created", &json!({"title": "t"})).await, None);
    assert_eq!(violation_of(&app, &client, "ticket.created", &json!({"priority": "low"})).await, None);
    assert_eq!(violation_of(&app, &client, "ticket.closed", &bad).await, None);
    let listed = client.get("/v1/events?event_type=ticket.created").await.expect(200);
    let shown = listed.as_array().expect("a list").iter().find(|row| !row["violation"].is_null());
    assert_eq!(shown.expect("the flag is shown")["violation"], json!(flagged));
    // A flag is all it is: it was sent.
    let sent = app.count("select count(*) from events").await;
    receiver.wait_for(usize::try_from(sent).expect("few")).await;

    all.put(path, json!({"on_violation": "dead_letter"})).await.expect(200);
    let dead = "select count(*) from dead_letters where kind = 'message'";
    eventually("ingest knows what becomes of it", async || {
        let event = json!({"event_type": "ticket.created", "data": bad});
        let id = client.post("/v1/events", event).await.expect(202)["event_id"].clone();
        let id = id.as_str().expect("an id");
        let ended = eventually("it is an event, or a dead letter", async || {
            let sql = "select (select count(*) from events where message_id = $1),
                              (select count(*) from dead_letters where message_id = $1)";
            let found: (i64, i64) = sqlx::query_as(sql).bind(id).fetch_one(&app.pool).await.expect("read");
            (found != (0, 0)).then_some(found)
        });
        (ended.await.1 > 0).then_some(())
    })
    .await;
    let (reason, field): (String, String) =
        sqlx::query_as("select reason, field from dead_letters where kind = 'message' limit 1")
            .fetch_one(&app.pool)
            .await
            .expect("a dead letter");
    assert_eq!(field, "data/priority");
    assert!(
        reason.contains("version 2") && reason.contains("is not one of") && !reason.contains("s3cret"),
        "{reason}"
    );
    // What was taken in before stays so when it comes again.
    let (before, letters) = (app.count("select count(*) from events").await, app.count(dead).await);
    let known =
        listed.as_array().expect("a list").iter().find(|row| !row["violation"].is_null()).expect("one");
    let again = json!({"event_type": "ticket.created", "data": bad, "event_id": known["event_id"], "timestamp": known["timestamp"]});
    client.post("/v1/events", again).await.expect(202);
    assert_eq!(violation_of(&app, &client, "last.one", &json!(1)).await, None);
    assert_eq!(app.count("select count(*) from events").await, before + 1);
    assert_eq!(app.count(dead).await, letters);

    // Taken off the registry, nothing judges any more.
    all.delete(path).await.expect(200);
    eventually("ingest has forgotten it", async || {
        let id = Uuid::new_v4();
        let event = json!({"event_type": "ticket.created", "data": bad, "event_id": id});
        client.post("/v1/events", event).await.expect(202);
        violation_of(&app, &client, "last.one", &json!(1)).await;
        let found = sqlx::query_scalar::<_, i64>(
            "select count(*) from events where message_id = $1 and violation is null",
        );
        let found = found.bind(id.to_string()).fetch_one(&app.pool).await.expect("read");
        (found == 1).then_some(())
    })
    .await;
}
