//! Whether an event's `data` is what its type says: JSON Schema, by version.
//!
//! An event does not name a version, so it is valid when it fits one of the registered versions: publishers of an old
//! and of a new version run side by side for a while. A violation is reported against the newest version.
//!
//! Nothing is ever fetched: a `$ref` points into the same document, or the schema is refused. A pattern is matched in
//! time linear in the text. A violation names the field and the rule, never the value, because it appears in logs and
//! lists.

use std::collections::BTreeMap;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// The most versions of a type's schema.
pub const VERSIONS_MAX: usize = 16;
/// The longest schema, in bytes of its JSON.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// The most memory that a pattern of a schema may take, in bytes.
const REGEX_BYTES_MAX: usize = 1024 * 1024;
/// The longest error that is kept, in characters.
const COMPLAINT_CHARS_MAX: usize = 500;

/// What happens to an event that matches no version of its type's schema.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// It is taken, and bears a flag that says what it violates.
    #[default]
    Flag,
    /// It becomes a dead letter and is not delivered.
    DeadLetter,
}

impl OnViolation {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// By its word in the ledger; a word that is not known only flags.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        if word == Self::DeadLetter.as_str() { Self::DeadLetter } else { Self::Flag }
    }
}

/// What an event violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field: `data`, or a place in it such as `data/notes/0/text`.
    pub field: String,
    /// The rule it violates, as the rest of a sentence that begins with the field.
    pub rule: String,
    /// The version of the schema.
    pub version: u32,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` violates the schema, version {}: {}", self.field, self.version, self.rule)
    }
}

/// The schemas of a type, compiled.
#[derive(Debug)]
pub struct TypeSchemas {
    /// The newest first.
    versions: Vec<(u32, Validator)>,
    /// What becomes of what fits none of them.
    pub on_violation: OnViolation,
}

impl TypeSchemas {
    /// Compiles the versions of a type.
    ///
    /// # Errors
    /// With the version and what is wrong with it.
    pub fn compile(
        versions: &BTreeMap<u32, Value>,
        on_violation: OnViolation,
    ) -> Result<Self, (u32, String)> {
        let compiled = versions.iter().rev().map(|(version, schema)| {
            let validator = compile(schema).map_err(|bad| (*version, bad))?;
            Ok((*version, validator))
        });
        Ok(Self { versions: compiled.collect::<Result<_, _>>()?, on_violation })
    }

    /// What `data` violates; `None` if it fits one of the versions.
    #[must_use]
    pub fn judge(&self, data: &str) -> Option<Violation> {
        let (newest, _) = self.versions.first()?;
        // It is JSON, as was checked before: a number is beyond any float, or it nests too deep.
        let Ok(data) = serde_json::from_str::<Value>(data) else {
            let rule = "it cannot be validated: a number is out of range, or it nests deeper than 127 levels";
            return Some(Violation { field: "data".to_owned(), rule: rule.to_owned(), version: *newest });
        };
        if self.versions.iter().any(|(_, validator)| validator.is_valid(&data)) {
            return None;
        }
        let (version, validator) = self.versions.first()?;
        let error = validator.iter_errors(&data).next()?;
        let field = format!("data{}", error.instance_path());
        let rule = error.masked().to_string();
        let cut = |text: String| text.chars().take(COMPLAINT_CHARS_MAX).map(printable).collect();
        Some(Violation { field: cut(field), rule: cut(rule), version: *version })
    }
}

/// Field names come from the publisher, and go to logs and to PostgreSQL.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

fn compile(schema: &Value) -> Result<Validator, String> {
    let patterns = PatternOptions::regex().size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX);
    let options = jsonschema::options().with_pattern_options(patterns).offline();
    options.build(schema).map_err(|bad| bad.to_string().chars().take(COMPLAINT_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schemas(versions: &[(u32, Value)]) -> TypeSchemas {
        TypeSchemas::compile(&versions.iter().cloned().collect(), OnViolation::Flag).unwrap()
    }

    #[test]
    fn an_event_fits_when_it_fits_one_version_and_is_told_what_the_newest_misses() {
        let old = json!({"type": "object", "required": ["title"]});
        let new = json!({"type": "object", "properties": {"priority": {"enum": ["low", "high"]}},
                         "required": ["priority"]});
        let both = schemas(&[(1, old), (2, new.clone())]);
        let check = |schemas: &TypeSchemas, data: &str, expected: Option<(&str, &str)>| {
            let found = schemas.judge(data);
            let violation = found.as_ref().map(|v| (v.field.as_str(), v.rule.as_str()));
            assert_eq!(violation, expected, "{data}");
        };
        check(&both, r#"{"title":"t"}"#, None);
        check(&both, r#"{"priority":"low"}"#, None);
        check(
            &both,
            r#"{"priority":"s3cret"}"#,
            Some(("data/priority", r#"value is not one of "low" or "high""#)),
        );
        check(
            &schemas(&[(2, new)]),
            r#"{"title":"t"}"#,
            Some(("data", r#""priority" is a required property"#)),
        );
        check(&schemas(&[]), "{}", None);
        check(&schemas(&[(1, json!(false))]), "1", Some(("data", "False schema does not allow value")));
        assert!(both.judge("1e999").unwrap().rule.contains("out of range"));
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(both.judge(&deep).unwrap().rule.contains("deeper"));
    }

    #[test]
    fn nothing_is_fetched_and_no_pattern_may_take_for_ever() {
        let check = |schema: Value, expected: &str| {
            let bad = TypeSchemas::compile(&BTreeMap::from([(3, schema)]), OnViolation::Flag).unwrap_err();
            assert!(bad.0 == 3 && bad.1.contains(expected), "{bad:?}");
        };
        check(json!({"$ref": "http://127.0.0.1:1/schema"}), "127.0.0.1");
        check(json!({"$ref": "file:///etc/passwd"}), "file:");
        check(json!({"pattern": "(?=a)b"}), "regex");
        check(json!({"type": "text"}), "text");
        // One that leads back to itself ends all the same.
        let circle =
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
        assert_eq!(schemas(&[(1, circle)]).judge("{}"), None);
    }
}
