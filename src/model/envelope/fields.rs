//! The fields of a message's JSON object, delimited but not read: those of the guide's envelope and those of a
//! CloudEvent.

use std::fmt;

use serde::{
    Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::{Rejected, rejected};

/// The fields of the guide's envelope.
pub(super) const GUIDE: [&str; 5] = ["event_type", "data", "company_id", "timestamp", "event_id"];

/// The fields of a CloudEvent that are used here.
pub(super) const CLOUD_EVENT: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "companyid",
    "datacontenttype",
    "traceparent",
    "data",
    "data_base64",
];

/// The fields that either form knows.
#[derive(Default)]
pub(super) struct EnvelopeFields<'a> {
    pub(super) data: Option<&'a RawValue>,
    pub(super) event_type: Option<&'a RawValue>,
    pub(super) company_id: Option<&'a RawValue>,
    pub(super) timestamp: Option<&'a RawValue>,
    pub(super) event_id: Option<&'a RawValue>,
    pub(super) specversion: Option<&'a RawValue>,
    pub(super) id: Option<&'a RawValue>,
    pub(super) source: Option<&'a RawValue>,
    pub(super) kind: Option<&'a RawValue>,
    pub(super) time: Option<&'a RawValue>,
    pub(super) companyid: Option<&'a RawValue>,
    pub(super) datacontenttype: Option<&'a RawValue>,
    pub(super) traceparent: Option<&'a RawValue>,
    pub(super) data_base64: Option<&'a RawValue>,
    /// Those that appear twice, in the order in which they were found.
    doubled: Vec<&'static str>,
}

impl<'a> EnvelopeFields<'a> {
    /// Delimits the fields of an object.
    pub(super) fn of(text: &'a str) -> Result<Self, Rejected> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let fields = parser.deserialize_map(FieldsVisitor).and_then(|fields| parser.end().map(|()| fields));
        fields.map_err(|bad| match bad.classify() {
            // Its message repeats the value found, which may be long and must not be logged.
            Category::Data => rejected("body", "is not a JSON object"),
            _ => rejected("body", format!("is not JSON: {bad}")),
        })
    }

    /// Refuses fields of these names that appear twice, because it is unclear which of the two is meant.
    pub(super) fn once(&self, names: &[&str]) -> Result<(), Rejected> {
        match self.doubled.iter().find(|name| names.contains(name)) {
            Some(name) => Err(rejected(name, "appears twice in the body")),
            None => Ok(()),
        }
    }

    /// Whether it says that it is a CloudEvent. No attribute of one has an underscore, so whatever has an
    /// `event_type` is the guide's.
    pub(super) fn is_cloud_event(&self) -> bool {
        self.specversion.is_some() && self.event_type.is_none()
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<&'a RawValue>> {
        Some(match name {
            "data" => &mut self.data,
            "event_type" => &mut self.event_type,
            "company_id" => &mut self.company_id,
            "timestamp" => &mut self.timestamp,
            "event_id" => &mut self.event_id,
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "time" => &mut self.time,
            "companyid" => &mut self.companyid,
            "datacontenttype" => &mut self.datacontenttype,
            "traceparent" => &mut self.traceparent,
            "data_base64" => &mut self.data_base64,
            _ => return None,
        })
    }
}

pub(super) fn text_of(body: &[u8], bytes_max: usize) -> Result<&str, Rejected> {
    if body.len() > bytes_max {
        let reason = format!("has {} bytes, more than EVENT_BYTES_MAX allows ({bytes_max})", body.len());
        return Err(rejected("body", reason));
    }
    str::from_utf8(body)
        .map_err(|bad| rejected("body", format!("is not valid UTF-8 at byte {}", bad.valid_up_to())))
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = EnvelopeFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with event_type, data, company_id and timestamp")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EnvelopeFields<'de>, A::Error> {
        let mut fields = EnvelopeFields::default();
        while let Some(FieldName(name)) = map.next_key()? {
            let Some((name, slot)) = name.and_then(|name| Some((name, fields.slot(name)?))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let is_doubled = slot.replace(map.next_value()?).is_some();
            if is_doubled && !fields.doubled.contains(&name) {
                fields.doubled.push(name);
            }
        }
        Ok(fields)
    }
}

/// A name of either form, however it is escaped; `None` for any other.
struct FieldName(Option<&'static str>);

impl<'de> serde::Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FieldName, E> {
                Ok(FieldName(GUIDE.into_iter().chain(CLOUD_EVENT).find(|name| *name == text)))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The field's value; `null` counts as absent, because serializers write it for what they leave out.
pub(super) fn present(value: Option<&RawValue>) -> Option<&str> {
    value.map(RawValue::get).filter(|text| *text != "null")
}

/// Reads a string.
pub(super) fn string(field: &'static str, json: &str) -> Result<String, Rejected> {
    if !json.starts_with('"') {
        return Err(rejected(field, format!("must be a string, not {}", kind(json))));
    }
    serde_json::from_str(json).map_err(|_| rejected(field, "is not a valid Unicode string"))
}

/// What a value is, in words.
pub(super) fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}
