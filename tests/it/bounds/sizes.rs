//! How large anything may be, on its way in and on its way back.

use serde_json::json;
use uuid::Uuid;

use super::all_delivered;
use crate::support::{
    app::App,
    receiver::{Answer, Receiver},
};

#[tokio::test]
async fn a_message_that_is_too_large_is_a_dead_letter_and_the_largest_is_delivered() {
    const BYTES_MAX: usize = 4096;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("EVENT_BYTES_MAX", BYTES_MAX);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    for bytes in [BYTES_MAX, BYTES_MAX + 1] {
        let event =
            |padding: &str| json!({"event_type": "a.b", "company_id": company, "data": padding}).to_string();
        let padding = "x".repeat(bytes - event("").len());
        assert!(app.publish_raw("a.b", event(&padding).as_bytes(), Default::default()).await);
    }
    all_delivered(&app, 1).await;
    app.wait_for_count("select count(*) from dead_letters where octet_length(body) = 4097", 1).await;
    let reason: String =
        sqlx::query_scalar("select reason from dead_letters").fetch_one(&app.pool).await.expect("a row");
    assert!(reason.contains("4096"), "{reason}");
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn of_an_answer_no_more_is_kept_than_its_bound() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let company = Uuid::new_v4();
    let check = [
        ("/failure", 500, 16 * 1024, 16 * 1024, false),
        ("/failure-beyond", 500, 16 * 1024 + 1, 16 * 1024, true),
        ("/success", 200, 1024, 1024, false),
        ("/success-beyond", 200, 1025, 1024, true),
    ];
    for (path, status, bytes, ..) in check {
        receiver.answer_at(path, [Answer::status(status).body("y".repeat(bytes))]);
        app.webhook(company, &receiver.url(path), json!({"retry_count": 1})).await;
    }
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where attempts = 1", 4).await;
    for (path, _, _, kept, truncated) in check {
        let found: (i32, bool) = sqlx::query_as(
            "select octet_length(response_body), response_truncated from webhook_deliveries where url = $1",
        )
        .bind(receiver.url(path))
        .fetch_one(&app.pool)
        .await
        .expect("a row");
        assert_eq!(found, (kept, truncated), "{path}");
    }
    assert_eq!(service.stop().await, Some(0));
}
