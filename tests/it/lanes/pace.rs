//! The pace of a lane holds over all workers, whatever dies.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::AMQPValue,
};
use serde_json::json;
use sqlx::types::chrono::{DateTime, Utc};
use tokio::task::JoinHandle;
use uuid::Uuid;
use xtwebhooks::{
    model::{WebhookId, lane::slot_interval},
    store::lanes::{Reserved, SlotRequest, reserve_slots},
};

use crate::support::{
    app::{App, eventually_within},
    load,
    receiver::{Answer, Receiver},
};

/// A backlog of so many deliveries, and its pace.
const BACKLOG: u64 = 1_000;
const RATE: f64 = 50.0;
/// How often its deliveries may go through the broker: once as they are made, once more as their turn comes.
const PASSES_MEAN_MAX: f64 = 2.1;
const PASSES_MAX: usize = 4;

async fn set_rate(app: &App, webhook: Uuid, rate: Option<f64>) {
    let done = sqlx::query("update webhooks set rate_limit = $2 where id = $1").bind(webhook).bind(rate);
    done.execute(&app.pool).await.expect("the rate can be set");
}

/// No window of w seconds, w ≥ 1, holds more than `rate × w + 1` of these instants. A window is worst where it begins
/// and ends with one.
fn assert_pace(mut starts: Vec<DateTime<Utc>>, rate: f64, of: &str) {
    starts.sort_unstable();
    for (i, from) in starts.iter().enumerate() {
        for (j, to) in starts.iter().enumerate().skip(i) {
            let w = (*to - *from).num_microseconds().expect("short") as f64 / 1e6;
            let count = (j - i + 1) as f64;
            assert!(count <= rate * w.max(1.0) + 1.0, "{of}: {count} starts within {w} s, from {from}");
        }
    }
}

/// Every start that the ledger knows.
async fn starts(app: &App) -> Vec<DateTime<Utc>> {
    let sql = "select attempted_at from webhook_deliveries where attempted_at is not null
               union all select attempted_at from webhook_delivery_attempts";
    sqlx::query_scalar(sql).fetch_all(&app.pool).await.expect("the ledger answers")
}

/// Copies of every job on its way to a deliveries queue, counted by delivery.
struct Passes {
    counts: Arc<Mutex<HashMap<String, usize>>>,
    counting: JoinHandle<()>,
}

impl Passes {
    /// Counts from now on. The exchange must be there.
    async fn count(app: &App) -> Self {
        let channel = app.another_channel().await;
        let queue = format!("{}.copies", app.prefix);
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare(queue.as_str().into(), options, Default::default()).await.expect("a queue");
        let exchange = format!("{}.deliveries", app.prefix);
        for bucket in 0..64 {
            let key = format!("b{bucket:02}");
            let binding = (queue.as_str().into(), exchange.as_str().into(), key.as_str().into());
            channel
                .queue_bind(binding.0, binding.1, binding.2, Default::default(), Default::default())
                .await
                .expect("bound");
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut copies = channel
            .basic_consume(queue.as_str().into(), "copies".into(), options, Default::default())
            .await
            .expect("a consumer");
        let counts = Arc::new(Mutex::new(HashMap::new()));
        let counted = Arc::clone(&counts);
        let counting = tokio::spawn(async move {
            // The channel lives as long as its copies are counted.
            let _channel = channel;
            while let Some(Ok(copy)) = copies.next().await {
                let headers = copy.properties.headers().as_ref();
                let pairs = headers.and_then(|headers| headers.inner().get("deliveries"));
                let Some(AMQPValue::LongString(pairs)) = pairs else { continue };
                for pair in pairs.to_string().split(' ') {
                    let delivery = pair.split('/').next().unwrap_or_default().to_owned();
                    *counted.lock().expect("not poisoned").entry(delivery).or_default() += 1;
                }
            }
        });
        Self { counts, counting }
    }

    /// Passes of a delivery on the average, and the most that one had.
    fn stop(self) -> (f64, usize) {
        self.counting.abort();
        let counts = self.counts.lock().expect("not poisoned");
        let sum: usize = counts.values().sum();
        (sum as f64 / counts.len() as f64, counts.values().copied().max().unwrap_or_default())
    }
}

/// Has a backlog drain with so many workers, one of which may be killed in the middle.
async fn drain(workers: usize, kill: bool) {
    let _alone = load::alone().await;
    let (app, company) = (App::new().await, Uuid::new_v4());
    let receiver = Receiver::start().await;
    app.set("TIMEOUT_MAX", "3s")
        .set("FRESH_MAX", "3s")
        .set("LEASE_MARGIN", "3s")
        .set("RESCUE_GRACE", "10s")
        .set("WATERMARK_EVERY", "1s");
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    set_rate(&app, webhook, Some(RATE)).await;
    let others = app.run(&["--role", "ingest,schedule,dead-letter"]).await;
    let passes = Passes::count(&app).await;
    load::publish(&app, company, BACKLOG).await;
    app.wait_for_count("select count(*) from webhook_deliveries", BACKLOG as i64).await;
    let began = Instant::now();
    let mut services = Vec::new();
    for _ in 0..workers {
        services.push(app.run(&["--role", "deliver"]).await);
    }
    if kill {
        receiver.wait_within(BACKLOG as usize / 3, Duration::from_secs(60)).await;
        services.remove(0).kill().await;
    }
    eventually_within(Duration::from_secs(120), "the backlog has drained", async || {
        let open = "select count(*) from webhook_deliveries where status <> 'delivered'";
        (app.count(open).await == 0).then_some(())
    })
    .await;
    let took = began.elapsed();
    let starts = starts(&app).await;
    assert!(starts.len() >= BACKLOG as usize);
    assert_pace(starts, RATE, &format!("{workers} workers"));
    let (passes, most) = passes.stop();
    let mut missed = 0.0;
    for service in &services {
        missed += service.metric(r#"xtwebhooks_deliver_slots_total{fate="missed"}"#).await;
    }
    println!(
        "{workers} workers, killed: {kill}: {took:?}, {passes} passes, {most} at most, {missed} slots missed"
    );
    assert!(passes <= PASSES_MEAN_MAX, "{passes} passes of a delivery on the average");
    assert!(most <= PASSES_MAX, "{most} passes of one delivery");
    if !kill {
        assert_eq!(receiver.count(), BACKLOG as usize, "nothing is sent twice");
    }
    assert!(took < Duration::from_secs(60), "{took:?}: slots are left unused");
    drop((services, others));
}

#[tokio::test]
async fn a_backlog_drains_at_its_pace_with_one_worker() {
    drain(1, false).await;
}

#[tokio::test]
async fn a_backlog_drains_at_its_pace_with_two_workers() {
    drain(2, false).await;
}

#[tokio::test]
async fn a_backlog_drains_at_its_pace_with_five_workers_one_of_which_is_killed() {
    drain(5, true).await;
}

#[tokio::test]
async fn slots_are_given_once_and_a_whole_distance_apart_whoever_asks() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = WebhookId(app.webhook(company, "http://127.0.0.1:9/", json!({})).await);
    let every = slot_interval(100.0);
    let ask = async |every: Duration, slots: usize| -> Vec<Reserved> {
        let wanted = [SlotRequest { webhook, every, slots }];
        let answer = reserve_slots(&app.pool, &wanted, Duration::from_millis(10)).await;
        answer.expect("an answer")
    };
    let mut slots = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let answers = futures_util::future::join_all((1..8).map(|n| ask(every, n))).await;
        for reserved in answers.concat() {
            let ahead = (reserved.next_at - Utc::now()).num_milliseconds();
            assert!(ahead <= 1_100, "{ahead} ms ahead");
            slots.extend((0..reserved.slots).map(|n| reserved.first + every * n));
        }
    }
    slots.sort_unstable();
    let apart = slots.windows(2).map(|pair| (pair[1] - pair[0]).to_std().expect("in order"));
    let least = apart.min().expect("some");
    assert!(least + Duration::from_micros(2) >= every, "{least:?}");
    assert!(slots.len() > 300, "{} in three seconds and one ahead", slots.len());
    // A slower pace: one, then none for long, and the answer says until when.
    let slow = slot_interval(0.01);
    eventually_within(Duration::from_secs(3), "its slot", async || {
        let reserved = ask(slow, 5).await[0];
        (reserved.slots == 1).then_some(())
    })
    .await;
    let none = ask(slow, 5).await[0];
    assert_eq!(none.slots, 0);
    assert!((none.next_at - Utc::now()).num_seconds() >= 100);
    // It is not waited for once the pace is quicker.
    eventually_within(Duration::from_secs(3), "a slot at the new pace", async || {
        (ask(every, 1).await[0].slots == 1).then_some(())
    })
    .await;
    // A lane that is not there gets no answer.
    let nobody = [SlotRequest { webhook: WebhookId(Uuid::new_v4()), every, slots: 1 }];
    assert!(reserve_slots(&app.pool, &nobody, Duration::ZERO).await.expect("an answer").is_empty());
}

#[tokio::test]
async fn after_a_pause_nothing_is_made_up_for_and_a_limit_can_be_lifted() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let receiver = Receiver::start().await;
    receiver.answer([Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    set_rate(&app, webhook, Some(10.0)).await;
    let service = app.run(&[]).await;
    for n in 0..5 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(5).await;
    app.wait_for_count("select count(*) from lanes where next_slot_at < now()", 1).await;
    // As if it had been idle for long.
    sqlx::query("update lanes set next_slot_at = next_slot_at - interval '10 seconds'")
        .execute(&app.pool)
        .await
        .expect("done");
    for n in 5..25 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(25).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 25).await;
    assert_pace(starts(&app).await, 10.0, "10/s");
    set_rate(&app, webhook, None).await;
    let began = Instant::now();
    for n in 25..75 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(75).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?} for what would take five seconds",
        began.elapsed()
    );
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_lane_whose_row_is_gone_is_made_again_and_goes_on_at_its_pace() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({"rate_limit": RATE})).await;
    let gone = sqlx::query("delete from lanes where webhook_id = $1").bind(webhook);
    gone.execute(&app.pool).await.expect("it can be taken away");
    let _service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    app.wait_for_count("select count(*) from lanes where next_slot_at is not null", 1).await;
}
