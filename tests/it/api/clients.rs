//! Clients that send too much, or too slowly.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::app::App;

#[tokio::test]
async fn a_body_of_ten_megabytes_is_refused_and_the_next_request_is_answered() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let body = json!({"name": "x".repeat(10 * 1024 * 1024)}).to_string().into_bytes();
    let answer = admin.raw("POST", "/v1/webhooks", "application/json", body).await;
    assert_eq!(answer.expect(413)["type"], "/v1/problems/too-large");
    assert_eq!(admin.get("/v1/webhooks").await.expect(200), json!([]));
}

/// Sends the rest of a request byte by byte until the other side ends it; gives what it answered.
async fn drip(mut stream: TcpStream, begins: &str) -> String {
    stream.write_all(begins.as_bytes()).await.expect("it takes the beginning");
    let (mut reading, mut writing) = stream.split();
    let mut answer = Vec::new();
    let dripping = async {
        while writing.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let ended = async { reading.read_to_end(&mut answer).await };
    tokio::select! {
        _ = ended => {}
        () = dripping => {}
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_drips_its_request_is_cut_off_and_others_are_answered() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_REQUEST_TIMEOUT", "2s").set("API_RATE_LIMIT", 0);
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let token = admin.token.clone().expect("a key");
    let address = admin.base.trim_start_matches("http://").to_owned();
    let connect = async || TcpStream::connect(&address).await.expect("a connection");
    let body = format!(
        "POST /v1/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: 1000000\r\n\r\n{{"
    );
    let slow_heads =
        (0..20).map(|_| async { drip(connect().await, "GET /v1/webhooks HTTP/1.1\r\nx-slow: ").await });
    let slow_bodies = (0..20).map(|_| async { drip(connect().await, &body).await });
    let began = Instant::now();
    let others = async {
        // As long as the slow ones hold their connections, everybody else is answered at once.
        while began.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            admin.get("/v1/webhooks").await.expect(200);
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        }
    };
    let all = async {
        tokio::join!(
            futures_util::future::join_all(slow_heads),
            futures_util::future::join_all(slow_bodies),
            others
        )
    };
    let (heads, bodies, ()) = timeout(Duration::from_secs(25), all).await.expect("all are cut off");
    for answer in bodies {
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("/v1/problems/timeout"), "{answer}");
    }
    assert!(heads.iter().all(|answer| !answer.contains("200 OK")));
}

#[tokio::test]
async fn a_connection_too_many_waits_until_another_is_closed() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_CONNECTIONS_MAX", 1);
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let address = admin.base.trim_start_matches("http://");
    // It asks for nothing, and is cut off once the time for its head is over.
    let mut idle = TcpStream::connect(address).await.expect("a connection");
    let ended = Mutex::new(Vec::new());
    let cut_off = async {
        let mut byte = [0];
        let _ = idle.read(&mut byte).await;
        ended.lock().expect("not poisoned").push("cut off");
    };
    let answered = async {
        admin.get("/v1/webhooks").await.expect(200);
        ended.lock().expect("not poisoned").push("answered");
    };
    tokio::join!(cut_off, answered);
    assert_eq!(ended.into_inner().expect("not poisoned"), ["cut off", "answered"]);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_CONNECTIONS_MAX", 1);
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let address = admin.base.trim_start_matches("http://");
    let mut deaf = TcpStream::connect(address).await.expect("a connection");
    // More than any buffer between holds.
    let asked = "GET /v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    deaf.write_all(asked.as_bytes()).await.expect("it is taken");
    // The one connection that there may be is free again, though nothing was read.
    let answered = timeout(Duration::from_secs(90), admin.get("/v1/webhooks")).await;
    answered.expect("it is cut off").expect(200);
}

#[tokio::test]
async fn what_is_too_large_for_a_webhook_may_still_be_events() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let event = json!({"event_type": "ticket.created", "data": {"text": "x".repeat(100_000)}});
    let events = json!(vec![event; 10]);
    admin.post("/v1/events", events.clone()).await.expect(202);
    admin.post("/v1/webhooks", json!({"name": "n", "metadata": events})).await.expect(413);
    app.set("API_BODY_BYTES_MAX", 500_000);
    let narrow = app.run(&["--role", "api"]).await;
    app.client(&narrow, company).await.post("/v1/events", events).await.expect(413);
}
