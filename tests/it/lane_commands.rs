//! `xtwebhooks lanes`: how each webhook's receiver does, as the ledger has it.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    app::App,
    receiver::{Answer, Receiver},
};

const NOT_FOUND: i32 = 4;

/// Sets columns of a webhook's lane, as the recorder would.
async fn set(app: &App, webhook: Uuid, columns: &str) {
    let sql = format!("update lanes set {columns} where webhook_id = $1");
    let done = sqlx::query(AssertSqlSafe(sql)).bind(webhook).execute(&app.pool).await.expect("set");
    assert_eq!(done.rows_affected(), 1, "a webhook has its lane from the beginning");
}

/// Names and states, by name.
fn states(lanes: &Value) -> Vec<(&str, &str)> {
    let lanes = lanes.as_array().expect("a list").iter();
    let mut states: Vec<_> = lanes.map(|lane| (lane["name"].as_str(), lane["state"].as_str())).collect();
    states.sort_unstable();
    states.into_iter().map(|(name, state)| name.zip(state).expect("texts")).collect()
}

#[tokio::test]
async fn lanes_are_listed_with_what_is_wrong_with_them() {
    let (app, company, other) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let make = async |name: &str, company: Uuid| {
        app.webhook(company, "https://example.com/", json!({"name": name})).await
    };
    make("healthy", company).await;
    let open = make("open", company).await;
    let rate_limited = make("rate-limited", company).await;
    let failing = make("failing", company).await;
    let paused = make("paused", company).await;
    let others = make("others", other).await;
    let open_now =
        "opened_at = now() - interval '90 s', open_reason = 'five in a row', failures = 5, probes = 2,
                    next_probe_at = now() + interval '30 s', failing_since = now() - interval '95 s'";
    set(&app, open, open_now).await;
    set(&app, others, open_now).await;
    set(&app, rate_limited, "held_back_until = now() + interval '1 min'").await;
    set(&app, failing, "failures = 1, failing_since = now(), last_success_at = now() - interval '1 h'").await;
    sqlx::query("update webhooks set paused_at = now(), pause_reason = 'moving' where id = $1")
        .bind(paused)
        .execute(&app.pool)
        .await
        .expect("paused");

    let of = company.to_string();
    let all = app.cli(&["lanes", "list", "--company", &of]).await;
    let bad =
        [("failing", "failing"), ("open", "open"), ("paused", "paused"), ("rate-limited", "rate_limited")];
    let mut expected = bad.to_vec();
    expected.insert(1, ("healthy", "healthy"));
    assert_eq!(states(&all), expected);
    assert_eq!(states(&app.cli(&["lanes", "list", "--company", &of, "--failing"]).await), bad);
    let everybodys = app.cli(&["lanes", "list", "--failing"]).await;
    assert_eq!(everybodys.as_array().map(Vec::len), Some(bad.len() + 1), "of all companies: {everybodys}");
    let all_of_all = app.cli(&["lanes", "list"]).await;
    assert_eq!(
        all_of_all.as_array().map(Vec::len),
        Some(expected.len() + 1),
        "the key holds for all: {all_of_all}"
    );

    let id = open.to_string();
    let lane = app.cli(&["lanes", "show", "--webhook", &id]).await;
    assert_eq!((&lane["state"], &lane["open_reason"]), (&json!("open"), &json!("five in a row")));
    assert_eq!(
        (&lane["probes_failed"], &lane["failures"], &lane["is_probing"]),
        (&json!(2), &json!(5), &json!(false))
    );
    let (code, ..) = app.try_cli(&["lanes", "show", "--webhook", &id, "--company", &other.to_string()]).await;
    assert_eq!(code, NOT_FOUND, "another company's");

    // Pages: one behind the other, each lane once.
    let (mut paged, mut after) = (0, None::<String>);
    loop {
        let mut args = vec!["lanes", "list", "--company", &of, "--limit", "2"];
        args.extend(after.iter().flat_map(|id| ["--after", id]));
        let page = app.cli(&args).await;
        let Some(last) = page.as_array().and_then(|page| page.last()) else { break };
        paged += page.as_array().map_or(0, Vec::len);
        after = last["webhook_id"].as_str().map(str::to_owned);
    }
    assert_eq!(paged, expected.len());
}

#[tokio::test]
async fn a_lane_says_what_waits_for_it_and_what_has_a_job() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_at("/", [Answer::silence()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 1})).await;
    let service = app.run(&["--role", "ingest,dead-letter"]).await;
    for n in 0..5 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    app.wait_for_count("select count(*) from webhook_deliveries where queued_at is not null", 5).await;
    assert_eq!(service.stop().await, Some(0));
    // As a worker that parks two of them and claims one.
    for (n, columns) in [
        "queued_at = null, due_at = now() - interval '5 min'",
        "queued_at = null, due_at = now() + interval '5 min'",
        "claimed_until = now() + interval '1 min'",
    ]
    .into_iter()
    .enumerate()
    {
        let sql = format!(
            "update webhook_deliveries set {columns}
             where id = (select id from webhook_deliveries order by id offset {n} limit 1)"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&app.pool).await.expect("set");
    }
    let lane = app.cli(&["lanes", "show", "--webhook", &webhook.to_string()]).await;
    assert_eq!((&lane["waiting"], &lane["waiting_is_more"]), (&json!(2), &json!(false)), "{lane}");
    assert_eq!((&lane["queued"], &lane["claimed"]), (&json!(3), &json!(1)), "{lane}");
    let due: chrono::DateTime<chrono::Utc> =
        serde_json::from_value(lane["oldest_due_at"].clone()).expect("a time");
    let age = (chrono::Utc::now() - due).num_seconds();
    assert!((295..400).contains(&age), "{age}");
}

#[tokio::test]
async fn the_history_of_a_lane_is_told_newest_first() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = app.webhook(company, "https://example.com/", json!({})).await;
    let (id, of) = (webhook.to_string(), company.to_string());
    assert_eq!(app.cli(&["lanes", "history", "--webhook", &id]).await, json!([]));
    for (kind, seconds) in [("opened", 60), ("closed", 30)] {
        sqlx::query(
            "insert into lane_transitions (webhook_id, at, kind, company_id, reason, opened_at)
             values ($1, now() - make_interval(secs => $2), $3, $4, 'why', now() - interval '60 s')",
        )
        .bind(webhook)
        .bind(f64::from(seconds))
        .bind(kind)
        .bind(company)
        .execute(&app.pool)
        .await
        .expect("written");
    }
    app.cli(&["webhooks", "pause", "--company", &of, &id, "--reason", "moving"]).await;
    let history = app.cli(&["lanes", "history", "--webhook", &id]).await;
    let kinds: Vec<&str> =
        history.as_array().expect("a list").iter().filter_map(|t| t["kind"].as_str()).collect();
    assert_eq!(kinds, ["paused", "closed", "opened"]);
    assert_eq!(history[0]["reason"], json!("moving"));
    let (code, ..) = app.try_cli(&["lanes", "history", "--webhook", &Uuid::new_v4().to_string()]).await;
    assert_eq!(code, NOT_FOUND);
}
