//! The command line against a real ledger and a real broker: what it writes, what it shows, how it ends.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use uuid::Uuid;

use crate::support::{app::App, receiver::Receiver};

const DONE: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const NOT_FOUND: i32 = 4;
const REFUSED: i32 = 5;

async fn create(app: &App, company: Uuid, name: &str, more: &[&str]) -> (i32, Value, String) {
    let company = company.to_string();
    let usual =
        ["webhooks", "create", "--company", &company, "--name", name, "--url", "https://example.com/hook"];
    let (code, out, err) = app.try_cli(&[&usual, more].concat()).await;
    (code, serde_json::from_str(&out).unwrap_or_default(), err)
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("`{field}` is a text in {value}"))
}

#[tokio::test]
async fn a_webhook_lives_from_its_creation_to_its_deletion() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let (code, made, err) = create(&app, company, "bot", &["--events", "ticket.*,user.created"]).await;
    assert_eq!(code, DONE, "{err}");
    assert!(text(&made, "secret").starts_with("whsec_"));
    assert_eq!(made["events"], json!(["ticket.*", "user.created"]));
    assert_eq!(
        (&made["active"], &made["retry_count"], &made["timeout_seconds"]),
        (&json!(true), &json!(3), &json!(30))
    );

    let (id, of) = (text(&made, "id").to_owned(), company.to_string());
    let list = app.cli(&["webhooks", "list", "--company", &of]).await;
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert!(list[0].get("secret").is_none(), "a secret is shown on creation and rotation only");

    let on = |command: &'static str| ["webhooks", command, "--company", &of, &id].map(str::to_owned).to_vec();
    let run = async |command: &'static str, more: &[&str]| {
        let args = on(command);
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        app.cli(&args).await
    };
    let changed = run("update", &["--name", "robot", "--retry-schedule", "5s,1m", "--active", "false"]).await;
    assert_eq!((text(&changed, "name"), &changed["retry_schedule"]), ("robot", &json!([5, 60])));
    assert_eq!(
        (&changed["active"], &changed["events"]),
        (&json!(false), &made["events"]),
        "what is not named stays"
    );

    let rotated = run("rotate-secret", &["--grace", "1h"]).await;
    assert_ne!(text(&rotated, "secret"), text(&made, "secret"));
    assert!(rotated["previous_secret_until"].is_string());

    let first = run("pause", &["--reason", "moving"]).await;
    let again = run("pause", &["--reason", "again"]).await;
    assert_eq!(text(&again, "pause_reason"), "moving", "the first reason stands");
    assert!(text(&again, "paused_by").starts_with("key xtwh_"), "{again}");
    assert_eq!(first["paused_at"], again["paused_at"]);

    let resumed = run("resume", &["--held", "discard"]).await;
    assert!(resumed["paused_at"].is_null());
    assert_eq!(
        app.count("select count(*) from replays where kind = 'resume' and filter->>'held' = 'discard'").await,
        1
    );

    assert_eq!(run("delete", &[]).await, json!({"message": "Webhook deleted successfully"}));
    assert_eq!(app.cli(&["webhooks", "list", "--company", &of]).await, json!([]));
    assert_eq!(
        app.count("select count(*) from webhook_versions where deleted and valid_to = 'infinity'").await,
        1
    );
    let (code, ..) = create(&app, company, "robot", &["--events", "*"]).await;
    assert_eq!(code, DONE, "the name of a deleted webhook is free");
}

#[tokio::test]
async fn a_command_tells_by_its_exit_code_what_went_wrong() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let (_, made, _) = create(&app, company, "taken", &["--events", "*"]).await;
    let id = text(&made, "id").to_owned();
    let check = async |args: &[&str], code: i32, sentence: &str| {
        let (found, _, err) = app.try_cli(args).await;
        assert_eq!(found, code, "{args:?}: {err}");
        assert!(err.contains(sentence), "{args:?}: {err}");
    };
    let (ours, theirs) = (company.to_string(), Uuid::new_v4().to_string());
    let making = ["webhooks", "create", "--company", &ours, "--name", "taken"];
    let url = ["--url", "https://example.com/"];
    let all = ["--events", "*"];
    check(&[&making[..], &url, &all].concat(), REFUSED, "`name` is taken").await;
    check(&[&making[..], &["--url", "http://10.0.0.1/"], &all].concat(), REFUSED, "ALLOWED_NETWORKS").await;
    check(&[&making[..], &["--url", "ftp://example.com/"], &all].concat(), REFUSED, "`url`").await;
    check(&[&making[..], &url, &["--events", "tick*t"]].concat(), REFUSED, "`events`").await;
    check(&[&making[..], &url, &all, &["--timeout-seconds", "61"]].concat(), REFUSED, "`timeout_seconds`")
        .await;
    check(&[&making[..], &url].concat(), USAGE, "--events").await;
    check(&["webhooks", "show", "--company", &theirs, &id], NOT_FOUND, "Webhook not found").await;
    check(
        &["webhooks", "update", "--company", &theirs, &id, "--name", "mine"],
        NOT_FOUND,
        "Webhook not found",
    )
    .await;
    check(&["webhooks", "delete", "--company", &theirs, &id], NOT_FOUND, "Webhook not found").await;
    check(&["deliveries", "list", "--company", &theirs, "--webhook", &id], NOT_FOUND, "Webhook not found")
        .await;
    check(&["deliveries", "show", "--company", &ours, &id], NOT_FOUND, "Delivery not found").await;
    check(&["replay", "--company", &ours, &id], NOT_FOUND, &id).await;
    check(&["replay", "--company", &ours], USAGE, "--webhook").await;
    let nowhere = "postgres://nobody:geheim@127.0.0.1:1/none";
    check(&["migrate", "--database-url", nowhere], UNREACHABLE, "DATABASE_URL").await;
    let no_api = ["webhooks", "list", "--company", &ours, "--api-url", "http://127.0.0.1:1"];
    check(&no_api, UNREACHABLE, "XTWEBHOOKS_URL").await;
    let publish = ["publish", "--type", "a.b", "--company", &ours, "--data", "1"];
    // The API has declared ours; where nobody has, that is told.
    let (code, _, err) = App::new().await.try_cli(&publish).await;
    assert!(code == FAILED && err.contains("does not exist"), "{err}");
    check(&[&publish[..], &["--amqp-url", "amqp://127.0.0.1:1"]].concat(), UNREACHABLE, "RabbitMQ").await;
    let (_, out, err) = app.try_cli(&["migrate", "--database-url", nowhere]).await;
    assert!(!out.contains("geheim") && !err.contains("geheim"), "{err}");
}

#[tokio::test]
async fn tables_that_are_not_there_are_named_with_the_command_that_makes_them() {
    let app = App::new().await;
    sqlx::query("delete from _sqlx_migrations where version = 5").execute(&app.pool).await.unwrap();
    let (code, _, err) = app.try_cli(&["run", "--role", "prune"]).await;
    assert_eq!(code, FAILED);
    assert!(err.contains("lacks 1 of ") && err.contains("xtwebhooks migrate"), "{err}");
}

#[tokio::test]
async fn the_history_shows_every_attempt_and_a_dead_letter_is_sent_again() {
    use crate::support::receiver::Answer;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    receiver.answer_by(|_, nth| if nth < 2 { Answer::status(500) } else { Answer::status(200) });
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_count": 2})).await.to_string();
    let of = company.to_string();
    app.publish(company, "ticket.created", json!({"a": 1})).await;
    app.wait_for_count("select count(*) from dead_letters where status = 'open'", 1).await;

    let dead = app.cli(&["dead-letters", "list", "--company", &of, "--webhook", &webhook]).await;
    assert_eq!((text(&dead[0], "kind"), &dead[0]["attempts"]), ("delivery", &json!(2)));
    let id = text(&dead[0], "id").to_owned();
    let shown = app.cli(&["dead-letters", "show", "--company", &of, &id]).await;
    assert!(text(&shown, "body").starts_with(r#"{"event_type":"ticket.created","data":{"a":1},"#), "{shown}");
    let (code, ..) =
        app.try_cli(&["dead-letters", "show", "--company", &Uuid::new_v4().to_string(), &id]).await;
    assert_eq!(code, NOT_FOUND, "of another company");

    let delivery = app.cli(&["deliveries", "show", "--company", &of, &id]).await;
    assert_eq!((text(&delivery, "status"), text(&delivery, "next_move")), ("dead", "receiver"));
    let attempts = delivery["history"].as_array().unwrap();
    let seen: Vec<_> =
        attempts.iter().map(|a| (a["number"].as_i64(), a["response_status"].as_i64())).collect();
    assert_eq!(seen, [(Some(1), Some(500)), (Some(2), Some(500))]);
    assert!(
        attempts.iter().all(|a| text(a, "why").contains("500") && a["total_us"].is_i64()),
        "{attempts:?}"
    );
    assert_eq!(delivery["payload"]["data"], json!({"a": 1}));

    let replay = app.cli(&["replay", "--company", &of, &id, "--wait", "--rate", "100"]).await;
    assert_eq!((text(&replay, "status"), &replay["made"]), ("done", &json!(1)));
    let list = app.cli(&["deliveries", "list", "--company", &of, "--webhook", &webhook]).await;
    let states: Vec<_> =
        list.as_array().unwrap().iter().map(|d| (text(d, "trigger"), text(d, "status"))).collect();
    assert_eq!(states, [("replay", "delivered"), ("event", "dead")], "newest first");
    let of_webhook = ["deliveries", "list", "--company", &of, "--webhook", &webhook];
    let (_, first, hint) = app.try_cli(&[&of_webhook[..], &["--limit", "1"]].concat()).await;
    assert!(first.contains(text(&list[0], "id")), "{first}");
    let cursor = hint.split("--cursor ").nth(1).expect("it says how to go on").trim();
    assert_eq!(app.cli(&[&of_webhook[..], &["--cursor", cursor]].concat()).await[0]["id"], json!(id));
    assert_eq!(app.cli(&[&of_webhook[..], &["--status", "held"]].concat()).await, json!([]));
    let all = ["deliveries", "list", "--company", &of, "--status", "dead,held", "--event-type", "ticket.*"];
    assert_eq!(app.cli(&all).await[0]["id"], json!(id));
    let again = app.cli(&["dead-letters", "replay", "--company", &of, &id]).await;
    assert_eq!(again["filter"], json!({"deliveries": [id]}));
    let (code, _, err) = app.try_cli(&["dead-letters", "discard", "--company", &of, &id]).await;
    assert_eq!(code, REFUSED, "{err}");
    service.stop().await;
}

#[tokio::test]
async fn events_are_published_from_lines_and_each_fate_is_told() {
    let app = App::new().await;
    let service = app.run(&["--role", "prune"]).await;
    let company = Uuid::new_v4();
    let line = |data: &str| format!(r#"{{"event_type":"a.b","company_id":"{company}","data":{data}}}"#);
    let input = format!("{}\n\nnonsense\n{}", line("1"), line("2"));
    let (code, out, err) = publish_lines(&app, &input, &[]).await;
    assert_eq!(code, REFUSED);
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.lines().all(|line| line.contains(r#""fate":"confirmed""#)), "{out}");
    assert!(err.contains("line 3: `body`") && err.contains("2 confirmed, 1 not published"), "{err}");
    assert_eq!(app.depth("events").await, 2);

    let (code, ..) = publish_lines(&app, "nonsense\n", &["--unchecked"]).await;
    assert_eq!((code, app.depth("events").await), (DONE, 3));
    service.stop().await;

    let channel = app.channel().await;
    let queue = format!("{}.events", app.prefix);
    channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
    let (code, out, err) = publish_lines(&app, &line("3"), &[]).await;
    assert_eq!(code, FAILED);
    assert!(out.contains(r#""fate":"returned""#) && err.contains("no queue is bound"), "{out} {err}");
}

async fn publish_lines(app: &App, input: &str, more: &[&str]) -> (i32, String, String) {
    let mut command = app.command(&[&["publish", "--json"], more].concat());
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = streams.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_receiver_to_try_things_with_verifies_and_answers_as_told() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let secret = "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiB0aGUgdGVzdHM=";
    let args = [
        "receive",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--secret",
        secret,
        "--answer",
        "503,204",
        "--count",
        "2",
    ];
    let mut child =
        app.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines();
    let listening = told.next_line().await.expect("it can be read").expect("it says where it listens");
    let url = listening.strip_prefix("listening on ").expect("a URL").to_owned();
    app.webhook(company, &format!("{url}/hook"), json!({"secret": secret})).await;
    let data = json!({"text": "\u{0} ünïcode"});
    app.publish(company, "ticket.created", data.clone()).await;

    let output = child.wait_with_output().await.expect("it ends after two requests");
    assert!(output.status.success());
    let lines: Vec<Value> =
        output.stdout.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let seen: Vec<_> = lines
        .iter()
        .map(|l| (l["attempt"].as_i64(), l["status"].as_i64(), l["verified"].as_bool()))
        .collect();
    assert_eq!(seen, [(Some(1), Some(503), Some(true)), (Some(2), Some(204), Some(true))]);
    assert_eq!(lines[0]["webhook_id"], lines[1]["webhook_id"]);
    assert_eq!(
        (text(&lines[0], "event"), text(&lines[0], "trigger"), text(&lines[0], "path")),
        ("ticket.created", "event", "/hook")
    );
    let body: Value = serde_json::from_str(text(&lines[0], "body")).unwrap();
    assert_eq!(body["data"], data);
    service.stop().await;
}
