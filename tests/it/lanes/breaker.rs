//! What outcomes do to a lane: they count, open, close and rate-limit it, in the statement that records them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::json;
use sqlx::{PgPool, postgres::PgListener};
use uuid::Uuid;
use xtwebhooks::{
    model::{
        CompanyId, DeliveryId, EventId, OutcomeClass, WebhookId,
        breaker::{Heard, LaneChange, Policy, Share, jitter},
    },
    store::{
        self,
        record_attempts::{AttemptRow, Becomes, LaneChanged, News, record_attempts},
    },
};

use super::breaker_model::{Breaker, Transition, probe_wait};
use crate::support::{
    app::{App, PATIENCE, eventually},
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const POLICY: Policy = Policy { failures: 5, probe_wait_min: Duration::from_secs(5) };
const OPENED: &str = "select count(*) from lane_transitions where kind = 'opened'";
const CLOSED: &str = "select count(*) from lane_transitions where kind = 'closed'";

/// A lane as the ledger has it.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Lane {
    failures: i32,
    opened_at: Option<DateTime<Utc>>,
    open_reason: Option<String>,
    next_probe_at: Option<DateTime<Utc>>,
    probes: i32,
    probe_leased_until: Option<DateTime<Utc>>,
    failing_since: Option<DateTime<Utc>>,
    failing_event: Option<Uuid>,
    failing_many: bool,
    #[sqlx(rename = "held_back_until")]
    rate_limited_until: Option<DateTime<Utc>>,
    last_success_at: Option<DateTime<Utc>>,
    /// Another with each version of the row.
    version: String,
}

async fn lane(app: &App, webhook: Uuid) -> Lane {
    sqlx::query_as("select *, xmin::text as version from lanes where webhook_id = $1")
        .bind(webhook)
        .fetch_one(&app.pool)
        .await
        .expect("a lane")
}

/// What was made known of a webhook, in its order.
#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Known {
    kind: String,
    at: DateTime<Utc>,
    company_id: Uuid,
    reason: Option<String>,
    opened_at: Option<DateTime<Utc>>,
    failing_since: Option<DateTime<Utc>>,
    silent: bool,
}

async fn known(app: &App, webhook: Uuid) -> Vec<Known> {
    sqlx::query_as("select * from lane_transitions where webhook_id = $1 order by at")
        .bind(webhook)
        .fetch_all(&app.pool)
        .await
        .expect("read")
}

/// A webhook and what is owed to it: attempts to be recorded without a worker.
struct Owed {
    company: Uuid,
    webhook: Uuid,
}

impl Owed {
    async fn new(app: &App) -> Self {
        let company = Uuid::new_v4();
        Self { company, webhook: app.webhook(company, "http://x.test/", json!({})).await }
    }

    /// The first attempt of a new delivery.
    async fn attempt(&self, app: &App, class: OutcomeClass) -> AttemptRow {
        let delivery = owe(app, self.company, self.webhook, Utc::now(), "pending").await;
        self.attempt_of(delivery, class)
    }

    /// Several.
    async fn attempts(&self, app: &App, classes: &[OutcomeClass]) -> Vec<AttemptRow> {
        let mut rows = Vec::new();
        for class in classes {
            rows.push(self.attempt(app, *class).await);
        }
        rows
    }

    fn attempt_of(&self, delivery: DeliveryId, class: OutcomeClass) -> AttemptRow {
        let becomes = match class {
            OutcomeClass::Accepted => Becomes::Delivered,
            _ => Becomes::Retried { wait: Duration::from_mins(1), queued: false },
        };
        AttemptRow {
            delivery,
            number: 1,
            webhook: WebhookId(self.webhook),
            becomes,
            attempted_at: Utc::now(),
            outcome: class.as_str(),
            why: Some(format!("said {class}")),
            url: None,
            address: None,
            request_head: None,
            response_status: None,
            response_head: None,
            response_body: None,
            response_truncated: None,
            repeated: false,
            phases_us: [None; 5],
            heard: Some(Heard {
                company: CompanyId(self.company),
                event: EventId(delivery.0),
                operational: false,
                class,
                probe: false,
                rate_limited_for: None,
                share: None,
            }),
        }
    }
}

fn heard(row: &mut AttemptRow) -> &mut Heard {
    row.heard.as_mut().expect("it is no test")
}

fn hot_pool(app: &App, connections: u32) -> PgPool {
    let config = store::Config { database_url: app.database_url.clone().into(), database_listen_url: None };
    store::hot_pool(&config, "lanes", connections).expect("the URL is one")
}

async fn record(pool: &PgPool, rows: &[AttemptRow]) -> Vec<LaneChanged> {
    record_attempts(pool, rows, &POLICY).await.expect("recorded").lanes
}

use OutcomeClass::{Accepted, Refused, ServerError, Throttled, TimedOut, Unreachable};

#[tokio::test]
async fn five_failures_in_a_row_open_a_lane_and_a_success_closes_it() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    let [first, second] = [&[ServerError, Refused, TimedOut][..], &[Throttled, Unreachable, ServerError]];
    assert_eq!(record(&pool, &owed.attempts(&app, first).await).await, []);
    let counted = lane(&app, owed.webhook).await;
    assert_eq!((counted.failures, counted.opened_at, counted.failing_many), (2, None, true));
    assert_eq!(record(&pool, &owed.attempts(&app, second).await).await, []);
    let since = lane(&app, owed.webhook).await.failing_since;
    assert!(since.is_some() && since == counted.failing_since);

    let changed = record(&pool, &[owed.attempt(&app, Unreachable).await]).await;
    let reason = "5 attempts in a row failed; the last: said unreachable";
    let opened = News::Opened { reason: reason.to_owned(), failing_since: since };
    let whose = (CompanyId(owed.company), WebhookId(owed.webhook));
    assert_eq!(changed, [LaneChanged { company: whose.0, webhook: whose.1, news: opened }]);
    let open = lane(&app, owed.webhook).await;
    assert_eq!((open.failures, open.probes, open.open_reason.as_deref()), (5, 0, Some(reason)));
    let wait = open.next_probe_at.expect("a probe") - open.opened_at.expect("open");
    assert!((TimeDelta::seconds(4)..=TimeDelta::seconds(6)).contains(&wait), "{wait}");

    // A probe fails: its lease ends, and the next waits twice as long.
    execute(&app, "update lanes set probe_leased_until = now() + interval '1 hour'").await;
    let mut probe = owed.attempt(&app, TimedOut).await;
    heard(&mut probe).probe = true;
    assert_eq!(record(&pool, &[owed.attempt(&app, TimedOut).await]).await, []);
    assert!(lane(&app, owed.webhook).await.probe_leased_until.is_some(), "others do not end the lease");
    let before = Utc::now();
    assert_eq!(record(&pool, &[probe]).await, []);
    let probed = lane(&app, owed.webhook).await;
    assert_eq!((probed.probes, probed.probe_leased_until, probed.opened_at), (1, None, open.opened_at));
    let wait = probed.next_probe_at.expect("a probe") - before;
    assert!((TimeDelta::seconds(8)..=TimeDelta::seconds(13)).contains(&wait), "{wait}");

    let changed = record(&pool, &[owed.attempt(&app, Accepted).await]).await;
    let closed = News::Closed { opened_at: open.opened_at };
    assert_eq!(changed, [LaneChanged { company: whose.0, webhook: whose.1, news: closed }]);
    let well = lane(&app, owed.webhook).await;
    assert_eq!((well.failures, well.probes, well.opened_at, well.next_probe_at), (0, 0, None, None));
    assert_eq!(
        (well.failing_since, well.failing_event, well.failing_many, well.open_reason),
        (None, None, false, None)
    );
    assert!(well.last_success_at.is_some());

    let rows = known(&app, owed.webhook).await;
    let kinds: Vec<_> = rows.iter().map(|row| (&*row.kind, row.reason.as_deref())).collect();
    assert_eq!(kinds, [("opened", Some(reason)), ("closed", Some("the receiver accepted a delivery again"))]);
    for row in rows {
        assert_eq!((row.company_id, row.opened_at, row.failing_since), (owed.company, open.opened_at, since));
        assert!(!row.silent && row.at >= open.opened_at.expect("open"));
    }
}

#[tokio::test]
async fn what_only_operational_events_brought_about_is_made_known_silently() {
    let app = App::new().await;
    let pool = hot_pool(&app, 1);
    for operational in [true, false] {
        let owed = Owed::new(&app).await;
        let mut rows = owed.attempts(&app, &[ServerError; 5]).await;
        for row in &mut rows {
            heard(row).operational = true;
        }
        heard(&mut rows[3]).operational = operational;
        record(&pool, &rows).await;
        record(&pool, &[owed.attempt(&app, Accepted).await]).await;
        let silent: Vec<_> = known(&app, owed.webhook).await.iter().map(|row| row.silent).collect();
        assert_eq!(silent, [operational; 2]);
    }
}

#[tokio::test]
async fn who_asks_for_a_delivery_is_told_what_holds_up_its_lane() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    let why = async |delivery: DeliveryId| {
        let (company, delivery) = (owed.company.to_string(), delivery.to_string());
        let shown = app.cli(&["deliveries", "show", "--company", &company, &delivery]).await;
        (shown["why"].as_str().expect("a sentence").to_owned(), shown["next_move"].clone())
    };
    let mut rows = owed.attempts(&app, &[ServerError; 5]).await;
    heard(&mut rows[0]).rate_limited_for = Some(Duration::from_hours(1));
    record(&pool, &rows[..1]).await;
    let (rate_limited, next) = why(rows[0].delivery).await;
    assert_eq!(next, "none");
    assert!(
        rate_limited.starts_with("the receiver asked to wait; nothing is sent to it for another"),
        "{rate_limited}"
    );
    record(&pool, &rows[1..]).await;
    let (open, next) = why(rows[0].delivery).await;
    assert_eq!(next, "receiver");
    let since = lane(&app, owed.webhook).await.opened_at.expect("open").format("%Y-%m-%dT%H:%M:%SZ");
    assert!(
        open.starts_with(&format!("the receiver has been failing since {since}; the next probe is due in")),
        "{open}"
    );
}

#[tokio::test]
async fn a_share_of_failures_opens_a_lane() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    let mut rows = owed.attempts(&app, &[ServerError, Accepted, ServerError]).await;
    heard(&mut rows[2]).share = Some(Share { failed: 11, attempts: 21 });
    let changed = record(&pool, &rows).await;
    assert!(matches!(&changed[..], [LaneChanged { news: News::Opened { .. }, .. }]), "{changed:?}");
    let open = lane(&app, owed.webhook).await;
    let reason = "11 of 21 attempts within a minute failed; the last: said server_error";
    assert_eq!((open.failures, open.open_reason.as_deref()), (1, Some(reason)));
}

#[tokio::test]
async fn failures_of_many_workers_open_a_lane_once_and_their_successes_close_it_once() {
    const WORKERS: usize = 8;
    let app = App::new().await;
    let pool = hot_pool(&app, WORKERS as u32);
    let (first, second) = (Owed::new(&app).await, Owed::new(&app).await);
    for (class, opened, closed, news) in [(ServerError, 2, 0, 2), (Accepted, 2, 2, 2), (TimedOut, 4, 2, 2)] {
        let mut batches = Vec::new();
        for worker in 0..WORKERS {
            // Both lanes in each batch, in another order in every second.
            let mut batch =
                [first.attempts(&app, &[class; 3]).await, second.attempts(&app, &[class; 3]).await];
            batch.rotate_left(worker % 2);
            batches.push(batch.concat());
        }
        let changed = join_all(batches.iter().map(|batch| record(&pool, batch))).await;
        assert_eq!(changed.concat().len(), news, "{class}: {changed:?}");
        assert_eq!((app.count(OPENED).await, app.count(CLOSED).await), (opened, closed), "{class}");
        for owed in [&first, &second] {
            let expected = if class == Accepted { 0 } else { 3 * WORKERS as i32 };
            assert_eq!(lane(&app, owed.webhook).await.failures, expected, "{class}");
        }
    }
    // What was made known stands in the order of its doing.
    let kinds: Vec<_> = known(&app, first.webhook).await.into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, ["opened", "closed", "opened"]);
}

#[tokio::test]
async fn an_attempt_that_is_recorded_already_changes_no_lane() {
    let app = App::new().await;
    let (owed, other, pool) = (Owed::new(&app).await, Owed::new(&app).await, hot_pool(&app, 1));
    let mut rows = owed.attempts(&app, &[ServerError; 4]).await;
    heard(&mut rows[3]).rate_limited_for = Some(Duration::from_mins(1));
    record(&pool, &rows).await;
    let before = lane(&app, owed.webhook).await;
    assert_eq!(before.failures, 4);
    assert_eq!(record(&pool, &rows).await, []);
    assert_eq!(lane(&app, owed.webhook).await, before);

    // Among others, they are heard as little; and the others as always.
    let mut mixed = rows.clone();
    mixed.extend(other.attempts(&app, &[ServerError; 2]).await);
    mixed.push(owed.attempt(&app, Unreachable).await);
    let changed = record(&pool, &mixed).await;
    assert!(matches!(&changed[..], [LaneChanged { news: News::Opened { .. }, .. }]), "{changed:?}");
    let (after, beside) = (lane(&app, owed.webhook).await, lane(&app, other.webhook).await);
    assert_eq!((after.failures, after.rate_limited_until), (5, before.rate_limited_until));
    assert_eq!((beside.failures, beside.opened_at), (2, None));

    // Twice in one batch: once.
    let row = other.attempt(&app, ServerError).await;
    record(&pool, &[row.clone(), row]).await;
    assert_eq!(lane(&app, other.webhook).await.failures, 3);

    // A delivery that the ledger does not know says nothing either.
    let unknown = other.attempt_of(DeliveryId(Uuid::new_v4()), ServerError);
    record(&pool, &[unknown]).await;
    assert_eq!(lane(&app, other.webhook).await.failures, 3);
}

#[tokio::test]
async fn a_test_says_nothing_of_a_lane() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    let before = lane(&app, owed.webhook).await;
    let mut rows = owed.attempts(&app, &[ServerError, Accepted]).await;
    for row in &mut rows {
        row.heard = None;
    }
    record(&pool, &rows).await;
    assert_eq!(lane(&app, owed.webhook).await, before);
    // Beside others it keeps nobody from being heard.
    let mut rows = owed.attempts(&app, &[ServerError, TimedOut]).await;
    rows[0].heard = None;
    record(&pool, &rows).await;
    assert_eq!(lane(&app, owed.webhook).await.failures, 1);
}

#[tokio::test]
async fn a_lane_that_is_well_is_written_once_a_minute() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    record(&pool, &owed.attempts(&app, &[Accepted; 3]).await).await;
    let first = lane(&app, owed.webhook).await;
    assert!(first.last_success_at.is_some());
    record(&pool, &owed.attempts(&app, &[Accepted; 3]).await).await;
    assert_eq!(lane(&app, owed.webhook).await, first, "not even a new version of the row");
    execute(&app, "update lanes set last_success_at = last_success_at - interval '61 seconds'").await;
    record(&pool, &owed.attempts(&app, &[Accepted]).await).await;
    let later = lane(&app, owed.webhook).await;
    assert!(later.last_success_at >= first.last_success_at && later.version != first.version);
    // Answers that are no success, and of more than one event: nothing new to write either.
    record(&pool, &owed.attempts(&app, &[Refused; 2]).await).await;
    let refused = lane(&app, owed.webhook).await;
    assert!(refused.failing_many && refused.failures == 0);
    record(&pool, &owed.attempts(&app, &[Refused; 2]).await).await;
    assert_eq!(lane(&app, owed.webhook).await, refused);
}

#[tokio::test]
async fn a_lane_that_is_missing_is_made_and_that_of_a_deleted_webhook_left_alone() {
    let app = App::new().await;
    let (owed, deleted, pool) = (Owed::new(&app).await, Owed::new(&app).await, hot_pool(&app, 1));
    execute(&app, &format!("delete from lanes where webhook_id = '{}'", owed.webhook)).await;
    execute(&app, &format!("update webhooks set deleted_at = now() where id = '{}'", deleted.webhook)).await;
    let before = lane(&app, deleted.webhook).await;
    let rows = [owed.attempts(&app, &[TimedOut; 5]).await, deleted.attempts(&app, &[TimedOut; 5]).await];
    let changed = record(&pool, &rows.concat()).await;
    assert!(matches!(&changed[..], [LaneChanged { news: News::Opened { .. }, .. }]), "{changed:?}");
    let made = lane(&app, owed.webhook).await;
    assert!(made.opened_at.is_some() && made.failures == 5);
    assert_eq!(lane(&app, deleted.webhook).await, before);
    assert_eq!(app.count(OPENED).await, 1);
}

#[tokio::test]
async fn a_rate_limit_is_only_ever_prolonged_and_news_when_it_is_new() {
    let app = App::new().await;
    let (owed, pool) = (Owed::new(&app).await, hot_pool(&app, 1));
    let hold = async |class, wait: u64| {
        let mut row = owed.attempt(&app, class).await;
        heard(&mut row).rate_limited_for = Some(Duration::from_millis(wait));
        let changed = record(&pool, &[row]).await;
        let until = lane(&app, owed.webhook).await.rate_limited_until.expect("rate-limited");
        let told = changed.iter().any(|lane| lane.news == News::RateLimited { until: Some(until) });
        (until, told)
    };
    let before = Utc::now();
    let (first, told) = hold(Throttled, 60_250).await;
    assert!(told && (60_250..62_000).contains(&(first - before).num_milliseconds()), "{first}");
    // Shorter, or hardly longer, is nothing new; a success may ask for it as well.
    assert_eq!(hold(Throttled, 5_000).await, (first, false));
    let (later, told) = hold(Accepted, 60_250).await;
    assert!(later > first && !told, "{later}");
    let (longest, told) = hold(ServerError, 120_000).await;
    assert!(longest > later && told);
    // It ends, and another is new however short it is.
    execute(&app, "update lanes set held_back_until = now() - interval '1 second'").await;
    assert!(hold(Throttled, 100).await.1);
}

/// The statement and the model are two tellings of the same rule.
#[tokio::test]
async fn the_ledger_judges_lanes_as_the_model_does() {
    const BATCHES: usize = 120;
    let app = App::new().await;
    let (pool, mut random) = (hot_pool(&app, 1), fastrand::Rng::with_seed(20_261_124));
    let lanes: Vec<Owed> = join_all((0..3).map(|_| Owed::new(&app))).await;
    let mut models = vec![Breaker::default(); lanes.len()];
    let classes = [Accepted, Refused, ServerError, TimedOut, Unreachable, ServerError, Unreachable];
    for n in 0..BATCHES {
        let mut batch = Vec::new();
        let mut changes = vec![LaneChange::default(); lanes.len()];
        for _ in 0..random.usize(1..12) {
            let which = random.usize(..lanes.len());
            let mut row = lanes[which].attempt(&app, classes[random.usize(..classes.len())]).await;
            let event = random.u8(..4);
            let said = heard(&mut row);
            said.event = EventId(Uuid::from_u128(event.into()));
            said.probe = random.u8(..4) == 0;
            said.share = (random.u8(..16) == 0).then_some(Share { failed: 10, attempts: 20 });
            changes[which].add(&said.clone(), row.outcome);
            batch.push(row);
        }
        let start = Utc::now();
        let changed = record(&pool, &batch).await;
        let took = Utc::now() - start;
        for ((owed, model), change) in lanes.iter().zip(&mut models).zip(&changes) {
            if change.attempts == 0 {
                continue;
            }
            let before = model.clone();
            let transition = model.apply(change, &POLICY, jitter(0.5), start);
            let found = lane(&app, owed.webhook).await;
            let case = format!("batch {n}: {change:#?} on {before:#?}: {model:#?}, not {found:#?}");
            let told =
                changed.iter().find(|lane| lane.webhook.0 == owed.webhook).map(|lane| match &lane.news {
                    News::Opened { .. } => Transition::Opened,
                    News::Closed { .. } => Transition::Closed,
                    News::RateLimited { .. } => panic!("nobody asked for it: {case}"),
                });
            assert_eq!(told, transition, "{case}");
            assert_eq!(
                (found.failures as u32, found.probes as u32),
                (model.failures, model.probes),
                "{case}"
            );
            assert_eq!(
                (found.failing_event.map(EventId), found.failing_many),
                (model.failing_event, model.failing_many),
                "{case}"
            );
            // Instants are the ledger's; a probe's wait has its jitter.
            let near = |mine: Option<DateTime<Utc>>, its: Option<DateTime<Utc>>, least: f64, most: f64| match (
                mine, its,
            ) {
                (None, None) => true,
                (Some(mine), Some(its)) => {
                    let off = (its - mine).as_seconds_f64();
                    (least - 0.001..=most + took.as_seconds_f64()).contains(&off)
                }
                _ => false,
            };
            assert!(near(model.opened_at, found.opened_at, 0.0, 0.0), "{case}");
            assert!(near(model.failing_since, found.failing_since, 0.0, 0.0), "{case}");
            let spread = probe_wait(&POLICY, model.probes, 0.2).as_secs_f64();
            assert!(near(model.next_probe_at, found.next_probe_at, -spread, spread), "{case}");
            // From here on the model goes by the ledger's instants.
            (model.opened_at, model.next_probe_at) = (found.opened_at, found.next_probe_at);
            model.failing_since = found.failing_since;
        }
    }
    assert!(app.count(OPENED).await > 20 && app.count(CLOSED).await > 20, "the batches are worth the while");
}

#[tokio::test]
async fn a_lane_lives_through_an_outage_of_its_receiver() {
    const EVENTS: usize = 4;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("BREAKER_FAILURES", EVENTS).set("PROBE_WAIT_MIN", "200ms");
    receiver.answer((0..EVENTS).map(|_| Answer::status(500)).chain([Answer::ok()]));
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [3, 3, 3]})).await;
    let mut listener = PgListener::connect(&app.database_url).await.expect("connected");
    listener.listen("webhooks_changed").await.expect("listening");
    let service = app.run(&[]).await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", EVENTS as i64)
        .await;
    app.wait_for_count(CLOSED, 1).await;
    // Each has failed once, and been delivered by its second attempt: the outage cost no more.
    assert_eq!(receiver.count(), 2 * EVENTS);

    let rows = known(&app, webhook).await;
    let [opened, closed] = &rows[..] else { panic!("{rows:?}") };
    let reason = "4 attempts in a row failed; the last: the receiver answered 500, a server error";
    assert_eq!((&*opened.kind, opened.reason.as_deref()), ("opened", Some(reason)));
    assert_eq!((&*closed.kind, closed.opened_at), ("closed", Some(opened.at)));
    assert!(opened.failing_since.is_some_and(|since| since <= opened.at));
    assert_eq!(closed.failing_since, opened.failing_since);
    // Every cache was told of both.
    for _ in 0..2 {
        let told = tokio::time::timeout(PATIENCE, listener.recv()).await.expect("told").expect("connected");
        assert_eq!(told.payload(), format!("{company} {webhook}"));
    }
    for change in ["opened", "closed"] {
        let sample = format!("xtwebhooks_deliver_lane_changes_total{{change=\"{change}\"}}");
        assert_eq!(service.metric(&sample).await, 1.0, "{sample}");
    }
    let said = |message: &str| {
        let lines = service.log();
        lines
            .into_iter()
            .find(|line| line["message"] == message)
            .unwrap_or_else(|| panic!("no line says {message}"))
    };
    let line = said("the breaker of a lane opened");
    assert_eq!((&line["webhook"], &line["reason"]), (&json!(webhook), &json!(reason)));
    assert_eq!(said("the breaker of a lane closed")["level"], "INFO");
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_receiver_that_fails_two_times_of_three_opens_its_lane() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_by(|_, n| if n % 3 < 2 { Answer::status(500) } else { Answer::ok() });
    // One at a time, so that no five failures come in a row. The last fails: a batch is judged at its end.
    let more = json!({"retry_schedule": [600], "max_in_flight": 1});
    app.webhook(company, &receiver.url("/"), more).await;
    let service = app.run(&[]).await;
    for n in 0..44 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    let by_share = "select count(*) from lane_transitions
                    where kind = 'opened' and reason like '% attempts within a minute failed; the last: %'";
    eventually("the share has opened it", async || (app.count(by_share).await > 0).then_some(())).await;
    assert_eq!(app.count(OPENED).await, app.count(by_share).await, "never five in a row");
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_test_delivery_that_fails_opens_nothing() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("BREAKER_FAILURES", 1);
    receiver.answer([Answer::status(503).header("Retry-After", "60")]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    let before = lane(&app, webhook).await;
    owe(&app, company, webhook, Utc::now(), "pending").await;
    execute(&app, "update webhook_deliveries set trigger = 'test'").await;
    let service = app.run(&[]).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'dead'", 1).await;
    assert_eq!(service.stop().await, Some(0));
    let after = lane(&app, webhook).await;
    assert_eq!((after.failures, after.opened_at, after.rate_limited_until), (0, None, None));
    assert_eq!((after.failing_since, after.last_success_at), (before.failing_since, before.last_success_at));
}

#[tokio::test]
async fn answers_that_ask_to_wait_hold_their_lanes_back_no_longer_than_allowed() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("RETRY_AFTER_MAX", "1h");
    let used_up = |status| {
        Answer::status(status).header("X-RateLimit-Remaining", "0").header("X-RateLimit-Reset-After", "30.5")
    };
    let discord = r#"{"message": "You are being rate limited.", "retry_after": 64.57, "global": false}"#;
    // Of each: its answer, for how many seconds nothing more is sent, and for how many the delivery waits itself.
    let cases = [
        ("/429", Answer::status(429).header("Retry-After", "90"), Some(90.0), 90.0),
        ("/503", Answer::status(503).header("Retry-After", "90"), Some(90.0), 90.0),
        ("/long", Answer::status(429).header("Retry-After", "86400"), Some(3_600.0), 3_600.0),
        ("/discord", Answer::status(429).header("Retry-After", "65").body(discord), Some(64.57), 64.57),
        ("/used-up", used_up(204), Some(30.5), 0.0),
        ("/used-up-500", used_up(500), Some(30.5), 16.0),
        ("/500", Answer::status(500).header("Retry-After", "90"), None, 16.0),
        ("/zero", Answer::status(429).header("Retry-After", "0"), None, 16.0),
        ("/200", Answer::ok().header("Retry-After", "90").body(discord), None, 0.0),
    ];
    let policy = json!({"retry_schedule": [20, 20]});
    for (path, answer, ..) in &cases {
        receiver.answer_at(path, [answer.clone()]);
        let mut more = policy.clone();
        more["name"] = json!(path);
        app.webhook(company, &receiver.url(path), more).await;
    }
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let done = "select count(*) from webhook_deliveries where attempts = 1";
    app.wait_for_count(done, cases.len() as i64).await;
    for (path, _, held, waits) in &cases {
        let (found, due): (Option<f64>, f64) = sqlx::query_as(
            "select extract(epoch from l.held_back_until - d.attempted_at)::float8,
                    extract(epoch from d.due_at - d.attempted_at)::float8
             from webhooks w
             join lanes l on l.webhook_id = w.id
             join webhook_deliveries d on d.webhook_id = w.id
             where w.name = $1",
        )
        .bind(path)
        .fetch_one(&app.pool)
        .await
        .expect("a row");
        assert_eq!(found.is_some(), held.is_some(), "{path}: {found:?}");
        // The wait counts from the recording, which comes a little after the beginning of the attempt.
        if let (Some(found), Some(held)) = (found, held) {
            assert!((*held..held + 10.0).contains(&found), "{path}: rate-limited for {found} s, not {held}");
        }
        assert!(
            *waits == 0.0 || (*waits..waits + 20.0).contains(&due),
            "{path}: due after {due} s, not {waits}"
        );
    }
    let held = cases.iter().filter(|(_, _, held, _)| held.is_some()).count();
    let sample = "xtwebhooks_deliver_lane_changes_total{change=\"rate_limited\"}";
    assert_eq!(service.metric(sample).await, held as f64);
    assert_eq!(service.stop().await, Some(0));
}
