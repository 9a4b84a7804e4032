//! The commands for events and their types, over the API.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::App;

#[tokio::test]
async fn the_commands_list_and_show_events_and_say_what_types_there_are() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({"events": ["a.b"]})).await.to_string();
    let _ingest = app.run(&["--role", "ingest"]).await;
    let first = app.publish(company, "a.b", json!({"n": 1})).await;
    let second = app.publish(company, "x/y", json!({"n": 2})).await;
    app.wait_for_count("select count(*) from events", 2).await;
    let of = company.to_string();

    let listed = app.cli(&["events", "list", "--company", &of, "--since", "1h"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    let unmatched = app.cli(&["events", "list", "--company", &of, "--unmatched"]).await;
    assert_eq!((unmatched.as_array().map(Vec::len), &unmatched[0]["event_id"]), (Some(1), &json!(second)));
    let found = app.cli(&["events", "list", "--company", &of, "--event-id", &first]).await;
    let id = found[0]["id"].as_str().expect("an id");
    let shown = app.cli(&["events", "show", id, "--company", &of]).await;
    assert_eq!((&shown["data"], &shown["deliveries"][0]["webhook_id"]), (&json!({"n": 1}), &json!(webhook)));
    let id = unmatched[0]["id"].as_str().expect("an id");
    let shown = app.cli(&["events", "show", id, "--company", &of, "--webhook", &webhook]).await;
    assert_eq!(shown["not_sent"][0]["why"], "not sent: the webhook does not subscribe to the type `x/y`");
    let (code, _, err) = app.try_cli(&["events", "show", id, "--company", &Uuid::new_v4().to_string()]).await;
    assert_eq!((code, err.trim()), (4, "xtwebhooks: Event not found"));

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("1.json");
    std::fs::write(&file, r#"{"type": "object"}"#).expect("written");
    let schema = format!("1={}", file.display());
    let set = ["event-types", "set", "x/y", "--description", "X", "--sample", "[1]", "--schema", &schema];
    let made = app.cli(&[&set[..], &["--on-violation", "dead_letter"]].concat()).await;
    assert_eq!((&made["schemas"]["1"], &made["sample"]), (&json!({"type": "object"}), &json!([1])));
    let shown = app.cli(&["event-types", "show", "x/y", "--company", &of]).await;
    assert_eq!((&shown["events_7d"], &shown["on_violation"]), (&json!(1), &json!("dead_letter")));
    let listed = app.cli(&["event-types", "list", "--company", &of]).await;
    let names: Vec<&Value> = listed.as_array().expect("a list").iter().map(|row| &row["name"]).collect();
    assert!(names.contains(&&json!("x/y")) && names.contains(&&json!("a.b")), "{names:?}");
    let (code, _, err) = app.try_cli(&["event-types", "set", "n.w"]).await;
    assert!(code == 5 && err.contains("description"), "{code}: {err}");
    app.cli(&["event-types", "delete", "x/y"]).await;
    let (code, _, _) = app.try_cli(&["event-types", "delete", "x/y"]).await;
    assert_eq!(code, 4);
}
