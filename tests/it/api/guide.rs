//! XTSystems' integration guide, as its readers follow it: the curl lines as they stand, and a client with its models.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{app::App, python::python, receiver::Receiver};

const CURL_LINES: &str = include_str!("../../interop/guide.sh");

#[tokio::test]
async fn a_client_with_the_guides_models_registers_changes_tests_and_deletes() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let key = app.key(Some(company), &["admin"]).await;
    let client = Command::new(python().await)
        .args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/guide_client.py")])
        .args([service.api().await, key, receiver.url("/webhooks/xtsystems")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("Python starts");
    let said = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{said}");
    let test = &receiver.wait_for(1).await[0];
    assert_eq!(test.json()["event_type"], "webhook.test");
}

/// A command of the guide with what it cannot know put in: where the service and the bot are, and the webhook's id.
async fn as_it_stands(line: &str, puts: &[(&str, &str)], key: &str) -> Value {
    let line = puts.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
    let output = Command::new("sh")
        .args(["-c", &line])
        .env("XTSYSTEMS_API_KEY", key)
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("a shell starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line}\n{error}: {out}"))
}

#[tokio::test]
async fn the_guides_curl_lines_work_as_they_stand() {
    let there = Command::new("curl").arg("--version").output().await;
    assert!(
        there.is_ok(),
        "this test follows the guide with curl, which is not installed (apt-get install curl)"
    );
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let key = app.key(Some(company), &["webhooks:read", "webhooks:write"]).await;
    let (base, bot) = (service.api().await, receiver.url(""));
    let lines: Vec<&str> = CURL_LINES.split("\n\n").collect();
    let [register, test] = lines.as_slice() else { panic!("two commands: {lines:?}") };
    let puts = [
        ("http://localhost:20437", base.as_str()),
        ("http://your-discord-bot-url:3000", bot.trim_end_matches('/')),
    ];

    let made = as_it_stands(register, &puts, &key).await;
    assert_eq!(made["name"], "Discord Bot Integration");
    assert_eq!(made["company_id"], company.to_string());
    let id = made["id"].as_str().expect("an id");
    let tested = as_it_stands(test, &[puts[0], ("{webhook_id}", id)], &key).await;
    assert_eq!(tested["success"], true, "{tested}");
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(request.path(), "/webhooks/xtsystems");
    assert_eq!(request.json()["event_type"], "webhook.test");
}
