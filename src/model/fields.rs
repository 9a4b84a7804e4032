//! Reads the fields of a body one by one, so that every invalid one is named at once.
//!
//! A field is absent, null or a value; the caller decides what absence and null mean. Fields left at the end are unknown.

use std::{borrow::Cow, fmt::Display};

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// An invalid field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The name of the field in the request, with a path into arrays: `events[2]`.
    #[schema(example = "url")]
    pub field: Cow<'static, str>,
    /// What is wrong, and what the field must be.
    #[schema(example = "must be absolute, as in https://example.com/hook")]
    pub message: String,
}

impl FieldError {
    /// This field, with what is wrong.
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Display) -> Self {
        Self { field: field.into(), message: format!("{message}") }
    }
}

/// Every invalid field of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<FieldError>);

/// What is wrong with a value: messages, each with its path inside the value; the path is empty for the value itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub Vec<(String, String)>);

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self(vec![(String::new(), message)])
    }
}

/// A field of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Field<T> {
    /// Nothing.
    Absent,
    /// `null`, which requests the default.
    Null,
    /// Something.
    Given(T),
}

impl<T> Field<T> {
    /// The value, for fields whose null means the same as absence.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// The new value of a setting: none if it stays unchanged, the default, or the value.
    pub fn or_default(self, default: impl FnOnce() -> T) -> Option<T> {
        match self {
            Self::Absent => None,
            Self::Null => Some(default()),
            Self::Given(value) => Some(value),
        }
    }
}

/// A body while it is read.
#[derive(Debug)]
pub struct Fields {
    left: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    #[must_use]
    pub fn of(body: Map<String, Value>) -> Self {
        Self { left: body, errors: Vec::new() }
    }

    /// Takes a field as it is.
    fn take(&mut self, name: &str) -> Field<Value> {
        match self.left.remove(name) {
            None => Field::Absent,
            Some(Value::Null) => Field::Null,
            Some(value) => Field::Given(value),
        }
    }

    /// Takes a field and reads it. An invalid field is recorded and then treated as absent: the request fails in the end.
    pub fn read<T, E: Into<Wrong>>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, E>,
    ) -> Field<T> {
        match self.take(name) {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Given(value) => match read(value) {
                Ok(value) => Field::Given(value),
                Err(wrong) => {
                    for (path, message) in wrong.into().0 {
                        self.wrong(format!("{name}{path}"), message);
                    }
                    Field::Absent
                }
            },
        }
    }

    /// The same for a required field.
    pub fn need<T, E: Into<Wrong>>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, E>,
    ) -> Option<T> {
        if !self.left.contains_key(name) {
            self.wrong(name, "is missing");
            return None;
        }
        self.not_null(name, read)
    }

    /// The same for a field that may be absent but not null, because it has no default.
    pub fn not_null<T, E: Into<Wrong>>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(Value) -> Result<T, E>,
    ) -> Option<T> {
        match self.read(name, read) {
            Field::Given(value) => Some(value),
            Field::Null => {
                self.wrong(name, "must not be null; it has no default");
                None
            }
            Field::Absent => None,
        }
    }

    /// Records an invalid field.
    pub fn wrong(&mut self, name: impl Into<Cow<'static, str>>, message: impl Display) {
        self.errors.push(FieldError::new(name, message));
    }

    /// The names of the fields that were not taken.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.left.keys().map(String::as_str)
    }

    /// Fails with every invalid field.
    ///
    /// # Errors
    /// If any field is invalid.
    pub fn end(self) -> Result<(), Invalid> {
        if self.errors.is_empty() { Ok(()) } else { Err(Invalid(self.errors)) }
    }
}

pub fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("must be a string, not {}", kind(&other))),
    }
}

/// A string of at most so many characters, without U+0000, which cannot be stored.
pub fn text_of(characters_max: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| {
        let text = text(value)?;
        if text.contains('\0') {
            return Err("has the character U+0000, which cannot be stored".to_owned());
        }
        match text.chars().count() {
            n if n > characters_max => {
                Err(format!("has {n} characters; at most {characters_max} are allowed"))
            }
            _ => Ok(text),
        }
    }
}

/// One of the given words.
pub fn word<T: Copy>(words: &'static [(&'static str, T)]) -> impl FnOnce(Value) -> Result<T, String> {
    move |value| {
        let text = text(value)?;
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, meant)| *meant).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            format!("must be {}", words.join(" or "))
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "readers of fields take what was taken out")]
pub fn boolean(value: Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("must be true or false, not {}", kind(&value)))
}

/// A whole number of a range; `3.0` is one.
pub fn whole<T: TryFrom<i64> + Copy + Display>(min: T, max: T) -> impl Fn(Value) -> Result<T, String>
where
    i64: From<T>,
{
    move |value| {
        let Value::Number(number) = &value else {
            return Err(format!("must be a whole number, not {}", kind(&value)));
        };
        #[expect(clippy::cast_possible_truncation, reason = "whole, and below 2^53")]
        let float = || number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9.0e15).map(|n| n as i64);
        let whole = number.as_i64().or_else(float);
        let range = || format!("is {number}; must be a whole number from {min} to {max}");
        whole
            .filter(|n| (i64::from(min)..=i64::from(max)).contains(n))
            .and_then(|n| T::try_from(n).ok())
            .ok_or_else(range)
    }
}

/// A number of a range.
pub fn number(min: f64, max: f64) -> impl FnOnce(Value) -> Result<f64, String> {
    move |value| {
        let number = value.as_f64().ok_or_else(|| format!("must be a number, not {}", kind(&value)))?;
        if (min..=max).contains(&number) {
            Ok(number)
        } else {
            Err(format!("is {value}; must be from {min} to {max}"))
        }
    }
}

/// The type of a value, in words.
#[must_use]
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(body: Value) -> Fields {
        let Value::Object(body) = body else { panic!("{body}") };
        Fields::of(body)
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut fields = fields(json!({"a": 1, "b": "x", "c": null, "d": 21, "e": "wat"}));
        assert_eq!(fields.read("a", text), Field::Absent);
        assert_eq!(fields.read("b", boolean), Field::Absent);
        assert_eq!(fields.not_null("c", text), None);
        assert_eq!(fields.read("d", whole(1, 20)), Field::Absent);
        assert_eq!(fields.need("f", text), None);
        assert_eq!(fields.unknown().collect::<Vec<_>>(), ["e"]);
        let problem = format!("{:?}", fields.end().unwrap_err());
        for expected in
            ["must be a string, not a number", "must be true or false", "no default", "is 21", "is missing"]
        {
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }

    #[test]
    fn numbers_have_their_range() {
        let check = |value: Value, expected: Option<i32>| assert_eq!(whole(1, 60)(value).ok(), expected);
        check(json!(1), Some(1));
        check(json!(60), Some(60));
        check(json!(3.0), Some(3));
        check(json!(0), None);
        check(json!(61), None);
        check(json!(1.5), None);
        check(json!(1e300), None);
        check(json!(u64::MAX), None);
        check(json!("3"), None);
        check(json!(true), None);
        assert_eq!(number(0.01, 10.0)(json!(2)), Ok(2.0));
        assert!(number(0.01, 10.0)(json!(0)).is_err());
    }

    #[test]
    fn absence_null_and_a_value_are_three_things() {
        assert_eq!(Field::<Option<u8>>::Absent.or_default(|| None), None);
        assert_eq!(Field::<Option<u8>>::Null.or_default(|| None), Some(None));
        assert_eq!(Field::Given(Some(1)).or_default(|| None), Some(Some(1)));
        assert_eq!(Field::<u8>::Null.or_default(|| 7), Some(7));
        assert_eq!(Field::<u8>::Absent.or_default(|| 7), None);
    }
}
