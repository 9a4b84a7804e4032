//! The header table of a message, independent of the AMQP library.

use chrono::DateTime;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::model::envelope::{Attributes, Value};

/// AMQP's bound of names, keys, types and ids.
const SHORT_BYTES_MAX: usize = 255;

/// The content type that a message was published with; a header, because what we publish again has no such property.
pub const CONTENT_TYPE_KEPT: &str = "xt-content-type";

/// Named values of a message.
#[derive(Clone, Debug)]
pub struct Headers(Table);

/// The library hands out a received table by reference only, and copying one costs more than everything else done with
/// a message, so it is read in place.
#[derive(Clone, Debug)]
enum Table {
    Own(FieldTable),
    Received(Box<BasicProperties>),
}

/// An entry of `x-death`: RabbitMQ's account of one way in which a message was dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The queue that gave it up.
    pub queue: String,
    /// `rejected`, `expired`, `maxlen` or `delivery_limit`.
    pub reason: String,
    /// How often in this way.
    pub count: u64,
    /// The exchange it had come by.
    pub exchange: String,
    /// The routing keys it had come with.
    pub routing_keys: Vec<String>,
}

impl Headers {
    /// The header's text, if it exists, is a text and is UTF-8.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<&str> {
        text(self.get(name)?)
    }

    /// An integer of any width.
    #[must_use]
    pub fn get_i64(&self, name: &str) -> Option<i64> {
        number(self.get(name)?)
    }

    /// How RabbitMQ has dead-lettered the message so far, the latest first.
    #[must_use]
    pub fn x_death(&self) -> Vec<Death> {
        match self.get("x-death") {
            Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().iter().filter_map(death).collect(),
            _ => Vec::new(),
        }
    }

    /// The attributes of a CloudEvent among the headers.
    #[must_use]
    pub fn cloud_event(&self) -> Attributes<'_> {
        let entries = self.table().into_iter().flat_map(FieldTable::inner);
        Attributes::pick(entries.map(|(name, given)| (name.as_str(), value(given))))
    }

    /// The texts, numbers and times among the headers as a JSON object, for the record; what RabbitMQ added is left
    /// out.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let own = |name: &str| {
            !name.starts_with("x-death")
                && !name.starts_with("x-first-death")
                && !name.starts_with("x-delivery")
        };
        let entries = self.table().into_iter().flat_map(FieldTable::inner);
        let json = |(name, given): (&ShortString, &AMQPValue)| {
            let json = match value(given) {
                Value::Text(text) => text.into(),
                Value::Number(number) => number.into(),
                Value::Time(time) => time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true).into(),
                Value::Other => return None,
            };
            Some((name.to_string(), json))
        };
        serde_json::Value::Object(entries.filter(|(name, _)| own(name.as_str())).filter_map(json).collect())
    }

    /// Sets a text.
    pub fn set_str(&mut self, name: &str, value: &str) -> &mut Self {
        self.set(name, AMQPValue::LongString(value.into()))
    }

    /// Sets a number.
    pub fn set_i64(&mut self, name: &str, value: i64) -> &mut Self {
        self.set(name, AMQPValue::LongLongInt(value))
    }

    /// Whether there is no header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table().is_none_or(|table| table.inner().is_empty())
    }

    pub(super) fn into_table(self) -> FieldTable {
        match self.0 {
            Table::Own(table) => table,
            Table::Received(properties) => properties.headers().clone().unwrap_or_default(),
        }
    }

    pub(super) fn received(properties: BasicProperties) -> Self {
        Self(Table::Received(Box::new(properties)))
    }

    fn table(&self) -> Option<&FieldTable> {
        match &self.0 {
            Table::Own(table) => Some(table),
            Table::Received(properties) => properties.headers().as_ref(),
        }
    }

    fn get(&self, name: &str) -> Option<&AMQPValue> {
        self.table()?.inner().get(name)
    }

    fn set(&mut self, name: &str, value: AMQPValue) -> &mut Self {
        let mut table = std::mem::take(self).into_table();
        table.insert(short(name), value);
        self.0 = Table::Own(table);
        self
    }
}

impl Default for Headers {
    fn default() -> Self {
        Self(Table::Own(FieldTable::default()))
    }
}

/// A short string as AMQP defines it. Longer text is cut: the library would panic on it, and a message must not cause
/// that.
pub(super) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(SHORT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

fn value(given: &AMQPValue) -> Value<'_> {
    if let AMQPValue::Timestamp(seconds) = given {
        let seconds = i64::try_from(*seconds).ok();
        return seconds.and_then(|s| DateTime::from_timestamp(s, 0)).map_or(Value::Other, Value::Time);
    }
    text(given).map(Value::Text).or_else(|| number(given).map(Value::Number)).unwrap_or(Value::Other)
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn number(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        _ => return None,
    })
}

fn death(value: &AMQPValue) -> Option<Death> {
    let AMQPValue::FieldTable(table) = value else { return None };
    let get = |name: &str| table.inner().get(name);
    let owned = |name: &str| Some(text(get(name)?)?.to_owned());
    let routing_keys = match get("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => {
            keys.as_slice().iter().filter_map(text).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    Some(Death {
        queue: owned("queue")?,
        reason: owned("reason")?,
        count: u64::try_from(number(get("count")?)?).ok()?,
        exchange: owned("exchange").unwrap_or_default(),
        routing_keys,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_by_their_meaning_whatever_their_width() {
        let check = |value: AMQPValue, as_text: Option<&str>, as_number: Option<i64>| {
            let mut headers = Headers::default();
            headers.set("name", value.clone());
            assert_eq!(headers.get_str("name"), as_text, "{value:?}");
            assert_eq!(headers.get_i64("name"), as_number, "{value:?}");
        };
        check(AMQPValue::LongString("é".into()), Some("é"), None);
        check(AMQPValue::ShortString("s".into()), Some("s"), None);
        check(AMQPValue::LongString(vec![0xff, 0xfe].into()), None, None);
        check(AMQPValue::LongLongInt(-1), None, Some(-1));
        check(AMQPValue::ShortShortUInt(200), None, Some(200));
        check(AMQPValue::LongUInt(u32::MAX), None, Some(u32::MAX.into()));
        check(AMQPValue::Void, None, None);
        check(AMQPValue::Boolean(true), None, None);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let check =
            |text: String, expected: usize| assert_eq!(short(&text).as_str().len(), expected, "{text}");
        check("a".repeat(255), 255);
        check("a".repeat(256), 255);
        check("é".repeat(200), 254);
        check(String::new(), 0);
    }

    #[test]
    fn a_death_that_cannot_be_read_is_left_out() {
        let entry = |fields: &[(&str, AMQPValue)]| {
            let mut table = FieldTable::default();
            for (name, value) in fields {
                table.insert((*name).into(), value.clone());
            }
            AMQPValue::FieldTable(table)
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut headers = Headers::default();
        let deaths = vec![
            entry(&[
                ("queue", text("q")),
                ("reason", text("delivery_limit")),
                ("count", AMQPValue::LongLongInt(2)),
                ("exchange", text("e")),
                ("routing-keys", AMQPValue::FieldArray(vec![text("b07")].into())),
            ]),
            entry(&[("queue", text("without a reason"))]),
            AMQPValue::Void,
        ];
        headers.set("x-death", AMQPValue::FieldArray(deaths.into()));
        let expected = Death {
            queue: "q".into(),
            reason: "delivery_limit".into(),
            count: 2,
            exchange: "e".into(),
            routing_keys: vec!["b07".into()],
        };
        assert_eq!(headers.x_death(), [expected]);
        assert_eq!(Headers::default().x_death(), []);
    }
}
