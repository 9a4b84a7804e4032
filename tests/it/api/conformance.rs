//! The OpenAPI document against the service that serves it, by schemathesis: no answer that the document does not know,
//! no request that it calls wrong and the service takes, no failure of ours. `make fuzz-api` asks for many more.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::App,
    python::python,
    receiver::{Answer, Receiver},
};

/// Examples for each operation where nobody asks for more.
const EXAMPLES: &str = "8";
/// The seed where none is given; a failure prints it.
const SEED: &str = "20437";
/// Far beyond what the examples above take.
const PATIENCE: Duration = Duration::from_mins(10);
/// Where many are asked for.
const PATIENCE_WITH_MANY: Duration = Duration::from_hours(6);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn given(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Ids of a query.
async fn ids(app: &App, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Rows of every kind, for two companies: a call by one is answered with what is its own, and with nothing of the other.
async fn furnish(app: &App, receiver: &Receiver, companies: [Uuid; 2]) {
    for company in companies {
        for n in 0..6 {
            let events = if n == 0 { json!(["*"]) } else { json!(["asset.*"]) };
            app.webhook(company, &receiver.url("/ok"), json!({"name": format!("ok {n}"), "events": events}))
                .await;
        }
        let failing = json!({"name": "failing", "retry_count": 1, "events": ["*"]});
        app.webhook(company, &receiver.url("/failing"), failing).await;
        for n in 0..3 {
            app.publish(company, "ticket.created", json!({"n": n})).await;
        }
    }
    let settled = "select case when count(*) filter (where status = 'delivered') >= 6
                                    and count(*) filter (where status = 'dead') >= 6 then 1::int8 else 0::int8 end
                   from webhook_deliveries";
    app.wait_for_count(settled, 1).await;
    for company in companies {
        app.cli(&["replay", "--company", &company.to_string(), "--status", "delivered"]).await;
    }
}

/// What stands for the parameters of paths, by their names.
async fn known(app: &App, companies: [Uuid; 2]) -> BTreeMap<&'static str, Vec<String>> {
    BTreeMap::from([
        ("company_id", companies.map(|company| company.to_string()).to_vec()),
        ("webhook_id", ids(app, "select id::text from webhooks").await),
        ("event_id", ids(app, "select id::text from events").await),
        ("delivery_id", ids(app, "select id::text from webhook_deliveries").await),
        ("dead_letter_id", ids(app, "select id::text from dead_letters").await),
        ("replay_id", ids(app, "select id::text from replays").await),
        ("key_id", ids(app, "select id from api_keys where name <> 'of schemathesis'").await),
        // Of an event type.
        ("name", ids(app, "select name from event_types").await),
    ])
}

#[tokio::test]
async fn schemathesis_finds_no_answer_that_the_document_does_not_say() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let companies = [Uuid::new_v4(), Uuid::new_v4()];
    receiver.answer_at("/failing", [Answer::status(500)]);
    // Limits are documented, and would only keep the requests from what they are to find.
    app.set("API_RATE_LIMIT", 0).set("API_FAILURES_PER_MINUTE_MAX", 0);
    let service = app.run(&[]).await;
    furnish(&app, &receiver, companies).await;
    for company in companies {
        app.key(Some(company), &["webhooks:read"]).await;
    }
    let known = known(&app, companies).await;
    let document = Client::of(&service).await.get("/v1/openapi.json").await.expect(200);
    for path in document["paths"].as_object().expect("paths").keys() {
        for part in path.split('{').skip(1) {
            let (name, _) = part.split_once('}').expect("a parameter");
            let found = known.get(name).is_some_and(|ids| !ids.is_empty());
            assert!(found, "{path}: say above where ids for `{name}` come from, or none is ever found");
        }
    }
    let key = app.key(Some(companies[0]), &["admin"]).await;
    sqlx::query("update api_keys set name = 'of schemathesis' where scopes = '{admin}'")
        .execute(&app.pool)
        .await
        .expect("it can be named");

    let (examples, seed) = (given("XT_FUZZ_EXAMPLES", EXAMPLES), given("XT_FUZZ_SEED", SEED));
    let folder = std::env::temp_dir().join(format!("xt-schemathesis-{}", app.prefix));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let running = Command::new(python().await)
        .args(["-B", "-m", "schemathesis.cli"])
        .args(["--config-file", &format!("{ROOT}/tests/interop/schemathesis.toml"), "run"])
        .arg(format!("{}/v1/openapi.json", service.api().await))
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--mode", "all"])
        .args(["--max-examples", &examples, "--seed", &seed, "--no-color"])
        .env("XT_HOOKS", format!("{ROOT}/tests/interop/schemathesis_hooks.py"))
        .env("XT_IDS", json!(known).to_string())
        .env("XT_KEY", key)
        .env("NO_PROXY", "*")
        .current_dir(&folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let patience = if examples == EXAMPLES { PATIENCE } else { PATIENCE_WITH_MANY };
    let output = tokio::time::timeout(patience, running).await.expect("it ends").expect("it starts");
    let _ = std::fs::remove_dir_all(&folder);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}\n{out}\n{err}");
    println!("{out}");
}
