//! A publisher that never stops: numbered events at a rate, each published again until the broker has confirmed it.
//!
//! An event bears its number in `data.seq`. What is repeated bears the same id and time, as it must.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{Channel, Confirmation, Connection, ConnectionProperties, options::BasicPublishOptions};
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::app::App;

/// How many events may wait for their confirm.
const UNCONFIRMED_MAX: usize = 2_000;
/// How often events are published, so many at once as the rate asks for.
const TICK: Duration = Duration::from_millis(10);
/// How long a confirm may take; a connection that is slower is given up.
const CONFIRM_PATIENCE: Duration = Duration::from_secs(20);
/// How long a broker may confirm nothing.
const AWAY_MAX: Duration = Duration::from_secs(180);

/// Only one heavy test at a time: two would measure each other.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static HEAVY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    HEAVY.lock().await
}

/// A publisher at work.
pub struct Load {
    began: Instant,
    stop: Arc<AtomicBool>,
    running: JoinHandle<Published>,
}

/// What was published in all.
pub struct Published {
    /// The numbers of the events that the broker confirmed; every other was not even sent.
    pub confirmed: BTreeSet<u64>,
    /// How often an event had to be published again.
    pub again: u64,
    /// Confirmed events by second, on the average.
    pub rate: f64,
}

impl Load {
    /// Publishes for a company at a rate until it is stopped.
    pub fn start(app: &App, company: Uuid, per_second: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let publisher = Publisher::new(app, company);
        let running = tokio::spawn(publisher.run(per_second, u64::MAX, Arc::clone(&stop)));
        Self { began: Instant::now(), stop, running }
    }

    /// How long it has been at work.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Stops, and gives what was published once everything is confirmed.
    pub async fn stop(self) -> Published {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.expect("the publisher lives")
    }
}

/// Publishes the events 0 to `count` as fast as the broker takes them.
pub async fn publish(app: &App, company: Uuid, count: u64) -> Published {
    Publisher::new(app, company).run(u64::MAX, count, Arc::default()).await
}

struct Publisher {
    amqp_url: String,
    exchange: String,
    company: Uuid,
    /// Sent and not confirmed: what is published again on the next connection.
    open: BTreeMap<u64, Vec<u8>>,
    confirmed: BTreeSet<u64>,
    next: u64,
    again: u64,
}

impl Publisher {
    fn new(app: &App, company: Uuid) -> Self {
        let (amqp_url, exchange) = (app.amqp_url.clone(), app.exchange.clone());
        Self {
            amqp_url,
            exchange,
            company,
            open: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            next: 0,
            again: 0,
        }
    }

    async fn run(mut self, per_second: u64, count: u64, stop: Arc<AtomicBool>) -> Published {
        let began = Instant::now();
        let (mut confirmed, mut progress) = (0, Instant::now());
        loop {
            // A broker may be away for as long as a test has it restarted, not for ever.
            if confirmed != self.confirmed.len() {
                (confirmed, progress) = (self.confirmed.len(), Instant::now());
            }
            assert!(progress.elapsed() < AWAY_MAX, "nothing was confirmed for {AWAY_MAX:?}");
            if let Ok(channel) = channel(&self.amqp_url).await
                && self.publish(&channel, began, per_second, count, &stop).await.is_ok()
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let rate = self.confirmed.len() as f64 / began.elapsed().as_secs_f64();
        Published { confirmed: self.confirmed, again: self.again, rate }
    }

    /// Publishes on one channel until everything is done, or the channel is lost.
    async fn publish(
        &mut self,
        channel: &Channel,
        began: Instant,
        per_second: u64,
        count: u64,
        stop: &AtomicBool,
    ) -> lapin::Result<()> {
        let mut confirms = FuturesUnordered::new();
        let mut waiting: Vec<u64> = self.open.keys().copied().collect();
        self.again += waiting.len() as u64;
        loop {
            let ended = stop.load(Ordering::Relaxed) || self.next >= count;
            if !ended {
                let due = began.elapsed().as_secs_f64() * per_second as f64;
                let due = (due as u64).min(count).min(self.next + UNCONFIRMED_MAX as u64);
                while self.next < due && self.open.len() < UNCONFIRMED_MAX {
                    self.open.insert(self.next, self.event(self.next));
                    waiting.push(self.next);
                    self.next += 1;
                }
            }
            for seq in waiting.drain(..) {
                let body = &self.open[&seq];
                let confirm = send(channel, &self.exchange, body).await?;
                confirms.push(async move { (seq, tokio::time::timeout(CONFIRM_PATIENCE, confirm).await) });
            }
            if ended && self.open.is_empty() {
                return Ok(());
            }
            let tick = tokio::time::sleep(TICK);
            tokio::pin!(tick);
            loop {
                tokio::select! {
                    () = &mut tick => break,
                    Some((seq, answer)) = confirms.next(), if !confirms.is_empty() => {
                        match answer.map_err(|_| lapin::ErrorKind::MissingHeartbeatError)?? {
                            Confirmation::Ack(None) => {
                                self.open.remove(&seq);
                                self.confirmed.insert(seq);
                            }
                            _ => {
                                self.again += 1;
                                waiting.push(seq);
                            }
                        }
                        if ended && self.open.is_empty() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    fn event(&self, seq: u64) -> Vec<u8> {
        let event = json!({
            "event_type": "ticket.created", "company_id": self.company, "event_id": format!("seq-{seq}"),
            "data": {"seq": seq}, "timestamp": chrono::Utc::now().timestamp(),
        });
        event.to_string().into_bytes()
    }
}

async fn send(
    channel: &Channel,
    exchange: &str,
    body: &[u8],
) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + use<>> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = lapin::BasicProperties::default().with_delivery_mode(2);
    channel.basic_publish(exchange.into(), "ticket.created".into(), options, body, properties).await
}

async fn channel(amqp_url: &str) -> lapin::Result<Channel> {
    let opened = async {
        let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(Default::default()).await?;
        Ok(channel)
    };
    let opened = tokio::time::timeout(CONFIRM_PATIENCE, opened).await;
    opened.unwrap_or_else(|_| Err(lapin::ErrorKind::MissingHeartbeatError.into()))
}
