//! Writes the audit log: who changed what, before and after, and from where.
//!
//! A change and its entry are one transaction, so there is never one without the other. Secrets never get here, because
//! only the shapes that callers see are compared.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{access::Caller, problem::Problem};
use crate::{model::CompanyId, store::audit_log};

/// Writes an entry in the transaction of its change. `action` is `webhook.update`, `subject` the id of what changed.
pub async fn write(
    db: &mut PgConnection,
    caller: &Caller,
    company: Option<CompanyId>,
    action: &'static str,
    subject: &str,
    (before, after): (Option<Value>, Option<Value>),
) -> Result<(), Problem> {
    let (before, after) = match (before, after) {
        (Some(before), Some(after)) => differences(before, after),
        other => other,
    };
    let text = |value: Option<Value>| value.map(|value| value.to_string());
    let entry = audit_log::AuditRow {
        company: company.map(CompanyId::uuid),
        actor: caller.actor.clone(),
        action: action.to_owned(),
        subject: subject.to_owned(),
        before: text(before),
        after: text(after),
        address: Some(caller.address.to_string()),
    };
    Ok(audit_log::write(db, &entry).await?)
}

/// What an entry shows of an object: its shape, without anything that must not be stored.
pub fn shown(shape: &impl Serialize) -> Option<Value> {
    let mut value = serde_json::to_value(shape).ok()?;
    if let Value::Object(fields) = &mut value {
        fields.remove("secret");
        // Headers of webhooks may contain tokens: the log shows that they changed, not their values.
        if let Some(Value::Object(headers)) = fields.get_mut("headers") {
            headers.values_mut().for_each(|value| *value = mark(value));
        }
    }
    Some(value)
}

/// A short digest that distinguishes values without revealing them.
fn mark(value: &Value) -> Value {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(value.to_string().as_bytes());
    Value::String(format!("…{:02x}{:02x}", digest[0], digest[1]))
}

/// Only the fields of two objects that differ.
fn differences(before: Value, after: Value) -> (Option<Value>, Option<Value>) {
    let (Value::Object(before), Value::Object(after)) = (&before, &after) else {
        return (Some(before), Some(after));
    };
    let only = |of: &Map<String, Value>, other: &Map<String, Value>| {
        let differ = of.iter().filter(|(name, value)| other.get(*name) != Some(value));
        Value::Object(differ.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    (Some(only(before, after)), Some(only(after, before)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_differs_is_kept() {
        let (before, after) = differences(json!({"a": 1, "b": 2}), json!({"a": 1, "b": 3, "c": 4}));
        assert_eq!((before, after), (Some(json!({"b": 2})), Some(json!({"b": 3, "c": 4}))));
    }

    #[test]
    fn no_secret_and_no_header_is_shown() {
        let shape = json!({"name": "n", "secret": "s3cret", "headers": {"Authorization": "Bearer t0ken"}});
        let text = shown(&shape).unwrap().to_string();
        assert!(
            !text.contains("s3cret") && !text.contains("t0ken") && text.contains("Authorization"),
            "{text}"
        );
    }
}
