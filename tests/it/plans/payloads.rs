//! What prune looks for while it empties days and erases companies: by an index, and in the days where it lies.

use sqlx::{AssertSqlSafe, Executor};
use xtwebhooks::store;

use super::{execute, one, run};
use crate::support::app::App;

/// Days with something in them.
const DAYS: i32 = 5;
/// Deliveries of a day that have ended.
const ENDED: usize = 20_000;
/// Deliveries of a day that are owed, of each kind.
const OWED: usize = 20;

#[tokio::test]
async fn what_a_day_still_owes_is_found_without_going_through_it_or_through_others() {
    let app = App::new().await;
    execute(
        &app,
        &format!("select ensure_partitions((now() at time zone 'UTC')::date - {DAYS}, {DAYS} + 14)"),
    )
    .await;
    let deliveries = |many: usize, from: usize, status: &str, queued: &str| {
        format!(
            "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, queued_at)
             select (left(first_id_of((now() at time zone 'UTC')::date - day)::text, 24) || lpad(({from} + n)::text, 12, '0'))::uuid,
                    lpad('7', 32, '0')::uuid, lpad('8', 32, '0')::uuid,
                    (left(first_id_of((now() at time zone 'UTC')::date - day)::text, 24) || lpad(({from} + n)::text, 12, '0'))::uuid,
                    'ticket.created', 'event', '{status}', {queued}
             from generate_series(1, {DAYS}) day, generate_series(1, {many}) n"
        )
    };
    execute(&app, &deliveries(ENDED, 0, "delivered", "null")).await;
    execute(&app, &deliveries(OWED, ENDED, "pending", "null")).await;
    execute(&app, &deliveries(OWED, 2 * ENDED, "pending", "now()")).await;
    execute(&app, &deliveries(OWED, 3 * ENDED, "held", "null")).await;
    execute(
        &app,
        "insert into events (id, company_id, event_type, message_id, \"timestamp\", data, body_hash, matched, matched_as_of,
                             fanned_out)
         select event_id, company_id, event_type, id, 0, '{}', 0, 1, now(), true
         from webhook_deliveries;
         insert into webhook_delivery_attempts (delivery_id, number, attempted_at, outcome)
         select id, 1, now(), 'accepted' from webhook_deliveries",
    )
    .await;
    execute(&app, "vacuum analyze").await;

    let config = store::Config { database_url: app.database_url.clone().into(), database_listen_url: None };
    let pool = store::pool(&config, "plans", 1).expect("the URL is one");
    let mut connection = pool.acquire().await.expect("the database answers");
    let first = "first_id_of((now() at time zone 'UTC')::date - 3)";
    let end = "first_id_of((now() at time zone 'UTC')::date - 2)";
    let day = one(&app, "select to_char((now() at time zone 'UTC')::date - 3, 'YYYYMMDD')").await;
    let (first, end) =
        (one(&app, &format!("select {first}::text")).await, one(&app, &format!("select {end}::text")).await);
    let (first, end) = (format!("'{first}'"), format!("'{end}'"));
    let ids = one(
        &app,
        &format!("select array_agg(id)::text from webhook_deliveries where id >= {first} and id < {end} and status = 'held'"),
    )
    .await;
    let least = format!("(select min(id::text)::uuid from unnest('{ids}'::uuid[]) id)");
    let most = format!("(select max(id::text)::uuid from unnest('{ids}'::uuid[]) id)");
    let (least, most) =
        (one(&app, &format!("select {least}::text")).await, one(&app, &format!("select {most}::text")).await);
    let by_ids = format!("'{ids}', '{least}', '{most}'");
    for mode in ["force_custom_plan", "force_generic_plan"] {
        connection.execute(AssertSqlSafe(format!("set plan_cache_mode = {mode}"))).await.expect("set");
        for (name, arguments) in [
            ("partitions.expire", format!("{first}, {end}, 1000")),
            ("payloads.owe", format!("{first}, {end}, 10000")),
            ("payloads.open", by_ids.clone()),
            ("payloads.settle_deliveries", by_ids.clone()),
            ("payloads.settle_attempts", by_ids.clone()),
            ("payloads.settle_events", by_ids.clone()),
            ("erasures.delete_events", by_ids.clone()),
        ] {
            let done = run(&mut connection, name, &arguments).await;
            let case = format!("{name} by {mode}: {done:#?}");
            assert!(done.partitions.iter().all(|partition| partition.ends_with(&day)), "{case}");
            assert!(done.rows >= OWED as f64, "{case}");
            // Its own scans, and those of what it finds.
            assert!(done.rows <= 20.0 * OWED as f64, "{case}");
        }
    }
}
