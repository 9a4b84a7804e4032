//! The messages, and the one end that each is expected to have.

use lapin::BasicProperties;
use uuid::Uuid;

/// What stands for the row's own company, in bodies, properties and expectations.
pub const COMPANY: &str = "COMPANY";
/// What stands for the time of the test, in seconds since 1970.
pub const NOW: &str = "NOW";
/// What stands for the second of intake.
pub const INTAKE: &str = "INTAKE";

pub struct Row {
    pub name: &'static str,
    pub routing_key: &'static str,
    pub body: Vec<u8>,
    pub headers: Vec<(&'static str, String)>,
    pub properties: BasicProperties,
    pub expected: Expected,
}

pub enum Expected {
    /// A dead letter: the field to blame, what is wrong with it, and whether it can be told whose message it is.
    Dead(&'static str, String, bool),
    /// Delivered, with this body.
    Delivered(String),
}

fn row(name: &'static str, body: impl Into<Vec<u8>>, expected: Expected) -> Row {
    let (headers, properties) = (Vec::new(), BasicProperties::default());
    Row { name, routing_key: "ticket.created", body: body.into(), headers, properties, expected }
}

impl Row {
    fn by(self, routing_key: &'static str) -> Self {
        Self { routing_key, ..self }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn property(mut self, set: impl FnOnce(BasicProperties) -> BasicProperties) -> Self {
        self.properties = set(self.properties);
        self
    }
}

fn dead(field: &'static str, reason: impl Into<String>) -> Expected {
    Expected::Dead(field, reason.into(), true)
}

/// A dead letter of no company: what says whose it is cannot be read.
fn nobodys(field: &'static str, reason: impl Into<String>) -> Expected {
    Expected::Dead(field, reason.into(), false)
}

fn delivered(event_type: &str, data: &str, timestamp: &str) -> Expected {
    Expected::Delivered(format!(
        r#"{{"event_type":"{event_type}","data":{data},"company_id":"{COMPANY}","timestamp":{timestamp}}}"#
    ))
}

/// A good message but for one field, which is as given; left out where it is empty.
fn with(field: &str, json: &str) -> String {
    let good = [
        ("event_type", r#""ticket.created""#),
        ("data", "{}"),
        ("company_id", r#""COMPANY""#),
        ("timestamp", NOW),
    ];
    let others = good.into_iter().filter(|(name, _)| *name != field);
    let given = (!json.is_empty()).then_some((field, json));
    let fields: Vec<String> =
        others.chain(given).map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!("{{{}}}", fields.join(","))
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

pub fn bodies() -> Vec<Row> {
    let large = with("data", &format!("\"{}\"", "a".repeat(300 * 1024)));
    // The company takes 36 bytes and the time 10 where their placeholders stand.
    let bytes = large.len() + 36 - COMPANY.len() + 10 - NOW.len();
    let too_large = format!("has {bytes} bytes, more than EVENT_BYTES_MAX allows (262144)");
    let mut surrogate = with("data", "\"").into_bytes();
    surrogate.splice(surrogate.len() - 1.., *b"\xed\xa0\x80\"}");
    let at = String::from_utf8_lossy(&surrogate).find('\u{fffd}').expect("it is there") + 36 - 7 + 10 - 3;
    let twice = r#"{"event_type":"ticket.created","data":1,"company_id":"COMPANY","data":2}"#;
    vec![
        row("empty", "", nobodys("body", "is empty")),
        row("not UTF-8", b"\xff\xfe{}", nobodys("body", "is not valid UTF-8 at byte 0")),
        row("a surrogate in UTF-8", surrogate, nobodys("body", format!("is not valid UTF-8 at byte {at}"))),
        row("not JSON", "hello", nobodys("body", "is not JSON: expected value at line 1 column 1")),
        row(
            "half a message",
            "{\"data\":{}",
            nobodys("body", "is not JSON: EOF while parsing an object at line 1 column 10"),
        ),
        row("two messages", "{}{}", nobodys("body", "is not JSON: trailing characters at line 1 column 3")),
        row(
            "a byte order mark",
            "\u{feff}{}",
            nobodys("body", "is not JSON: expected value at line 1 column 1"),
        ),
        row(
            "a bare NUL",
            "{\"data\":\"\0\"}",
            nobodys(
                "body",
                "is not JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 9",
            ),
        ),
        row("a list", "[]", nobodys("body", "is not a JSON object")),
        row("nothing but nesting of 100,000", nested(100_000), nobodys("body", "is not a JSON object")),
        row("300 KiB", large, dead("body", too_large)),
        row(
            "nesting of 100,000",
            with("data", &nested(100_000)),
            dead("data", "nests deeper than 256 levels"),
        ),
        row("nesting of 256", with("data", &nested(256)), delivered("ticket.created", &nested(256), NOW)),
        row(
            "nesting of 100,000 elsewhere",
            with("extra", &nested(100_000)),
            delivered("ticket.created", "{}", NOW),
        ),
        row("duplicate keys", twice, nobodys("data", "appears twice in the body")),
        row(
            "duplicate keys in data",
            with("data", r#"{"a":1,"a":2}"#),
            delivered("ticket.created", r#"{"a":1,"a":2}"#, NOW),
        ),
        row("duplicate unknown keys", with("x\":1,\"x", "2"), delivered("ticket.created", "{}", NOW)),
        row(
            "lone surrogates in data",
            with("data", r#""\ud800 \udc00\ud800\ud800""#),
            delivered("ticket.created", r#""\ud800 \udc00\ud800\ud800""#, NOW),
        ),
        row(
            "lone surrogates as a key",
            with("data", r#"{"\udfff":"\ud83d"}"#),
            delivered("ticket.created", r#"{"\udfff":"\ud83d"}"#, NOW),
        ),
        row(
            "a lone surrogate in the type",
            with("event_type", r#""\ud800""#),
            dead("event_type", "is not a valid Unicode string"),
        ),
        row(
            "a lone surrogate in the id",
            with("event_id", r#""\udc00""#),
            dead("event_id", "is not a valid Unicode string"),
        ),
        row(
            "an escaped NUL in data",
            with("data", r#""\u0000""#),
            delivered("ticket.created", r#""\u0000""#, NOW),
        ),
        row(
            "an escaped NUL in the id",
            with("event_id", r#""a\u0000""#),
            dead("event_id", "contains control characters"),
        ),
        row(
            "an id of 256 bytes",
            with("event_id", &format!("\"{}\"", "i".repeat(256))),
            dead("event_id", "is longer than 255 bytes"),
        ),
        row("a number beyond all types", with("data", "-1e999"), delivered("ticket.created", "-1e999", NOW)),
    ]
}

pub fn fields() -> Vec<Row> {
    let key = "may contain only letters, digits and . _ - : / and must start with a letter or digit";
    let missing = format!("is missing, and the routing key {key}");
    vec![
        row("no data", with("data", ""), dead("data", "is missing")),
        row("data of null", with("data", "null"), delivered("ticket.created", "null", NOW)),
        row(
            "a type that is a number",
            with("event_type", "7"),
            dead("event_type", "must be a string, not a number"),
        ),
        row("a type of two words", with("event_type", r#""a b""#), dead("event_type", key)),
        row(
            "a company that is an object",
            with("company_id", "{}"),
            nobodys("company_id", "must be a string, not an object"),
        ),
        row(
            "an id that is a list",
            with("event_id", "[]"),
            dead("event_id", "must be a string, not an array"),
        ),
        row(
            "no company",
            with("company_id", ""),
            nobodys("company_id", "is missing from both the body and the headers"),
        ),
        row("a company in the header", with("company_id", ""), delivered("ticket.created", "{}", NOW))
            .header("company_id", COMPANY),
        row(
            "a company that is no UUID",
            with("company_id", r#""acme""#),
            nobodys("company_id", "is not a UUID"),
        )
        .header("company_id", COMPANY),
        row(
            "a company in the header that is no UUID",
            with("company_id", ""),
            nobodys("company_id", "is missing, and the header `company_id` is not a UUID"),
        )
        .header("company_id", "acme"),
        row(
            "type missing but in the routing key",
            with("event_type", ""),
            delivered("asset.updated", "{}", NOW),
        )
        .by("asset.updated"),
        row(
            "type missing, the routing key none",
            with("event_type", ""),
            dead("event_type", missing.clone()),
        )
        .by("asset updated"),
        row("type missing, a NUL in the routing key", with("event_type", ""), dead("event_type", missing))
            .by("asset\0updated"),
        row(
            "unknown type",
            with("event_type", r#""never.heard.of""#),
            delivered("never.heard.of", "{}", NOW),
        )
        .by("never.heard.of"),
        row(
            "a routing key that disagrees",
            with("event_type", r#""user.created""#),
            delivered("user.created", "{}", NOW),
        )
        .by("asset.updated"),
        row("a header that disagrees", with("data", "1"), delivered("ticket.created", "1", NOW))
            .header("company_id", Uuid::nil()),
        row("a header that is no UUID", with("data", "2"), delivered("ticket.created", "2", NOW))
            .header("company_id", "acme"),
        row("an AMQP time that disagrees", with("data", "3"), delivered("ticket.created", "3", NOW))
            .property(|p| p.with_timestamp(7)),
        row(
            "an AMQP id that disagrees",
            with("event_id", r#""the body's""#),
            delivered("ticket.created", "{}", NOW),
        )
        .property(|p| p.with_message_id("the message's".into())),
        row("what looks like ours", with("data", ""), dead("data", "is missing"))
            .header("xt-reason", "none")
            .property(|p| p.with_type("xtwebhooks.job.v1".into())),
    ]
}

pub fn times() -> Vec<Row> {
    let out_of_range = || dead("timestamp", "is out of range for a time in seconds since 1970");
    let no_time =
        || dead("timestamp", "is not an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z");
    let at = |json: &str| with("timestamp", json);
    let sent = |timestamp: &str| delivered("ticket.created", "{}", timestamp);
    vec![
        row("1970", at("0"), sent("0")),
        row("a second of 1970", at("1.5"), sent("1")),
        row("9999", at("253402300799"), sent("253402300799")),
        row("negative", at("-1"), sent("-1")),
        row("a negative float", at("-0.25"), sent("-1")),
        row("a float", at("NOW.75"), sent(NOW)),
        row("RFC 3339", at(r#""2026-01-31T12:00:00.9+01:00""#), sent("1769857200")),
        row("RFC 3339 of 9999", at(r#""9999-12-31T23:59:59Z""#), sent("253402300799")),
        row("RFC 3339 without a zone", at(r#""2026-01-31T12:00:00""#), no_time()),
        row("nonsense", at(r#""yesterday""#), no_time()),
        row(
            "a time that is true",
            at("true"),
            dead("timestamp", "must be seconds since 1970 or an RFC 3339 time, not a boolean"),
        ),
        row("milliseconds", at("NOW000"), sent("NOW000")),
        row("nanoseconds", at("NOW000000000"), out_of_range()),
        row("beyond all calendars", at("1e300"), out_of_range()),
        row("AMQP's beyond all calendars", at("null"), out_of_range())
            .property(|p| p.with_timestamp(u64::MAX)),
        row("AMQP's time only", at(""), sent("77")).property(|p| p.with_timestamp(77)),
        row("no time at all", at(""), sent(INTAKE)),
        row("null", at("null"), sent(INTAKE)),
    ]
}

/// A good CloudEvent but for one attribute, which is as given; left out where it is empty.
fn cloud(attribute: &str, json: &str) -> String {
    let good = [
        ("specversion", r#""1.0""#),
        ("id", r#""e-1""#),
        ("source", r#""/xtsystems/tickets""#),
        ("type", r#""ticket.closed""#),
        ("companyid", r#""COMPANY""#),
        ("data", r#"{"b": 1.0, "a": "\u0000"}"#),
    ];
    let others = good.into_iter().filter(|(name, _)| *name != attribute);
    let given = (!json.is_empty()).then_some((attribute, json));
    let fields: Vec<String> =
        others.chain(given).map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!("{{{}}}", fields.join(","))
}

/// A CloudEvent in binary mode, whose attributes are headers with this prefix.
fn binary(name: &'static str, prefix: [&'static str; 5], body: &str, expected: Expected) -> Row {
    let values = ["1.0", "e-1", "/xtsystems/tickets", "ticket.closed", COMPANY];
    prefix
        .into_iter()
        .zip(values)
        .fold(row(name, body, expected), |row, (name, value)| row.header(name, value))
}

const AMQP: [&str; 5] = [
    "cloudEvents:specversion",
    "cloudEvents:id",
    "cloudEvents:source",
    "cloudEvents:type",
    "cloudEvents:companyid",
];
const JMS: [&str; 5] = [
    "cloudEvents_specversion",
    "cloudEvents_id",
    "cloudEvents_source",
    "cloudEvents_type",
    "cloudEvents_companyid",
];
const RABBIT: [&str; 5] = ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-companyid"];

pub fn cloud_events() -> Vec<Row> {
    let structured = |row: Row| row.property(|p| p.with_content_type("application/cloudevents+json".into()));
    let typed =
        |row: Row, content_type: &'static str| row.property(|p| p.with_content_type(content_type.into()));
    let plain = r#"{"b": 1.0, "a": "\u0000"}"#;
    let digits = "123456789012345678901234567890";
    let json = "must be application/json or a type that ends with +json";
    let version = "must be 1.0, the supported version of CloudEvents";
    let sent = |data: &str| delivered("ticket.closed", data, INTAKE);
    vec![
        structured(row("a CloudEvent", cloud("", ""), sent(plain))),
        row("a CloudEvent that nobody announced", cloud("", ""), sent(plain)),
        structured(row("a CloudEvent with a time", cloud("time", r#""2026-01-31T12:00:00.9+01:00""#), {
            delivered("ticket.closed", plain, "1769857200")
        })),
        structured(row("a CloudEvent of 30 digits", cloud("data", digits), sent(digits))),
        structured(row("a CloudEvent without data", cloud("data", ""), sent("null"))),
        structured(row(
            "a CloudEvent in base64",
            cloud("data", "").replacen('{', r#"{"data_base64":"eyAiYSIgOjEuMCB9","#, 1),
            sent(r#"{ "a" :1.0 }"#),
        )),
        structured(row(
            "a CloudEvent of another version",
            cloud("specversion", r#""0.3""#),
            dead("specversion", version),
        )),
        structured(row(
            "a CloudEvent without an id",
            cloud("id", ""),
            dead("id", "is missing; every CloudEvent must have it"),
        )),
        structured(row(
            "a CloudEvent of text",
            cloud("datacontenttype", r#""text/plain""#),
            dead("datacontenttype", json),
        )),
        structured(row("a CloudEvent of nobody", cloud("companyid", ""), {
            let way_out =
                "is missing: send the company's UUID in this extension or in the header `company_id`";
            nobodys("companyid", way_out)
        })),
        structured(row("a CloudEvent with its company in the header", cloud("companyid", ""), sent(plain)))
            .header("company_id", COMPANY),
        typed(
            row("a batch of CloudEvents", format!("[{}]", cloud("", "")), {
                nobodys("content_type", "is that of a batch; publish each event as a separate message")
            }),
            "application/cloudevents-batch+json",
        ),
        typed(binary("a binary CloudEvent", AMQP, plain, sent(plain)), "application/json"),
        typed(binary("a binary CloudEvent by JMS", JMS, digits, sent(digits)), "application/vnd.xt+json"),
        binary("a binary CloudEvent by RabbitMQ", RABBIT, "[ 1 ]", sent("[ 1 ]")),
        binary("a binary CloudEvent without a body", RABBIT, "", sent("null")),
        binary("a binary CloudEvent with a time", RABBIT, "1", delivered("ticket.closed", "1", "1769857200"))
            .header("ce-time", "2026-01-31T11:00:00Z"),
        typed(
            binary("a binary CloudEvent of text", RABBIT, "hello", dead("datacontenttype", json)),
            "text/plain",
        ),
        binary("a binary CloudEvent of another version", AMQP, "1", dead("specversion", version))
            .header("cloudEvents:specversion", "2.0"),
        binary("a binary CloudEvent that is not JSON", JMS, "hello", {
            dead("body", "is not JSON: expected value at line 1 column 1")
        }),
    ]
}
