//! Kills in a burst: how long after the next process is ready the last event arrives that the dead one had committed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::{
    DATA_BYTES, PATIENCE,
    publish::{self, Pace},
    receiver::Receiver,
    world::World,
};

/// How long nothing runs after a kill.
const DOWN: Duration = Duration::from_secs(1);
/// How often the ledger is queried for what is still open.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What was measured of the kills.
#[derive(Default)]
pub struct Figures {
    /// Seconds from readiness to the last delivery that stood in the ledger at the kill, for each kill.
    seconds: Vec<f64>,
    open_at_a_kill: i64,
    rescued: i64,
    repeats: usize,
    /// Requests that had arrived and were not recorded when their process was killed: so many repeats are allowed.
    unrecorded: usize,
}

impl Figures {
    pub fn line(&self) -> String {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
        format!(
            "kill: {} kills, {} deliveries open at one at most; the last arrived {:.1} s after readiness (median), {:.1} s \
             (worst); {} rescued, {} repeats, {} requests unrecorded",
            sorted.len(),
            self.open_at_a_kill,
            at(0.5),
            at(1.0),
            self.rescued,
            self.repeats,
            self.unrecorded,
        )
    }

    pub fn json(&self) -> String {
        serde_json::json!({
            "case": "kill",
            "seconds": self.seconds,
            "open_at_a_kill": self.open_at_a_kill,
            "rescued": self.rescued,
            "repeats": self.repeats,
            "unrecorded": self.unrecorded,
        })
        .to_string()
    }

    /// One more kill, in a world of its own: at a random moment of a burst of so many events.
    pub async fn kill(&mut self, events: usize) -> Result<()> {
        let (receiver, world) = (Receiver::start().await?, World::new().await?);
        let company = world.webhooks(1, receiver.port()).await?;
        let service = world.service().await?;
        let connection = publish::connect(&world).await?;
        publish::publish(&connection, &world, company, 20, DATA_BYTES, Pace::Burst { unconfirmed: 4 })
            .await?;
        receiver.wait_for(20, PATIENCE).await?;
        receiver.reset();
        let mut database = world.database().await?;

        let moment = (events as f64 * (0.02 + 0.9 * fastrand::f64())) as usize;
        let burst = Pace::Burst { unconfirmed: 500 };
        let publishing = publish::publish(&connection, &world, company, events, DATA_BYTES, burst);
        let killing = async {
            receiver.wait_for(moment, PATIENCE).await?;
            service.kill().await?;
            tokio::time::sleep(DOWN).await;
            let killed_at: DateTime<Utc> =
                sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut database).await?;
            let open = open(&mut database, killed_at).await?;
            let recorded: i64 =
                sqlx::query_scalar("select count(*) from webhook_deliveries where attempts > 0")
                    .fetch_one(&mut database)
                    .await?;
            let arrived = receiver.summary(Instant::now()).unique + 20;
            self.unrecorded += arrived.saturating_sub(usize::try_from(recorded)?);
            self.open_at_a_kill = self.open_at_a_kill.max(open);
            let next = world.service().await?;
            let ready = Instant::now();
            while self::open(&mut database, killed_at).await? > 0 {
                anyhow::ensure!(
                    ready.elapsed() < 3 * PATIENCE,
                    "deliveries of before the kill are still open"
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.seconds.push(ready.elapsed().as_secs_f64());
            Ok(next)
        };
        let (published, next) = tokio::join!(publishing, killing);
        published?;
        let next = next.context("the kill")?;
        loop {
            let arrived = receiver.summary(Instant::now());
            if arrived.unique >= events {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep(DOWN).await;
        let arrived = receiver.summary(Instant::now());
        self.repeats += arrived.count - arrived.unique;
        self.rescued +=
            sqlx::query_scalar::<_, i64>("select coalesce(sum(rescues), 0) from webhook_deliveries")
                .fetch_one(&mut database)
                .await?;
        next.stop().await?;
        drop(database);
        world.remove().await
    }
}

/// Deliveries that were there at an instant and are not delivered.
async fn open(database: &mut PgConnection, since: DateTime<Utc>) -> Result<i64> {
    let open = sqlx::query_scalar(
        "select count(*) from webhook_deliveries where status <> 'delivered' and created_at <= $1",
    );
    Ok(open.bind(since).fetch_one(database).await?)
}
