//! The way of an event, end to end.

use serde_json::json;
use uuid::Uuid;

use crate::support::{app::App, receiver::Receiver};

#[tokio::test]
async fn an_event_arrives_signed_at_the_webhook_that_wants_it() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let service = app.run(&[]).await;
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/wants"), json!({"events": ["ticket.*"]})).await;
    app.webhook(company, &receiver.url("/does-not"), json!({"events": ["alert.triggered"]})).await;
    app.publish(company, "ticket.created", json!({"id": 7})).await;
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].path(), "/wants");
    assert_eq!(requests[0].header("x-xtsystems-event"), Some("ticket.created"));
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered' and attempts = 1",
        1,
    )
    .await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 1);
}
