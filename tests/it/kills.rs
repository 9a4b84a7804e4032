//! Kills: whatever moment the process dies at, no confirmed event is lost, and no request is repeated but one that
//! was under way or not yet recorded.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually_within},
    load::{self, Load},
    receiver::{Answer, Receiver, Request},
};

const KILLS: usize = 30;
const EVENTS_PER_SECOND: u64 = 1_000;
/// The longest life of a process, from its start to its death.
const LIFE_MAX: Duration = Duration::from_millis(1_500);
/// Every so many events the first answer is a failure, so that retries die as well.
const FAILS_EVERY: u64 = 20;
/// How long what a death left over may take: leases, the scheduler's own lease and rescue all run out within it.
const PATIENCE: Duration = Duration::from_secs(90);

/// A request as the ledger knows it: the delivery and the attempt's number.
type Key = (Uuid, i32);

/// What the deaths so far may repeat, and what was repeated.
#[derive(Default)]
struct Account {
    /// Requests seen before each death.
    seen: usize,
    /// How often each request came.
    came: HashMap<Key, usize>,
    /// How many deaths each request was unrecorded at: it may come once more for each.
    unrecorded: HashMap<Key, usize>,
    /// Requests that were answered before a death and recorded by nobody.
    between_answer_and_commit: usize,
    webhook_ids: HashMap<Uuid, String>,
    sequence: BTreeSet<u64>,
    most_unrecorded: usize,
}

impl Account {
    /// Takes in what one process requested in its life. Nothing of it may have come twice.
    fn life(&mut self, receiver: &Receiver) -> Vec<(Key, Request)> {
        let requests = receiver.requests_from(self.seen);
        self.seen += requests.len();
        let mut once = HashSet::new();
        let mut life = Vec::with_capacity(requests.len());
        for request in requests {
            let header = |name| request.header(name).expect("signed").to_owned();
            let delivery: Uuid = header("x-xtsystems-delivery").parse().expect("an id");
            let key = (delivery, header("x-xtsystems-attempt").parse().expect("a number"));
            assert!(once.insert(key), "{key:?} was requested twice though nothing died in between");
            *self.came.entry(key).or_default() += 1;
            let id = header("webhook-id");
            assert_eq!(*self.webhook_ids.entry(delivery).or_insert_with(|| id.clone()), id);
            self.sequence.insert(request.json()["data"]["seq"].as_u64().expect("a number"));
            life.push((key, request));
        }
        life
    }

    /// Compares the life with the ledger, after a death at `killed_at`.
    async fn death(&mut self, app: &App, life: Vec<(Key, Request)>, killed_at: Instant) {
        let recorded = recorded(app, life.iter().map(|((delivery, _), _)| *delivery).collect()).await;
        let mut count = 0;
        for ((delivery, number), request) in life {
            if recorded.get(&delivery).is_some_and(|attempts| *attempts >= number) {
                continue;
            }
            count += 1;
            *self.unrecorded.entry((delivery, number)).or_default() += 1;
            if request.answered.get().is_some_and(|at| *at < killed_at) {
                self.between_answer_and_commit += 1;
            }
        }
        self.most_unrecorded = self.most_unrecorded.max(count);
    }

    /// Every repeat must be one of a request that a death had left unrecorded. Returns how many there were.
    fn repeats(&self) -> usize {
        let mut repeats = 0;
        for (key, came) in self.came.iter().filter(|(_, came)| **came > 1) {
            let allowed = self.unrecorded.get(key).copied().unwrap_or_default();
            assert!(*came - 1 <= allowed, "{key:?} came {came} times, {allowed} deaths left it unrecorded");
            repeats += came - 1;
        }
        repeats
    }
}

/// How many attempts of each delivery the ledger knows.
async fn recorded(app: &App, deliveries: Vec<Uuid>) -> HashMap<Uuid, i32> {
    let rows: Vec<(Uuid, i32)> =
        sqlx::query_as("select id, attempts from webhook_deliveries where id = any($1)")
            .bind(deliveries)
            .fetch_all(&app.pool)
            .await
            .expect("the ledger answers");
    rows.into_iter().collect()
}

/// Waits until nothing of the dead process is under way: its statements are over, its connections closed.
async fn aftermath(app: &App, receiver: &Receiver) {
    eventually_within(PATIENCE, "the dead process's statements are over", async || {
        let sql = "select count(*) from pg_stat_activity
                   where datname = current_database() and application_name like 'xtwebhooks/%'";
        (app.count(sql).await == 0).then_some(())
    })
    .await;
    receiver.wait_for_open(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_kills_under_load_lose_nothing_and_repeat_only_what_was_not_recorded() {
    let _alone = load::alone().await;
    let seed = std::env::var("XT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("XT_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("TIMEOUT_MAX", "3s")
        .set("FRESH_MAX", "3s")
        .set("LEASE_MARGIN", "3s")
        .set("RESCUE_GRACE", "10s")
        .set("WATERMARK_EVERY", "1s");
    receiver.answer_by(|request, _| {
        let seq = request.json()["data"]["seq"].as_u64().expect("a number");
        let first = request.header("x-xtsystems-attempt") == Some("1");
        let answer = Answer::status(if first && seq.is_multiple_of(FAILS_EVERY) { 500 } else { 200 });
        answer.after(Duration::from_millis(seq % 15))
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 100})).await;
    assert_eq!(app.run(&[]).await.stop().await, Some(0));

    let load = Load::start(&app, company, EVENTS_PER_SECOND);
    let mut account = Account::default();
    for _ in 0..KILLS {
        let service = app.start(&[]).await;
        tokio::time::sleep(LIFE_MAX.mul_f64(random.f64())).await;
        let killed_at = Instant::now();
        service.kill().await;
        aftermath(&app, &receiver).await;
        let life = account.life(&receiver);
        account.death(&app, life, killed_at).await;
    }
    let published = load.stop().await;

    let service = app.run(&[]).await;
    app.wait_until_delivered(published.confirmed.len(), PATIENCE).await;
    assert_eq!(service.stop().await, Some(0));
    account.life(&receiver);
    let repeats = account.repeats();
    println!(
        "{KILLS} kills, {} events at {:.0}/s, {} requests, {repeats} repeats, {} unrecorded at most at one kill, {} \
         answered before a kill and recorded by nobody",
        published.confirmed.len(),
        published.rate,
        account.seen,
        account.most_unrecorded,
        account.between_answer_and_commit,
    );
    assert!(published.confirmed.is_subset(&account.sequence), "a confirmed event did not arrive");
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
    assert!(account.between_answer_and_commit > 0, "no kill hit between answer and commit");
}
