//! `make demo`: what a newcomer sees first must be true every time.

use std::{process::Stdio, time::Duration};

use sqlx::{Connection, PgConnection};
use tokio::process::Command;

use crate::support::{
    app::{amqp_url, database_url},
    python::python,
};

/// The promise is two minutes; the rest is for a machine that runs all tests at once.
const PATIENCE: Duration = Duration::from_mins(4);

async fn demo(database_url: &str) -> (i32, String, String) {
    let demo = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/demo"))
        .env("XT_BIN", env!("CARGO_BIN_EXE_xtwebhooks"))
        .env("XT_PYTHON", python().await)
        .env("DATABASE_URL", database_url)
        .env("AMQP_URL", amqp_url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, demo).await.expect("it ends").expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_demo_shows_arrival_retries_dead_letter_replay_and_history_and_leaves_nothing() {
    let (code, told, said) = demo(&database_url()).await;
    assert_eq!(code, 0, "{told}\n{said}");
    let mut rest = told.as_str();
    for line in [
        "confirmed by the broker: event",
        "discord-bot received ticket.created: attempt 1, verified, answered 200",
        "customer received ticket.created: attempt 1, verified, answered 500",
        "customer received ticket.created: attempt 2, verified, answered 500",
        "customer received ticket.created: attempt 3, verified, answered 500",
        "$ xtwebhooks dead-letters list",
        "attempts exhausted",
        "$ xtwebhooks replay",
        "done",
        "customer received ticket.created: attempt 1, verified, answered 200",
        "$ xtwebhooks deliveries list",
        "the receiver accepted it with 200",
        "$ xtwebhooks deliveries show",
        "attempt 3",
    ] {
        let at =
            rest.find(line).unwrap_or_else(|| panic!("`{line}` is not told, or not in its turn:\n{told}"));
        rest = &rest[at + line.len()..];
    }

    let name =
        told.split("database xt_").nth(1).and_then(|rest| rest.split(',').next()).expect("it is named");
    let mut admin = PgConnection::connect(&database_url()).await.expect("the database answers");
    let left: i64 = sqlx::query_scalar("select count(*) from pg_database where datname = $1")
        .bind(format!("xt_{name}"))
        .fetch_one(&mut admin)
        .await
        .expect("it can be asked");
    assert_eq!(left, 0, "the demo's database is left");
    assert!(!exists(&format!("{name}.events")).await, "a queue of the demo is left");
}

#[tokio::test]
async fn a_demo_that_cannot_be_given_says_so_and_fails() {
    let (code, _, said) = demo("postgres://postgres@127.0.0.1:1/postgres").await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("demo: cannot create a database on the server in DATABASE_URL"), "{said}");
}

async fn exists(queue: &str) -> bool {
    let connection = lapin::Connection::connect(&amqp_url(), lapin::ConnectionProperties::default())
        .await
        .expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel");
    let passive = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.into(), passive, Default::default()).await.is_ok()
}
