//! What a page of a history costs, on 200,000 deliveries of thirty days: which indexes and partitions it touches, and how
//! many entries it reads there. PostgreSQL counts both, whatever plan it chose.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgPool, Row};
use uuid::Uuid;
use xtwebhooks::{
    model::{CompanyId, id::time_of},
    store::{self, history, search},
};

use super::execute;
use crate::support::app::App;

const ROWS_A_DAY: i64 = 6_667;
const PAGE: i64 = 50;

/// The ids of `benches/history/ledger.sql`.
const BIG: (u128, u128) = (0xc1, 0xa1);
const MANY: u128 = 0xc2;
const FEW: u128 = 0xc3;

/// What was done with deliveries: entries read, by index and by day, and scans of whole tables.
#[derive(Debug, Default, PartialEq, Eq)]
struct Touched {
    walked: BTreeMap<String, i64>,
    fetched: BTreeMap<String, i64>,
    others: Vec<String>,
    whole: i64,
}

struct Readers<'a> {
    app: &'a App,
    pool: PgPool,
}

impl Readers<'_> {
    async fn counters(&self) -> BTreeMap<String, i64> {
        sqlx::query("select pg_stat_force_next_flush()").execute(&self.pool).await.expect("told");
        sqlx::query("select 1").execute(&self.pool).await.expect("flushed");
        let rows = sqlx::query(
            "select indexrelname::text, idx_scan, idx_tup_read from pg_stat_user_indexes
             where relname ~ '^webhook_deliveries_[0-9]'
             union all
             -- A day with nothing in it is looked at whole, and costs nothing.
             select 'whole', sum(seq_scan)::bigint, 0 from pg_stat_user_tables
             where relname ~ '^webhook_deliveries_[0-9]' and n_live_tup > 0",
        )
        .fetch_all(&self.app.pool)
        .await
        .expect("counted");
        let counted = |row: &sqlx::postgres::PgRow| {
            let (name, scans, entries): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
            [(format!("{name} scans"), scans), (format!("{name} entries"), entries)]
        };
        rows.iter().flat_map(counted).collect()
    }

    /// What a page touched.
    async fn of<T>(&self, page: impl Future<Output = T>) -> (T, Touched) {
        let before = self.counters().await;
        let found = page.await;
        let after = self.counters().await;
        let mut touched = Touched::default();
        for (name, value) in after {
            let more = value - before.get(&name).copied().unwrap_or(0);
            let (index, what) = name.rsplit_once(' ').expect("two words");
            let day = index.trim_start_matches("webhook_deliveries_").get(..8).unwrap_or_default().to_owned();
            match (index, what) {
                ("whole", "scans") => touched.whole = more,
                _ if more == 0 => {}
                _ if what == "scans" && index.ends_with("_webhook_id_id_idx") => {
                    touched.walked.entry(day).or_default();
                }
                _ if what == "entries" && index.ends_with("_webhook_id_id_idx") => {
                    *touched.walked.entry(day).or_default() += more;
                }
                _ if index.ends_with("_pkey") => {
                    *touched.fetched.entry(day).or_default() += if what == "entries" { more } else { 0 }
                }
                _ => touched.others.push(index.to_owned()),
            }
        }
        (found, touched)
    }
}

fn day(time: DateTime<Utc>) -> String {
    time.format("%Y%m%d").to_string()
}

#[tokio::test]
async fn a_page_of_a_history_touches_the_days_it_lies_in_and_one_index_there() {
    let app = App::new().await;
    execute(&app, include_str!("../../../benches/history/ledger.sql")).await;
    sqlx::raw_sql(AssertSqlSafe(format!("call make_history(30, {ROWS_A_DAY})")))
        .execute(&app.pool)
        .await
        .expect("200,000 rows");
    execute(&app, "vacuum analyze").await;
    let config = store::Config { database_url: app.database_url.clone().into(), database_listen_url: None };
    let pool = store::reading_pool(&config, "plans", 1).expect("the URL is one");
    let readers = Readers { app: &app, pool: pool.clone() };
    let now = Utc::now();
    let company = |id: u128| CompanyId(Uuid::from_u128(id));
    let of_big = search::Deliveries { webhooks: Some(vec![Uuid::from_u128(BIG.1)]), ..Default::default() };

    // The 950th page begins behind the 47,450th row, in the middle of a day.
    let deep: Uuid = sqlx::query_scalar(
        "select id from webhook_deliveries where webhook_id = lpad('a1', 32, '0')::uuid order by id desc offset 47449 limit 1",
    )
    .fetch_one(&app.pool)
    .await
    .expect("there are so many");
    for before in [None, Some(deep)] {
        let (found, touched) = readers
            .of(async {
                let found = search::deliveries(&pool, company(BIG.0), &of_big, before, PAGE, now)
                    .await
                    .expect("found");
                let rows = history::by_ids(&pool, company(BIG.0), true, &found.ids).await.expect("read");
                assert_eq!(rows.iter().map(|row| row.id.uuid()).collect::<Vec<_>>(), found.ids);
                found
            })
            .await;
        assert_eq!((found.ids.len(), found.next), (50, found.ids.last().copied()));
        let days: Vec<String> = {
            let mut days: Vec<_> = found.ids.iter().map(|id| day(time_of(*id))).collect();
            days.dedup();
            days
        };
        let case = format!("behind {before:?}, on {days:?}: {touched:#?}");
        assert_eq!(touched.whole, 0, "{case}");
        assert_eq!(touched.others, Vec::<String>::new(), "{case}");
        assert!(touched.fetched.keys().all(|day| days.contains(day)), "{case}");
        // Tomorrow is looked into as well, for clocks that are fast.
        assert!(touched.walked.iter().all(|(day, &entries)| days.contains(day) || entries == 0), "{case}");
        assert!((51..=60).contains(&touched.walked.values().sum::<i64>()), "{case}");
        // The rows of the page, and the ends of the days' indexes, which the planner looks at.
        assert!(touched.fetched.values().sum::<i64>() <= 60, "{case}");
    }

    // A company's list costs what its webhooks' do, and a thousand of them a short span of time.
    for (of, entries_max) in [(FEW, 10 * 52), (MANY, 2_000)] {
        let wanted = search::Deliveries::default();
        let page = search::deliveries(&pool, company(of), &wanted, Some(deep), PAGE, now);
        let (found, touched) = readers.of(async { page.await.expect("found") }).await;
        assert_eq!(found.ids.len(), 50);
        let last = time_of(*found.ids.last().expect("fifty"));
        let case = format!("{of:x} down to {last}: {touched:#?}");
        assert_eq!(touched.whole, 0, "{case}");
        let entries = touched.walked.values().chain(touched.fetched.values()).sum::<i64>();
        assert!(entries <= entries_max, "{case}");
        assert!(touched.walked.len() <= 3, "{case}");
    }

    // What is nowhere is looked for through so many rows and no more, and goes on from there.
    let rare = search::Deliveries { response_statuses: Some(vec![599]), ..of_big.clone() };
    let page = search::deliveries(&pool, company(BIG.0), &rare, None, PAGE, now);
    let (found, touched) = readers.of(async { page.await.expect("found") }).await;
    let read = touched.walked.values().sum::<i64>();
    assert!(found.ids.is_empty() && found.next.is_some(), "{found:?}");
    assert!((search::LOOKED_AT_MAX..2 * search::LOOKED_AT_MAX).contains(&read), "{touched:#?}");
    assert_eq!(touched.whole, 0, "{touched:#?}");
}
