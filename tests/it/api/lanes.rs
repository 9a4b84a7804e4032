//! Lanes over the API; what they say is tested with the command that shows them.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{api::Client, app::App};

#[tokio::test]
async fn lanes_are_listed_by_pages_and_only_those_of_the_company() {
    let (app, ours, theirs) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let mut webhooks = Vec::new();
    for _ in 0..5 {
        webhooks.push(app.webhook(ours, "https://example.com/", json!({})).await);
    }
    let foreign = app.webhook(theirs, "https://example.com/", json!({})).await;
    sqlx::query("update lanes set failures = 1, failing_since = now() where webhook_id = any($1)")
        .bind(vec![webhooks[0], foreign])
        .execute(&app.pool)
        .await
        .unwrap();
    let admin = app.client(&service, ours).await;
    let ids = |page: &Value| -> Vec<Uuid> {
        let page = page.as_array().expect("a list").iter();
        page.map(|lane| serde_json::from_value(lane["webhook_id"].clone()).expect("an id")).collect()
    };
    let (mut seen, mut next) = (Vec::new(), Some("/v1/lanes?limit=2".to_owned()));
    while let Some(path) = next {
        let page = admin.get(&path).await;
        next = page.next();
        seen.extend(ids(&page.expect(200)));
    }
    let mut expected = webhooks.clone();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert_eq!(ids(&admin.get("/v1/lanes?failing=true").await.expect(200)), [webhooks[0]]);
    assert_eq!(ids(&admin.get(&format!("/v1/lanes?after={}", expected[3])).await.expect(200)), [expected[4]]);
    let lane = admin.get(&format!("/v1/webhooks/{}/lane", webhooks[0])).await.expect(200);
    assert_eq!((&lane["state"], &lane["failures"]), (&json!("failing"), &json!(1)));
    admin.get(&format!("/v1/webhooks/{foreign}/lane")).await.expect(404);

    // Whoever looks after all companies sees who needs somebody's eye.
    let everybody = Client::of(&service).await.with(&app.key(None, &["webhooks:read"]).await);
    let mut failing = ids(&everybody.get("/v1/lanes?failing=true").await.expect(200));
    failing.sort_unstable();
    let mut both = vec![webhooks[0], foreign];
    both.sort_unstable();
    assert_eq!(failing, both);
    let of_one = everybody.and("x-company-id", theirs);
    assert_eq!(ids(&of_one.get("/v1/lanes").await.expect(200)), [foreign]);
    assert_eq!(admin.get("/v1/lanes?after=x").await.expect(422)["errors"][0]["field"], "after");
}
