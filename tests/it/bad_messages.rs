//! Whatever is published: nothing stops the queue, and nothing is lost. Each message has one expected end.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use uuid::Uuid;

use self::rows::{COMPANY, Expected, INTAKE, NOW, Row};
use crate::support::{app::App, receiver::Receiver};

mod rows;

/// A row with its placeholders filled.
struct Filled {
    company: Uuid,
    row: Row,
}

impl Filled {
    fn new(row: Row, now: i64) -> Self {
        let (company, now) = (Uuid::new_v4(), now.to_string());
        let fill = |text: String| text.replace(COMPANY, &company.to_string()).replace(NOW, &now);
        let body = match String::from_utf8(row.body) {
            Ok(text) => fill(text).into_bytes(),
            Err(bytes) => {
                let latin: String = bytes.into_bytes().into_iter().map(char::from).collect();
                fill(latin)
                    .chars()
                    .map(|c| u8::try_from(u32::from(c)).expect("it came from a byte"))
                    .collect()
            }
        };
        let headers = row.headers.into_iter().map(|(name, value)| (name, fill(value))).collect();
        let expected = match row.expected {
            Expected::Delivered(body) => Expected::Delivered(fill(body)),
            dead @ Expected::Dead(..) => dead,
        };
        Self { company, row: Row { body, headers, expected, ..row } }
    }

    /// AMQP's properties, with the row's name as a header to know its dead letter by.
    fn properties(&self) -> BasicProperties {
        let mut table = FieldTable::default();
        table.insert("row".into(), AMQPValue::LongString(self.row.name.into()));
        for (name, value) in &self.row.headers {
            table.insert((*name).into(), AMQPValue::LongString(value.as_str().into()));
        }
        self.row.properties.clone().with_headers(table).with_delivery_mode(2)
    }
}

#[tokio::test]
async fn every_message_ends_as_expected_and_none_stops_the_queue() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let before = chrono::Utc::now().timestamp();
    let rows: Vec<Filled> = [rows::bodies(), rows::fields(), rows::times(), rows::cloud_events()]
        .into_iter()
        .flatten()
        .map(|row| Filled::new(row, before))
        .collect();
    for Filled { company, .. } in &rows {
        app.webhook(*company, &receiver.url(&format!("/{company}")), json!({"events": ["*"]})).await;
    }
    let marked = Uuid::new_v4();
    app.webhook(marked, &receiver.url("/marker"), json!({"events": ["*"]})).await;
    let service = app.run(&[]).await;

    // Without waiting in between, so that good ones and bad ones share batches.
    let (channel, mut confirms) = (app.channel().await, Vec::new());
    for filled in &rows {
        let (exchange, key) = (app.exchange.as_str().into(), filled.row.routing_key.into());
        let sent = channel.basic_publish(
            exchange,
            key,
            lapin::options::BasicPublishOptions { mandatory: true, ..Default::default() },
            &filled.row.body,
            filled.properties(),
        );
        confirms.push(sent.await.expect("published"));
    }
    for confirm in confirms {
        assert!(matches!(confirm.await.expect("answered"), lapin::Confirmation::Ack(None)));
    }
    app.publish(marked, "ticket.created", json!({})).await;

    let good = rows.iter().filter(|filled| matches!(filled.row.expected, Expected::Delivered(_))).count();
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", good as i64 + 1)
        .await;
    app.wait_for_count("select count(*) from dead_letters", (rows.len() - good) as i64).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(
        app.depth("events").await + app.depth("dead-letters").await,
        0,
        "what is left was not settled"
    );
    let requests = receiver.requests();
    assert_eq!(requests.len(), good + 1);
    for filled in &rows {
        let path = format!("/{}", filled.company);
        let bodies: Vec<_> = requests
            .iter()
            .filter(|request| request.path() == path)
            .map(|request| String::from_utf8(request.body.to_vec()).expect("UTF-8"))
            .collect();
        let name = filled.row.name;
        match &filled.row.expected {
            Expected::Dead(field, reason, is_known) => {
                assert!(bodies.is_empty(), "{name}: {bodies:?}");
                let kept = check_dead_letter(&app, filled, field, reason).await;
                assert_eq!(kept, is_known.then_some(filled.company), "{name}");
            }
            Expected::Delivered(expected) => {
                let [body] = &bodies[..] else { panic!("{name}: requested {} times", bodies.len()) };
                let intake = (before..=chrono::Utc::now().timestamp())
                    .any(|second| *body == expected.replace(INTAKE, &second.to_string()));
                assert!(intake, "{name}: {expected:.200} was expected, not {body:.200}");
            }
        }
    }
    let ids: Vec<String> = sqlx::query_scalar("select message_id from events where message_id like 'the %'")
        .fetch_all(&app.pool)
        .await
        .expect("read");
    assert_eq!(ids, ["the body's"], "the body wins");
}

/// The row's one dead letter says what is wrong, and keeps what came; gives the company it stands under.
async fn check_dead_letter(app: &App, filled: &Filled, field: &str, reason: &str) -> Option<Uuid> {
    type Kept = (String, String, Option<String>, Option<Vec<u8>>, Option<String>, Option<Uuid>);
    let row = &filled.row;
    let kept: Vec<Kept> = sqlx::query_as(
        "select kind || ' ' || status, reason, field, body, routing_key, company_id
         from dead_letters
         where headers->>'row' = $1",
    )
    .bind(row.name)
    .fetch_all(&app.pool)
    .await
    .expect("read");
    let [(state, told, about, body, key, company)] = &kept[..] else {
        panic!("{}: {} dead letters", row.name, kept.len());
    };
    assert_eq!(state, "message open", "{}", row.name);
    assert_eq!((about.as_deref(), told), (Some(field), &format!("`{field}` {reason}")), "{}", row.name);
    assert_eq!(body.as_deref(), Some(&row.body[..]), "{}: the bytes as they came", row.name);
    // The one character that no text of PostgreSQL can hold.
    assert_eq!(key.as_deref(), Some(&*row.routing_key.replace('\0', "\u{fffd}")), "{}", row.name);
    *company
}
