//! A key as callers see it, and as they ask for one.

use chrono::{DateTime, Months, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    api::{
        access::{Scope, Scopes},
        problem::{FieldError, Problem},
    },
    store::api_keys,
};

/// The longest name of a key, in characters.
pub const NAME_CHARS_MAX: usize = 255;
/// The maximum number of named scopes; there are fewer.
const SCOPES_MAX: usize = 100;
/// How far in the future a key may expire, in months.
const EXPIRY_MONTHS_MAX: u32 = 1_200;

/// An API key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct Key {
    /// The id of the key: the characters after `xtwh_`.
    #[schema(example = "ab12cd34")]
    pub id: String,
    /// The company that the key is valid for; null for all companies.
    #[schema(required = true)]
    pub company_id: Option<Uuid>,
    /// The name of the key.
    pub name: String,
    /// The scopes of the key.
    #[schema(example = json!(["webhooks:read", "deliveries:read"]))]
    pub scopes: Vec<String>,
    /// The key itself. Shown only when it is created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    pub key: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Who created it; null if that is not known.
    #[schema(required = true)]
    pub created_by: Option<String>,
    /// When it expires; null for never.
    #[schema(required = true)]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute; null for never.
    #[schema(required = true)]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked; null if it was not.
    #[schema(required = true)]
    pub revoked_at: Option<DateTime<Utc>>,
}

impl From<api_keys::KeyRow> for Key {
    fn from(row: api_keys::KeyRow) -> Self {
        Self {
            id: row.id,
            company_id: row.company_id,
            name: row.name,
            scopes: row.scopes,
            key: None,
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// A new API key.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// The name of the key, 1 to 255 characters.
    #[schema(min_length = 1, max_length = 255, example = "Discord bot")]
    pub name: String,
    /// The scopes of the key, one or more of `webhooks:read`, `webhooks:write`, `webhooks:delete`, `events:write`,
    /// `events:read`, `deliveries:read`, `deliveries:replay`, `payloads:read`, `keys:manage` and `admin`.
    #[schema(min_items = 1, max_items = 100, example = json!(["webhooks:read", "deliveries:read"]))]
    pub scopes: Vec<String>,
    /// When it expires, within a hundred years; null or omitted for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it is valid for every company.
    #[serde(default)]
    pub all_companies: bool,
}

impl NewKey {
    /// The requested scopes.
    ///
    /// # Errors
    /// With every invalid field.
    pub fn check(&self, now: DateTime<Utc>) -> Result<Scopes, Problem> {
        let mut errors = Vec::new();
        let chars = self.name.trim().chars().count();
        if !(1..=NAME_CHARS_MAX).contains(&chars) {
            errors.push(FieldError::new("name", format!("must have 1 to {NAME_CHARS_MAX} characters")));
        } else if self.name.chars().any(char::is_control) {
            errors.push(FieldError::new("name", "must not contain control characters"));
        }
        if !(1..=SCOPES_MAX).contains(&self.scopes.len()) {
            errors.push(FieldError::new("scopes", format!("must name 1 to {SCOPES_MAX} scopes")));
        }
        let mut scopes = Scopes::default();
        for (n, word) in self.scopes.iter().take(SCOPES_MAX).enumerate() {
            match word.parse::<Scope>() {
                Ok(scope) => scopes = scopes.or(Scopes::of(scope)),
                Err(why) => errors.push(FieldError::new(format!("scopes[{n}]"), why)),
            }
        }
        let latest = now.checked_add_months(Months::new(EXPIRY_MONTHS_MAX));
        if self.expires_at.is_some_and(|at| at <= now || latest.is_some_and(|latest| at > latest)) {
            errors.push(FieldError::new("expires_at", "must be in the future, within a hundred years"));
        }
        if errors.is_empty() { Ok(scopes) } else { Err(Problem::invalid(errors)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let check = |name: &str, scopes: &[&str], ends_in: Option<i64>, wrong: &[&str]| {
            let new_key = NewKey {
                name: name.to_owned(),
                scopes: scopes.iter().map(|&word| word.to_owned()).collect(),
                expires_at: ends_in.map(|seconds| now + chrono::TimeDelta::seconds(seconds)),
                all_companies: false,
            };
            let text = new_key.check(now).err().map(|problem| format!("{problem:?}")).unwrap_or_default();
            assert_eq!(text.is_empty(), wrong.is_empty(), "{text}");
            for field in wrong {
                assert!(text.contains(&format!("field: \"{field}\"")), "{field}: {text}");
            }
        };
        check("a 🗝️ for “ops”", &["webhooks:read", "webhooks:read"], None, &[]);
        check(&"ü".repeat(255), &["admin"], Some(1), &[]);
        check("", &[], Some(0), &["name", "scopes", "expires_at"]);
        check(&"ü".repeat(256), &["webhooks:read", "all"], None, &["name", "scopes[1]"]);
        check("a\0b", &["*"], Some(3_200_000_000), &["name", "scopes[0]", "expires_at"]);
        check("n", &["admin"; 101], None, &["scopes"]);
    }
}
