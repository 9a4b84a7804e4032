//! What a page of a long history costs: a webhook with five million deliveries over thirty days, asked for over the API.
//!
//! ```text
//! make bench                                              with the load table, on the servers that scripts/services brings up
//! cargo bench --bench history                             alone, on DATABASE_URL and AMQP_URL
//! cargo bench --bench history -- --deliveries 500000      smaller
//! ```
//! The history is made in a database of its own (some seven gigabytes for five million, about two minutes), which is
//! dropped at the end. Times are those of whole requests, from the client's side; each line is of so many requests one after
//! the other, once the connections of the API know the partitions.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    dead_code,
    reason = "counts and times of a run are small, its clock is the machine's, and `load` uses what this does not"
)]

#[path = "load/machine.rs"]
mod machine;
#[path = "load/world.rs"]
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;
use xtwebhooks::{api::access::ApiKey, store::api_keys};

use crate::world::World;

/// Days that the history goes back.
const DAYS: u64 = 30;
/// Of twelve deliveries so many are the one webhook's; see `history/ledger.sql`.
const SHARE: (u64, u64) = (10, 12);
/// Requests of each line.
const REQUESTS: usize = 40;
/// Rows of a page, as the guide has it.
const PAGE: usize = 50;

/// The one webhook, and the companies with one, ten and a thousand.
const WEBHOOK: u128 = 0xa1;
const ONE: u128 = 0xc1;
const TEN: u128 = 0xc3;
const THOUSAND: u128 = 0xc2;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let given = args.iter().position(|arg| arg == "--deliveries").and_then(|i| args.get(i + 1));
    let deliveries: u64 = given.map_or(Ok(5_000_000), |text| text.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(deliveries))
}

async fn run(deliveries: u64) -> Result<()> {
    let world = World::new().await?;
    let mut db = world.database().await?;
    let began = Instant::now();
    db.execute(include_str!("history/ledger.sql")).await?;
    let per_day = (deliveries * SHARE.1).div_ceil(SHARE.0 * DAYS);
    db.execute(AssertSqlSafe(format!("call make_history({DAYS}, {per_day})"))).await?;
    db.execute("vacuum analyze").await?;
    println!("{deliveries} deliveries of one webhook made in {:.0} s", began.elapsed().as_secs_f64());
    let key = key(&mut db).await?;
    let service = world.api().await?;
    let client =
        Client { base: service.api.clone(), key, http: reqwest::Client::builder().no_proxy().build()? };

    let webhook = format!("/v1/webhooks/{}/deliveries", Uuid::from_u128(WEBHOOK));
    let deep = deep(&client, &webhook).await?;
    println!("{:<58} {:>6} {:>9} {:>9} {:>9}", "page of 50", "rows", "p50 ms", "p99 ms", "max ms");
    for (name, company, path) in [
        ("first page of the webhook", ONE, webhook.clone()),
        ("1,000th page", ONE, deep),
        ("first page, counted (10000+)", ONE, format!("{webhook}?count=capped")),
        ("status=dead, one in a hundred", ONE, format!("{webhook}?status=dead")),
        ("response_status=418, one in 50,000", ONE, format!("{webhook}?response_status=418")),
        ("response_status=599, none", ONE, format!("{webhook}?response_status=599")),
        ("until 20 days ago", ONE, format!("{webhook}?until={}", ago(20))),
        ("company with one webhook", ONE, "/v1/deliveries".to_owned()),
        ("company with 10 webhooks", TEN, "/v1/deliveries".to_owned()),
        ("company with 10 webhooks, status=dead", TEN, "/v1/deliveries?status=dead".to_owned()),
        ("company with 1,000 webhooks", THOUSAND, "/v1/deliveries".to_owned()),
        ("company with 1,000 webhooks, status=dead", THOUSAND, "/v1/deliveries?status=dead".to_owned()),
    ] {
        measure(&client, name, Uuid::from_u128(company), &path).await?;
    }
    drop(db);
    service.stop().await?;
    world.remove().await
}

fn ago(days: i64) -> String {
    (chrono::Utc::now() - chrono::TimeDelta::days(days)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// A key of all companies.
async fn key(db: &mut PgConnection) -> Result<String> {
    let key = ApiKey::generate();
    let new = api_keys::KeyToInsert {
        id: &key.id,
        company: None,
        name: "of a benchmark",
        secret_sha256: &key.sha256,
        scopes: &["admin".to_owned()],
        created_by: None,
        expires_at: None,
    };
    api_keys::create(db, new).await?;
    Ok(key.text.expose_secret().to_owned())
}

struct Client {
    base: String,
    key: String,
    http: reqwest::Client,
}

impl Client {
    /// The rows of a page, where the next one is, and how long it took.
    async fn get(&self, company: Uuid, path: &str) -> Result<(usize, Option<String>, Duration)> {
        let began = Instant::now();
        let request = self.http.get(format!("{}{path}", self.base)).bearer_auth(&self.key);
        let answer = request.header("x-company-id", company.to_string()).send().await?;
        let (status, link) = (answer.status(), answer.headers().get("link").cloned());
        let body = answer.bytes().await?;
        let took = began.elapsed();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&body)?;
        let next = link.as_ref().and_then(|link| link.to_str().ok()?.strip_prefix('<')?.split('>').next());
        Ok((rows.len(), next.map(ToOwned::to_owned), took))
    }
}

/// The address of the 1,000th page, by way of those before it: in pages of 500 the hundredth ends where it begins.
async fn deep(client: &Client, path: &str) -> Result<String> {
    let company = Uuid::from_u128(ONE);
    let mut path = format!("{path}?limit=450");
    for _ in 0..111 {
        path = client.get(company, &path).await?.1.context("there is more")?;
    }
    Ok(path.replace("limit=450", &format!("limit={PAGE}")))
}

/// Asks again and again, and prints a line.
async fn measure(client: &Client, name: &str, company: Uuid, path: &str) -> Result<()> {
    // Every connection of the API gets to know the partitions first.
    for _ in 0..16 {
        client.get(company, path).await?;
    }
    let (mut rows, mut times) = (0, Vec::new());
    for _ in 0..REQUESTS {
        let (found, _, took) = client.get(company, path).await?;
        rows = found;
        times.push(took.as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    println!("{name:<58} {rows:>6} {:>9.1} {:>9.1} {:>9.1}", at(0.5), at(0.99), at(1.0));
    Ok(())
}
