//! What a released version left behind: its ledger, its queues.

use std::collections::HashMap;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use sqlx::{
    Connection, PgConnection,
    migrate::{Migration, Migrator},
};
use uuid::Uuid;
use xtwebhooks::model::{DeliveryId, EventId, WebhookId};

use super::{app::App, past::execute, receiver::Receiver};

/// A ledger of v0.3.0, as its head says.
const LEDGER: &str = include_str!("../../fixtures/ledger-v0.3.0.sql");

/// The company that most of it is of.
pub const COMPANY: Uuid = Uuid::from_u128(0x7f8a_1b52_6d0c_4a31_9b8e_0000_0000_0001);
/// A key that may do everything in it, and one that may in all companies.
pub const KEY: &str = "xtwh_a1eca8b2_52ss6M6WnArSq_y_MGDG7rZYXnGXzYLX61H7E4QEQDg";
pub const KEY_OF_ALL: &str = "xtwh_002d855c_uF6L9ewVaqhNWK7WoXkaiuZMcapHndh6zhBVw6YMSBg";
/// What an event of it bears: NUL, half a surrogate pair, numbers that no float holds, a name twice, spaces.
pub const ODD_DATA: &str =
    r#"{ "title":"caf\u00e9 \u0000 \ud800",  "n":12345678901234567890.10, "n": 1e400,"text":"ä \u2028"}"#;

/// The last migration that v0.3.0 has.
const LAST_MIGRATION: i64 = 11;

/// The day on which it was dumped, and how far what is in it lies from that day at most.
const DUMPED: NaiveDate = NaiveDate::from_ymd_opt(2026, 11, 26).expect("a day");
const REACH: TimeDelta = TimeDelta::days(10);

/// A world with the ledger that v0.3.0 left yesterday, its receivers being this one. Nothing newer has migrated it.
pub async fn ledger(receiver: &Receiver) -> App {
    let app = App::copy_of("template0").await;
    let all = sqlx::migrate!("./migrations");
    let released = all.iter().filter(|migration| migration.version <= LAST_MIGRATION).cloned();
    let migrator = Migrator::with_migrations(released.collect::<Vec<Migration>>());
    let mut connection = PgConnection::connect(&app.database_url).await.expect("the database answers");
    migrator.run(&mut connection).await.expect("the migrations of v0.3.0 are there");
    connection.close().await.expect("the database answers");
    let yesterday = Utc::now().date_naive() - Days::new(1);
    execute(&app, &format!("select ensure_partitions('{}', 9)", yesterday - Days::new(8))).await;
    let dump = LEDGER.replace("{receiver}", &receiver.address().to_string());
    execute(&app, &moved(&dump, yesterday - DUMPED)).await;
    app
}

/// Moves by whole days what in a dump lies near the day it was made on: dates, with them timestamps, ids that begin with
/// their time, and watermarks, which are microseconds since 1970. The ledger would otherwise be past every retention soon.
/// A delivery's id follows from its event's, and does so afterwards. Bodies keep what they say: they are hexadecimal or have
/// their times in another form.
fn moved(dump: &str, by: TimeDelta) -> String {
    let deliveries = deliveries_moved(dump, by);
    let mut moved = String::with_capacity(dump.len());
    let mut rest = dump;
    while let Some(begin) = rest.find(is_of_word) {
        let (between, from_word) = rest.split_at(begin);
        let (word, after) = from_word.split_at(from_word.find(|c| !is_of_word(c)).unwrap_or(from_word.len()));
        moved += between;
        match deliveries.get(word).cloned().or_else(|| word_moved(word, by)) {
            Some(other) => moved += &other,
            None => moved += word,
        }
        rest = after;
    }
    moved + rest
}

/// The new ids of the deliveries whose id follows from event and webhook, by the old ones. Those of replays do not: only
/// the page of an event looks for them, and finds none.
fn deliveries_moved(dump: &str, by: TimeDelta) -> HashMap<String, String> {
    const TABLE: &str = "webhook_deliveries (id, company_id, webhook_id, event_id, ";
    let rows = dump.split("INSERT INTO ").filter(|rows| rows.starts_with(TABLE));
    let mut moved = HashMap::new();
    for row in rows.flat_map(str::lines).filter_map(|line| line.strip_prefix("\t('")) {
        let mut ids = row.split("', '").map(Uuid::try_parse);
        if let (Some(Ok(id)), Some(Ok(_)), Some(Ok(webhook)), Some(Ok(event))) =
            (ids.next(), ids.next(), ids.next(), ids.next())
            && DeliveryId::derive(EventId(event), WebhookId(webhook)).0 == id
            && let Some(event) = id_moved(event, by)
        {
            moved
                .insert(id.to_string(), DeliveryId::derive(EventId(event), WebhookId(webhook)).0.to_string());
        }
    }
    moved
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-'
}

fn is_near(at: DateTime<Utc>) -> bool {
    (at.date_naive() - DUMPED).abs() < REACH
}

/// An id whose first 48 bits are milliseconds since 1970.
fn id_moved(id: Uuid, by: TimeDelta) -> Option<Uuid> {
    let bits = id.as_u128();
    let at = DateTime::from_timestamp_millis(i64::try_from(bits >> 80).ok()?)?;
    let millis = u128::try_from((at + by).timestamp_millis()).ok()?;
    let has_time = [7, 8].contains(&id.get_version_num()) && is_near(at);
    has_time.then(|| Uuid::from_u128((millis << 80) | (bits & ((1 << 80) - 1))))
}

fn word_moved(word: &str, by: TimeDelta) -> Option<String> {
    match word.len() {
        10 => {
            let day: NaiveDate = word.parse().ok()?;
            ((day - DUMPED).abs() < REACH).then(|| (day + by).to_string())
        }
        16 => {
            let at = DateTime::from_timestamp_micros(word.parse().ok()?)?;
            is_near(at).then(|| (at + by).timestamp_micros().to_string())
        }
        36 => Some(id_moved(Uuid::try_parse(word).ok()?, by)?.to_string()),
        _ => None,
    }
}

#[test]
fn a_dump_is_moved_by_whole_days_and_nothing_else_of_it_changes() {
    let check = |text: &str, expected: &str| assert_eq!(moved(text, TimeDelta::days(400)), expected);
    let days =
        |from: &str| from.replace("2026-11-26", "2027-12-31").replace("01a219df-6300", "01aa25cf-2300");
    for moves in [
        "('2026-11-26 21:30:00.5+00', 'infinity')",
        "'01a219df-6300-8b1e-9c3a-6f2d41a0b7c4', '{\"deliveries\":[\"01a219df-6300-7b1e-9c3a-6f2d41a0b7c4\"]}'",
        "webhook-id: 01a219df-6300-8b1e-9c3a-6f2d41a0b7c4\ncafé 2026-11-26",
    ] {
        check(moves, &days(moves));
    }
    check("(64, 1795730400000000, 7)", "(64, 1830290400000000, 7)");
    for stays in [
        "'1999-01-01', 1695730400000000, 0123456789, abcdefghij",
        // Drawn at random; of another year; in the time of a body.
        "'01a219df-6300-4b1e-9c3a-6f2d41a0b7c4', '018bcfe5-6800-8b1e-9c3a-6f2d41a0b7c4'",
        r#"{"at": "2026-11-26T21:30:00Z"}"#,
        "'\\x323032362d31312d3236'",
    ] {
        check(stays, stays);
    }
}
