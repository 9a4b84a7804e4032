//! Why a batch was rejected: a bad row, a missing partition, or trouble of our own.
//!
//! Only an error about a *value* makes a row bad. A full disk, a deadlock, a read-only server after a
//! failover or a statement timeout rejects each row of a batch alone too; treating those as bad rows would turn a
//! whole backlog into dead letters.

use sqlx::Error;

/// What a failed statement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One of the rows can never be written: bisect until it is alone.
    BadRow,
    /// A row's day has no partition yet: create it and retry.
    NoPartition,
    /// The trouble is ours: keep everything, wait, and retry.
    Ours,
}

/// Judges an error by its SQLSTATE.
#[must_use]
pub fn fault(error: &Error) -> Fault {
    let Some(database) = error.as_database_error() else {
        return Fault::Ours;
    };
    let code = database.code().unwrap_or_default();
    judge(&code, database.constraint())
}

/// Whether the server takes no writes on this connection: it is a standby, or was set so.
#[must_use]
pub fn is_read_only(error: &Error) -> bool {
    has_code(error, "25006")
}

/// Whether the ledger itself is away or takes nothing, so that whatever is tried next fails as well: the connection failed,
/// or the server is stopping, is read-only or has no room. A statement that ran out of time, or into a lock, is none.
#[must_use]
pub fn is_outage(error: &Error) -> bool {
    let Some(database) = error.as_database_error() else { return true };
    let code = database.code().unwrap_or_default();
    code == "25006" || ["08", "53", "57P"].iter().any(|class| code.starts_with(class))
}

/// Whether a lock was not to be had in time.
#[must_use]
pub fn is_lock_timeout(error: &Error) -> bool {
    has_code(error, "55P03")
}

fn has_code(error: &Error, expected: &str) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == expected)
}

fn judge(code: &str, constraint: Option<&str>) -> Fault {
    match code {
        "23514" if constraint.is_none() => Fault::NoPartition,
        // Data exceptions; not null, unique and check violations of a named constraint; limits on a value.
        "23502" | "23505" | "23514" | "54000" => Fault::BadRow,
        _ if code.starts_with("22") => Fault::BadRow,
        _ => Fault::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_a_value_makes_a_row_bad() {
        let check = |code: &str, constraint: Option<&str>, expected: Fault| {
            assert_eq!(judge(code, constraint), expected, "{code}");
        };
        check("22P02", None, Fault::BadRow);
        check("22021", None, Fault::BadRow);
        check("22P05", None, Fault::BadRow);
        check("23502", None, Fault::BadRow);
        check("23505", Some("events_pkey"), Fault::BadRow);
        check("23514", Some("no_poison"), Fault::BadRow);
        check("54000", None, Fault::BadRow);
        check("23514", None, Fault::NoPartition);
        check("53100", None, Fault::Ours); // disk full
        check("40P01", None, Fault::Ours); // dead-lock
        check("25006", None, Fault::Ours); // read-only
        check("57014", None, Fault::Ours); // statement timeout
        check("57P01", None, Fault::Ours); // shutdown
        check("55P03", None, Fault::Ours); // lock timeout
        check("54001", None, Fault::Ours); // stack depth
        check("23503", None, Fault::Ours); // there are no foreign keys
        assert_eq!(fault(&Error::PoolTimedOut), Fault::Ours);
    }
}
