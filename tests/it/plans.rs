//! The plans of the hot statements, on thirty days of partitions: row by row, and only where the rows are.
//!
//! The statements are the texts that the program sends, from `.sqlx`; the session is the one that its hot pool makes;
//! the plan is the generic one, which a connection keeps. It must be right whatever the statistics say: none yet, or
//! those of a time when nothing waited.

mod history;
mod payloads;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use xtwebhooks::store;

use crate::support::app::App;

/// Days with something in them, today the last.
const DAYS: i32 = 30;
/// Events a day, each with one delivery.
const ROWS_A_DAY: i32 = 100;
/// Deliveries that wait in the ledger when there are many.
const BACKLOG: usize = 5_000;
/// Rows of a batch.
const BATCH: usize = 200;
/// Deliveries of each event of a batch that is taken in.
const FAN_OUT: usize = 5;
const WEBHOOKS: usize = 20;
/// Jobs that schedule makes for each webhook.
const ROOM: usize = 8;

/// What a plan did.
#[derive(Debug, Default)]
struct Done {
    /// Kinds of nodes that ran.
    nodes: BTreeSet<String>,
    /// Partitions that were looked into.
    partitions: BTreeSet<String>,
    /// Partitions that were gone through from end to end.
    whole: BTreeSet<String>,
    /// Rows that all scans together met, those of the batch among them.
    rows: f64,
}

impl Done {
    fn read(&mut self, node: &Value) {
        let number = |name: &str| node[name].as_f64().unwrap_or_default();
        let loops = number("Actual Loops");
        // What pruning took away before or while it ran is listed, but was never executed.
        if loops == 0.0 {
            return;
        }
        let kind = node["Node Type"].as_str().expect("every node has a kind");
        self.nodes.insert(kind.to_owned());
        if kind.ends_with("Scan") {
            let met = number("Actual Rows") + number("Rows Removed by Filter");
            self.rows += loops * met;
        }
        let relation =
            node["Relation Name"].as_str().filter(|name| name.ends_with(|c: char| c.is_ascii_digit()));
        if let Some(partition) = relation.filter(|_| kind.ends_with("Scan")) {
            self.partitions.insert(partition.to_owned());
            if node["Index Cond"].is_null() && kind != "Bitmap Heap Scan" {
                self.whole.insert(partition.to_owned());
            }
        }
        node["Plans"].as_array().into_iter().flatten().for_each(|inner| self.read(inner));
    }
}

/// The statement whose text begins so, with the types of its parameters as PostgreSQL writes them.
pub fn statement(name: &str) -> (String, String) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx");
    let first_line = format!("-- {name}");
    let all = std::fs::read_dir(folder).expect("the committed queries are there");
    let mut found = all.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.expect("it can be listed").path()).expect("it can be read");
        let json: Value = serde_json::from_str(&text).expect("it is JSON");
        let query = json["query"].as_str().expect("it has a text").trim().to_owned();
        (query.lines().next() == Some(&first_line))
            .then(|| (query, json["describe"]["parameters"]["Left"].clone()))
    });
    let (query, types) = found.next().unwrap_or_else(|| panic!("no statement begins with {first_line}"));
    let types = types.as_array().expect("a list").iter().map(|name| {
        let name = name.as_str().expect("a name");
        match name.strip_suffix("Array") {
            Some(element) => format!("{element}[]"),
            None => name.to_owned(),
        }
    });
    (query, types.collect::<Vec<_>>().join(", "))
}

async fn one(app: &App, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&app.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn execute(app: &App, sql: &str) {
    app.pool.execute(AssertSqlSafe(sql)).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Partitions with settled rows. Statistics are made when the test says so.
async fn fill(app: &App) {
    execute(
        app,
        &format!("select ensure_partitions((now() at time zone 'UTC')::date - {}, {})", DAYS - 1, DAYS + 14),
    )
    .await;
    execute(
        app,
        "do $$ declare name regclass; begin
            for name in select inhrelid from pg_inherits where inhrelid::regclass::text ~ '^(events|webhook_del)' and
                exists (select from pg_class where oid = inhrelid and relkind = 'r') loop
                execute format('alter table %s set (autovacuum_enabled = false)', name);
            end loop; end $$",
    )
    .await;
    execute(
        app,
        &format!(
            "insert into webhooks (id, company_id, name, url, events, secret)
             select lpad(n::text, 32, '0')::uuid, lpad('7', 32, '0')::uuid, n::text, 'http://x.test/', '{{*}}', 's'
             from generate_series(1, {WEBHOOKS}) n"
        ),
    )
    .await;
    execute(
        app,
        &format!(
            "insert into events (id, company_id, event_type, message_id, \"timestamp\", data, body_hash, matched,
                                 matched_as_of, fanned_out)
             select (left(first_id_of((now() at time zone 'UTC')::date - day)::text, 24) || lpad(n::text, 12, '0'))::uuid,
                    lpad('7', 32, '0')::uuid, 'ticket.created', day || '-' || n, 0, '{{}}', 0, 1, now(), true
             from generate_series(0, {DAYS} - 1) day, generate_series(1, {ROWS_A_DAY}) n"
        ),
    )
    .await;
    execute(
        app,
        &format!(
            "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status)
             select id, company_id, lpad((row_number() over () % {WEBHOOKS} + 1)::text, 32, '0')::uuid, id, event_type,
                    'event', 'delivered'
             from events"
        ),
    )
    .await;
}

/// Deliveries of today that wait for schedule.
async fn fall_behind(app: &App, deliveries: usize) {
    execute(
        app,
        &format!(
            "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status)
             select (left(first_id_of((now() at time zone 'UTC')::date)::text, 24) || lpad((1000000 + n)::text, 12, '0'))::uuid,
                    lpad('7', 32, '0')::uuid, lpad((n % {WEBHOOKS} + 1)::text, 32, '0')::uuid,
                    (left(first_id_of((now() at time zone 'UTC')::date)::text, 24) || lpad((n % {ROWS_A_DAY} + 1)::text, 12, '0'))::uuid,
                    'ticket.created', 'event', 'pending'
             from generate_series(1, {deliveries}) n"
        ),
    )
    .await;
}

/// What stands for the parameters of each statement.
async fn arguments(app: &App) -> BTreeMap<&'static str, String> {
    let fill = |value: &str, count: usize| format!("array_fill({value}, array[{count}])");
    let quoted = |ids: String| format!("'{ids}'");
    let pending = "select array_agg(id)::text
        from (select id from webhook_deliveries where status = 'pending' order by id limit 200) d";
    let pending = quoted(one(app, pending).await);
    let webhooks = quoted(one(app, "select array_agg(id order by id)::text from webhooks").await);
    let of_today = |from: &str| {
        format!(
            "select array_agg((left(first_id_of((now() at time zone 'UTC')::date)::text, 24)
                    || lpad((2000000 + n)::text, 12, '0'))::uuid order by i)::text
             from {from}"
        )
    };
    let new = one(app, &of_today(&format!("generate_series(1, {BATCH}) i, lateral (select i as n) x"))).await;
    let (new, owed) = (quoted(new), BATCH * FAN_OUT);
    let of_new =
        of_today(&format!("generate_series(0, {owed} - 1) i, lateral (select i / {FAN_OUT} + 1 as n) x"));
    let of_new = quoted(one(app, &of_new).await);
    let deliveries =
        one(app, &of_today(&format!("generate_series(1, {owed}) i, lateral (select i as n) x"))).await;
    let deliveries = quoted(deliveries);
    let low = one(app, "select quote_literal(first_id_of((now() at time zone 'UTC')::date - 2))").await;

    let beginning = fill("'1970-01-01'::timestamptz", WEBHOOKS);

    let texts = |count| fill("null::text", count);
    let numbers = |count| fill("null::integer", count);
    let company = |count| fill("lpad('7', 32, '0')::uuid", count);
    let record = [
        &[pending.clone(), fill("1", BATCH), fill("'pending'::text", BATCH), texts(BATCH)][..],
        &[
            fill("1.0::double precision", BATCH),
            fill("true", BATCH),
            fill("now()", BATCH),
            fill("'refused'::text", BATCH),
        ],
        &vec![texts(BATCH); 4],
        &[numbers(BATCH), texts(BATCH), texts(BATCH), fill("false", BATCH), fill("false", BATCH)],
        &vec![numbers(BATCH); 5],
        &["'{}'".to_owned(), "'{}'".to_owned()],
        // Every lane of the batch has failures: the longest way.
        &[webhooks.clone(), fill(&(BATCH / WEBHOOKS).to_string(), WEBHOOKS), fill("false", WEBHOOKS)],
        &[fill("1", WEBHOOKS), webhooks.clone(), fill("false", WEBHOOKS), texts(WEBHOOKS)],
        &[fill("'refused'::text", WEBHOOKS), fill("false", WEBHOOKS), fill("false", WEBHOOKS)],
        &vec![fill("1.0::double precision", WEBHOOKS); 2],
        &["1", "array[5.0, 10.0]", "2", "60.0", "1.0", "400", "'closed'", "-1"].map(ToOwned::to_owned),
    ];
    let batch = [
        &[new, company(BATCH), fill("'t'::text", BATCH), fill("'m'::text", BATCH), fill("0::bigint", BATCH)]
            [..],
        &[fill("'{}'::text", BATCH), fill("0::bigint", BATCH), texts(BATCH), fill("5", BATCH)],
        &[fill("now()", BATCH), fill("true", BATCH), deliveries, company(owed), company(owed), of_new],
        &[fill("'t'::text", owed), fill("'pending'::text", owed), texts(owed), fill("true", owed)],
        // What schemas complain of, and the writer of the counts.
        &[texts(BATCH), "1".to_owned()],
    ];
    BTreeMap::from([
        (
            "deliveries.claim",
            [
                pending,
                fill("1", BATCH),
                fill("40.0::double precision", BATCH),
                "gen_random_uuid()".to_owned(),
            ]
            .join(", "),
        ),
        ("deliveries.record_attempts", record.concat().join(", ")),
        (
            "schedule.take",
            [webhooks.clone(), fill(&format!("{ROOM}::bigint"), WEBHOOKS), low.clone(), beginning.clone()]
                .join(", "),
        ),
        ("schedule.standing", [webhooks, low.clone(), beginning].join(", ")),
        (
            "schedule.waiting_webhooks",
            [low.clone(), "lpad('', 32, '0')::uuid".to_owned(), "500".to_owned()].join(", "),
        ),
        (
            "schedule.rescue",
            [
                low.clone(),
                "now()".to_owned(),
                "array[now()]".to_owned(),
                BATCH.to_string(),
                "'epoch'".to_owned(),
            ]
            .join(", "),
        ),
        ("schedule.oldest_queued", [low.clone(), "'epoch'".to_owned()].join(", ")),
        ("schedule.became_due", [low, "'epoch'".to_owned(), BATCH.to_string()].join(", ")),
        ("ingest.batch", batch.concat().join(", ")),
    ])
}

/// Runs a prepared statement as the hot pool would, undoes it, and says what it did.
async fn run(connection: &mut PgConnection, name: &str, arguments: &str) -> Done {
    let (query, types) = statement(name);
    for sql in ["begin".to_owned(), format!("prepare hot ({types}) as {query}")] {
        connection.execute(AssertSqlSafe(sql)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let explain = format!("explain (analyze, timing off, format json) execute hot ({arguments})");
    let row = sqlx::raw_sql(AssertSqlSafe(explain))
        .fetch_one(&mut *connection)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let plan: Value = row.try_get(0).expect("a plan");
    connection.execute("rollback; deallocate hot").await.expect("undone");
    let mut done = Done::default();
    done.read(&plan[0]["Plan"]);
    done
}

#[tokio::test]
async fn hot_statements_go_row_by_row_whatever_the_statistics_say() {
    let app = App::new().await;
    fill(&app).await;
    let config = store::Config { database_url: app.database_url.clone().into(), database_listen_url: None };
    let pool = store::hot_pool(&config, "plans", 1).expect("the URL is one");
    let mut connection = pool.acquire().await.expect("the database answers");
    connection.execute("set plan_cache_mode = force_generic_plan").await.expect("set");

    // What each may look into, and how many rows its scans may meet, and must, for its batch.
    let day = one(&app, "select to_char(now() at time zone 'UTC', 'YYYYMMDD')").await;
    let low = one(&app, "select to_char((now() at time zone 'UTC') - interval '2 days', 'YYYYMMDD')").await;
    let queued = WEBHOOKS * ROOM;
    let rows: [(&str, &str, usize, usize); 9] = [
        ("deliveries.claim", &day, 8 * BATCH, BATCH),
        // Of each lane it counts what of the batch was recorded.
        ("deliveries.record_attempts", &day, 9 * BATCH + WEBHOOKS * (BATCH + 20), BATCH),
        ("schedule.take", &low, 4 * queued, queued),
        // A webhook, its lane, and the first of what waits; of its resumes none.
        ("schedule.standing", &low, 6 * WEBHOOKS, 4 * WEBHOOKS),
        ("schedule.waiting_webhooks", &low, 6 * WEBHOOKS, WEBHOOKS),
        ("schedule.rescue", &low, 4 * BATCH, 0),
        ("schedule.oldest_queued", &low, 1, 0),
        // All that wait were due at the same instant, so all are met; twice counted and once grouped.
        ("schedule.became_due", &low, 4 * BACKLOG, BATCH),
        // What was inserted is counted besides.
        ("ingest.batch", &day, 3 * BATCH + 2 * BATCH * FAN_OUT, BATCH),
    ];
    for (statistics, waiting) in [
        ("none", BACKLOG),
        ("of a time when all was settled", BACKLOG),
        ("of a time when all was settled", BATCH),
        ("of now", BATCH),
        ("of now", BACKLOG),
    ] {
        execute(&app, "delete from webhook_deliveries where status = 'pending'").await;
        match statistics {
            "none" => fall_behind(&app, waiting).await,
            "of now" => {
                fall_behind(&app, waiting).await;
                execute(&app, "vacuum analyze").await;
            }
            _ => {
                execute(&app, "vacuum analyze").await;
                fall_behind(&app, waiting).await;
            }
        }
        let arguments = arguments(&app).await;
        for (name, first_day, rows_max, rows_min) in rows {
            let done = run(&mut connection, name, &arguments[name]).await;
            let case = format!("{name} with {waiting} waiting, statistics: {statistics}: {done:#?}");
            for unwanted in ["Hash Join", "Merge Join", "Materialize", "Seq Scan"] {
                assert!(!done.nodes.contains(unwanted), "{unwanted} in {case}");
            }
            assert!(done.whole.is_empty(), "whole partitions were gone through by {case}");
            let early = |partition: &String| partition.rsplit('_').next().is_some_and(|day| day < first_day);
            assert!(!done.partitions.iter().any(early), "days before {first_day} were looked into by {case}");
            assert!(done.rows <= rows_max as f64, "more than {rows_max} rows were met by {case}");
            assert!(done.rows >= rows_min as f64, "the batch itself was met by {case}");
            // Which would gather all that waits for the first of it.
            assert!(
                !name.starts_with("schedule.") || !done.nodes.contains("Bitmap Heap Scan"),
                "gathered by {case}"
            );
        }
    }
}
