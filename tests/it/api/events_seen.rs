//! Events as their company sees them: lists, pages, and why something was not sent.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, Row};
use uuid::Uuid;

use crate::support::{app::App, receiver::Receiver};

fn ids(rows: &Value) -> Vec<String> {
    let rows = rows.as_array().expect("a list").iter();
    rows.filter_map(|row| Some(row["event_id"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn a_list_is_narrowed_by_type_time_id_and_by_what_nobody_wanted() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.webhook(company, "http://127.0.0.1:9/", json!({"events": ["ticket.*"]})).await;
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let now = chrono::Utc::now().timestamp();
    let event = |id: &str, event_type: &str, ago: i64| json!({"event_type": event_type, "event_id": id, "timestamp": now - ago, "data": id});
    let events = json!([
        event("a", "ticket.created", 50),
        event("b", "ticket.closed", 40),
        event("c", "tickets.x", 30),
        event("d", "asset.created", 20),
        event("e", "ticket.created", 10),
    ]);
    let accepted = client.post("/v1/events", events).await.expect(202);
    app.wait_for_count("select count(*) from events", 5).await;
    let at = |ago: i64| {
        let time = chrono::DateTime::from_timestamp(now - ago, 0).expect("a time");
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let check = async |query: &str, expected: &[&str]| {
        let rows = client.get(&format!("/v1/events?{query}")).await.expect(200);
        assert_eq!(ids(&rows), expected, "{query}");
    };
    check("", &["e", "d", "c", "b", "a"]).await;
    check("event_type=*", &["e", "d", "c", "b", "a"]).await;
    check("event_type=ticket.created", &["e", "a"]).await;
    check("event_type=ticket.*", &["e", "b", "a"]).await;
    check("unmatched=true", &["d", "c"]).await;
    check("unmatched=true&event_type=asset.*", &["d"]).await;
    check("unmatched=false", &["e", "b", "a"]).await;
    check(&format!("since={}&until={}", at(40), at(20)), &["c", "b"]).await;
    check("event_id=b", &["b"]).await;
    check("event_id=b&event_type=ticket.created", &[]).await;
    let (a, d) = (accepted[0]["id"].as_str().expect("an id"), accepted[3]["id"].as_str().expect("an id"));
    check(&format!("id={a},{d}"), &["d", "a"]).await;
    check(&format!("id={d}&unmatched=true"), &["d"]).await;
    check(&format!("id={a}&event_id=b"), &[]).await;

    // Page by page, while newer ones arrive.
    let first = client.get("/v1/events?limit=2&count=capped").await;
    assert_eq!((ids(&first.expect(200)), first.header("x-total-count")), (vec!["e".into(), "d".into()], "5"));
    client.post("/v1/events", event("f", "ticket.created", 0)).await.expect(202);
    app.wait_for_count("select count(*) from events", 6).await;
    let second = client.get(&first.next().expect("a next page")).await;
    assert_eq!(ids(&second.expect(200)), ["c", "b"]);
    let third = client.get(&second.next().expect("a next page")).await;
    assert_eq!((ids(&third.expect(200)), third.next()), (vec!["a".to_owned()], None));

    // `data` is for those who may see it.
    let reader = client.with(&app.key(Some(company), &["events:read"]).await);
    let shown = reader.get("/v1/events?event_id=a").await.expect(200);
    assert_eq!(shown[0].get("data"), Some(&Value::Null));
    assert_eq!(client.get("/v1/events?event_id=a").await.expect(200)[0]["data"], json!("a"));
    // Whatever is asked for, it is an answer.
    for bad in [
        "event_type=a%20b",
        "id=x",
        "limit=0",
        "limit=501",
        "limit=99999999999999999999",
        "since=now",
        "event_id=%00",
        "cursor=x",
        "unmatched=maybe",
        "event_type=%00",
    ] {
        client.get(&format!("/v1/events?{bad}")).await.expect(422);
    }
    client.get("/v1/events?since=-200000-01-01T00:00:00Z").await.expect(200);
    client.get("/v1/events?until=%2B200000-01-01T00:00:00Z").await.expect(200);
}

#[tokio::test]
async fn an_event_shows_its_deliveries_and_why_it_has_no_others() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let wants = app.webhook(company, &receiver.url("/"), json!({"events": ["ticket.created"]})).await;
    let other = app.webhook(company, &receiver.url("/"), json!({"events": ["asset.*"]})).await;
    let off = app.webhook(company, &receiver.url("/"), json!({"events": ["*"], "active": false})).await;
    let foreign = app.webhook(Uuid::new_v4(), &receiver.url("/"), json!({"events": ["*"]})).await;
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    let now = chrono::Utc::now().timestamp();
    let publish = async |event_type: &str| {
        let event = json!({"event_type": event_type, "timestamp": now, "data": {}});
        let accepted = client.post("/v1/events", event).await.expect(202);
        format!("/v1/events/{}", accepted["id"].as_str().expect("an id"))
    };
    let created = publish("ticket.created").await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    let shown = client.get(&created).await.expect(200);
    assert_eq!((&shown["matched"], &shown["not_sent"]), (&json!(1), &json!([])));
    assert_eq!(shown["deliveries"].as_array().map(Vec::len), Some(1));
    let delivery = &shown["deliveries"][0];
    assert_eq!(
        (&delivery["webhook_id"], &delivery["status"], &delivery["why"]),
        (&json!(wants), &json!("delivered"), &json!("delivered"))
    );

    let closed = publish("ticket.closed").await;
    app.wait_for_count("select count(*) from events", 2).await;
    // Made later: it has nothing to do with what was before.
    let late = app.webhook(company, &receiver.url("/"), json!({"events": ["*"]})).await;
    let why = |shown: &Value, webhook: Uuid| {
        let those = shown["not_sent"].as_array().expect("a list").clone();
        those.into_iter().find(|row| row["webhook_id"] == json!(webhook)).unwrap_or_default()["why"].clone()
    };
    let shown = client.get(&closed).await.expect(200);
    assert_eq!(shown["deliveries"], json!([]));
    let not_subscribed = json!("not sent: the webhook does not subscribe to the type `ticket.closed`");
    assert_eq!(why(&shown, wants), not_subscribed);
    assert_eq!(why(&shown, other), not_subscribed);
    assert_eq!(why(&shown, off), json!("not sent: the webhook is inactive"));
    assert_eq!(why(&shown, late), json!("not sent: the webhook was created after the event was ingested"));
    assert_eq!(why(&shown, foreign), Value::Null);

    // It is told by what the webhook was, not by what it is.
    sqlx::query("update webhooks set events = '{*}', active = true where company_id = $1")
        .bind(company)
        .execute(&app.pool)
        .await
        .expect("changed");
    let named = client.get(&format!("{closed}?webhook_id={wants}")).await.expect(200);
    assert_eq!((named["not_sent"].as_array().map(Vec::len), why(&named, wants)), (Some(1), not_subscribed));
    let named = client.get(&format!("{created}?webhook_id={other}")).await.expect(200);
    assert_eq!(named["deliveries"], json!([]));
    assert_eq!(
        why(&named, other),
        json!("not sent: the webhook does not subscribe to the type `ticket.created`")
    );
    for nobody in [foreign, Uuid::new_v4()] {
        let answer = client.get(&format!("{created}?webhook_id={nobody}")).await;
        assert_eq!(answer.expect(404)["detail"], "Webhook not found");
    }
    assert_eq!(client.get("/v1/events/none").await.expect(404)["detail"], "Event not found");

    // Sent again, it has two deliveries.
    let id = delivery["id"].as_str().expect("an id");
    sqlx::query(
        "insert into replays (id, company_id, kind, filter, rate, requested_by)
         values (gen_random_uuid(), $1, 'replay', json_build_object('deliveries', json_build_array($2)), 100, 'a test')",
    )
    .bind(company)
    .bind(id)
    .execute(&app.pool)
    .await
    .expect("asked for");
    receiver.wait_for(2).await;
    let shown = client.get(&created).await.expect(200);
    let triggers: Vec<_> =
        shown["deliveries"].as_array().expect("a list").iter().map(|d| d["trigger"].clone()).collect();
    assert_eq!(triggers, [json!("replay"), json!("event")]);
}

/// The partitions and indexes that the plan of a statement looked into.
async fn plan(app: &App, name: &str, arguments: &str) -> (Vec<String>, Vec<String>) {
    let (query, types) = crate::plans::statement(name);
    let mut connection = app.pool.acquire().await.expect("a connection");
    connection.execute("set plan_cache_mode = force_generic_plan").await.expect("set");
    connection.execute(AssertSqlSafe(format!("prepare q ({types}) as {query}"))).await.expect("prepared");
    let sql = format!("explain (analyze, timing off, format json) execute q ({arguments})");
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(&mut *connection).await.expect("a plan");
    connection.execute("deallocate q").await.expect("undone");
    let plan: Value = row.try_get(0).expect("JSON");
    fn read(node: &Value, into: &mut (Vec<String>, Vec<String>)) {
        if node["Actual Loops"].as_f64() == Some(0.0) {
            return;
        }
        if let Some(relation) = node["Relation Name"].as_str() {
            into.0.push(relation.to_owned());
            into.1.push(node["Index Name"].as_str().unwrap_or("none").to_owned());
        }
        node["Plans"].as_array().into_iter().flatten().for_each(|inner| read(inner, into));
    }
    let mut found = (Vec::new(), Vec::new());
    read(&plan[0]["Plan"], &mut found);
    found
}

#[tokio::test]
async fn a_page_of_events_goes_along_one_index_and_into_no_day_that_it_does_not_need() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.pool
        .execute("select ensure_partitions((now() at time zone 'UTC')::date - 19, 35)")
        .await
        .expect("days");
    let fill = format!(
        "insert into events (id, company_id, event_type, message_id, \"timestamp\", data, body_hash, matched, matched_as_of, fanned_out)
         select (left(first_id_of((now() at time zone 'UTC')::date - day)::text, 24) || lpad(n::text, 12, '0'))::uuid,
                case when n % 2 = 0 then '{company}' else gen_random_uuid() end, 'a.b', day || '-' || n, 0, '{{}}', 0,
                case when n % 500 = 0 then 0 else 1 end, now(), true
         from generate_series(0, 19) day, generate_series(1, 5000) n"
    );
    app.pool.execute(AssertSqlSafe(fill)).await.expect("filled");
    app.pool.execute("vacuum analyze events").await.expect("analyzed");
    let day = |ago: i64| {
        let day = chrono::Utc::now().date_naive() - chrono::Days::new(ago as u64);
        (format!("events_{}", day.format("%Y%m%d")), xtwebhooks::model::id::first_of_day(day))
    };
    let (_, least) = day(20);
    let arguments = |from: Uuid, before: Uuid, more: &str| {
        format!("'{company}', '{from}', '{before}', null, null, null, 51, true{more}")
    };
    // A page ends in the day in which it is full.
    let (looked_into, by) = plan(&app, "events.list", &arguments(least, Uuid::max(), "")).await;
    assert!(looked_into.iter().all(|partition| *partition >= day(0).0), "{looked_into:?}");
    assert!(by.iter().all(|index| index.contains("company_id_id_idx")), "{by:?}");
    // So does the hundredth.
    let (looked_into, _) = plan(&app, "events.list", &arguments(least, day(9).1, "")).await;
    assert_eq!(looked_into, [day(10).0]);
    // What nobody wanted is not looked for among what somebody did.
    let (looked_into, by) = plan(&app, "events.unmatched", &arguments(day(3).1, day(1).1, "")).await;
    assert_eq!(looked_into, [day(2).0, day(3).0]);
    assert!(by.iter().all(|index| index.contains("company_id_id_idx1")), "{by:?}");
    let (looked_into, by) =
        plan(&app, "events.by_message", &arguments(least, Uuid::max(), ", '3-8', null")).await;
    let mut both = looked_into.iter().zip(&by);
    // Days to come are empty.
    assert!(both.all(|(day_of, index)| *day_of > day(0).0 || index.contains("message_id_idx")), "{by:?}");
    let wanted = Uuid::from_u128(day(7).1.as_u128() + 0x10);
    let more = format!(", '{{{wanted}}}', '{wanted}'");
    let (looked_into, by) = plan(&app, "events.by_ids", &arguments(wanted, Uuid::max(), &more)).await;
    assert_eq!((looked_into, by.len()), (vec![day(7).0], 1));
}

#[tokio::test]
async fn a_rare_type_is_looked_for_page_by_page_and_found() {
    const MANY: i64 = 45_000;
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    // One that is wanted in fifteen thousand, and another company's of the same type between them.
    let sql = format!(
        r#"insert into events (id, company_id, event_type, message_id, "timestamp", data, body_hash, matched, matched_as_of,
                               fanned_out)
           select overlay(replace(gen_random_uuid()::text, '-', '') placing
                          lpad(to_hex(floor(extract(epoch from now()) * 1000)::bigint - n), 12, '0') from 1 for 12)::uuid,
                  case when n % 15000 = 1 then gen_random_uuid() else '{company}' end,
                  case when n % 15000 in (0, 1) then 'rare.thing' else 'common.thing' end,
                  n, 0, 'null', 0, (n % 15000 <> 0)::integer, now(), true
           from generate_series(1, {MANY}) as n"#
    );
    app.pool.execute(AssertSqlSafe(sql)).await.expect("written");
    for query in ["event_type=rare.thing", "event_type=rare.*", "event_type=rare.*&unmatched=true"] {
        let (mut found, mut pages, mut next) =
            (Vec::new(), 0, Some(format!("/v1/events?limit=2&count=capped&{query}")));
        while let Some(page) = next {
            let answer = client.get(&page).await;
            found.extend(ids(&answer.expect(200)));
            assert_eq!(answer.header("x-total-count"), "3");
            (pages, next) = (pages + 1, answer.next());
        }
        assert_eq!(found, ["15000", "30000", "45000"], "{query}");
        // Those that nobody wanted have an index of their own.
        assert!(
            if query.contains("unmatched") { pages == 2 } else { (2..=5).contains(&pages) },
            "{query}: {pages}"
        );
    }
    let none = client.get("/v1/events?event_type=nothing.such").await;
    assert!(ids(&none.expect(200)).is_empty() && none.next().is_some(), "given up, and goes on");
}
