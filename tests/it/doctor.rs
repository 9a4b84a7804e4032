//! `xtwebhooks doctor`: what it finds, what it says to do, how it ends; and that it changes nothing.

use serde_json::Value;

use crate::support::app::{App, eventually};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const UNREACHABLE: i32 = 3;

/// Exit code and findings.
async fn examine(app: &App, more: &[&str]) -> (i32, Vec<Value>) {
    let (code, out, err) = app.try_cli(&[&["doctor"], more].concat()).await;
    let findings = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
    (code, findings)
}

/// The findings of one check: its levels, and all that is said of it.
fn of(findings: &[Value], check: &str) -> (Vec<String>, String) {
    let found: Vec<&Value> = findings.iter().filter(|finding| finding["check"] == check).collect();
    let levels = found.iter().filter_map(|finding| finding["level"].as_str()).map(str::to_owned).collect();
    (levels, found.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn a_service_that_runs_is_found_healthy() {
    let app = App::new().await;
    app.set("WATERMARK_EVERY", "1s");
    let service = app.run(&[]).await;
    eventually("a mark is through", async || {
        (app.count("select count(*) from tide_marks").await > 0
            && app.count("select count(*) from leases").await == 2)
            .then_some(())
    })
    .await;
    let (code, findings) = examine(&app, &[]).await;
    assert_eq!(code, DONE, "{findings:#?}");
    for check in [
        "settings",
        "database",
        "migrations",
        "partitions",
        "clock",
        "schedule",
        "prune",
        "watermarks",
        "broker",
        "topology",
        "queues",
    ] {
        let (levels, told) = of(&findings, check);
        assert!(!levels.is_empty() && levels.iter().all(|level| level == "ok"), "{check}: {told}");
    }
    let (levels, told) = of(&findings, "consumer_timeout");
    assert!(levels == ["unknown"] && told.contains("rabbitmqctl eval"), "{told}");
    assert!(findings.iter().all(|f| f["level"] != "fault" && f["found"].is_string()), "{findings:#?}");
    assert_eq!(service.stop().await, Some(0));

    // Nobody runs any more: warnings, each with what to do, and no fault.
    let (code, findings) = examine(&app, &[]).await;
    assert_eq!(code, DONE);
    assert_eq!(of(&findings, "schedule").0, ["warning"]);
    let (levels, told) = of(&findings, "queues");
    assert!(levels.contains(&"warning".to_owned()) && told.contains("role deliver is running"), "{told}");
}

#[tokio::test]
async fn what_is_wrong_is_a_fault_with_the_way_out() {
    let app = App::new().await;
    assert_eq!(app.run(&["--role", "dead-letter"]).await.stop().await, Some(0));
    let fault = async |more: &[&str], check: &str, sentence: &str| {
        let (code, findings) = examine(&app, more).await;
        let (levels, told) = of(&findings, check);
        assert_eq!(code, FAILED, "{check}: {findings:#?}");
        assert!(levels.contains(&"fault".to_owned()) && told.contains(sentence), "{check}: {told}");
    };
    fault(&["--delivery-limit", "7"], "topology", "x-delivery-limit = 100, but 7 is needed").await;
    fault(&["--rescue-grace", "1s"], "settings", "RESCUE_GRACE").await;
    fault(&["--replicas", "deliver=1000"], "connections", "raise max_connections").await;
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "drop table webhook_deliveries_{}",
        chrono::Utc::now().format("%Y%m%d")
    )))
    .execute(&app.pool)
    .await
    .expect("dropped");
    fault(&[], "partitions", "role prune").await;
    sqlx::query("delete from _sqlx_migrations where version = 5").execute(&app.pool).await.expect("deleted");
    fault(&[], "migrations", "xtwebhooks migrate").await;
}

#[tokio::test]
async fn of_two_servers_the_one_that_answers_is_looked_at_and_nothing_is_made() {
    let app = App::new().await;
    let (code, findings) = examine(&app, &[]).await;
    assert_eq!(code, DONE, "what a first start makes is no fault: {findings:#?}");
    let (levels, told) = of(&findings, "topology");
    assert!(levels == ["warning"] && told.contains(&format!("{}.events", app.prefix)), "{told}");
    let (_, findings) = examine(&app, &[]).await;
    assert_eq!(of(&findings, "topology").1, told, "looking has made nothing");

    let nowhere = ["--database-url", "postgres://nobody:geheim@127.0.0.1:1/none"];
    let (code, findings) = examine(&app, &nowhere).await;
    assert_eq!((code, of(&findings, "database").0), (UNREACHABLE, vec!["fault".to_owned()]));
    assert_eq!(of(&findings, "broker").0, ["ok"]);
    assert!(!format!("{findings:?}").contains("geheim"));
    let (code, findings) = examine(&app, &["--amqp-url", "amqp://127.0.0.1:1"]).await;
    assert_eq!((code, of(&findings, "broker").0), (UNREACHABLE, vec!["fault".to_owned()]));
    assert_eq!(of(&findings, "migrations").0, ["ok"]);
}
