//! The names of release 0.3.0 that have changed, accepted for one release with a warning.
//!
//! Before the command line is parsed, old names of roles and settings are replaced by the new ones, so that nothing behind
//! the parser knows them. Where old and new are both given, the new one counts.

use std::ffi::OsString;

/// Roles: the name until 0.3.0, and the name now.
const ROLES: [(&str, &str); 2] = [("feed", "schedule"), ("keep", "dead-letter")];

/// Settings: the environment variable until 0.3.0, the variable now, and its flag.
const SETTINGS: [(&str, &str, &str); 1] = [("TIDE_MARK_EVERY", "WATERMARK_EVERY", "--watermark-every")];

/// Flags: the flag until 0.3.0, and the flag now.
const FLAGS: [(&str, &str); 1] = [("--tide-mark-every", "--watermark-every")];

/// The arguments with today's names, and a warning for each old one.
pub(super) fn current(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> (Vec<OsString>, Vec<String>) {
    let mut warnings = Vec::new();
    let mut current: Vec<OsString> = Vec::new();
    let mut names_roles = false;
    for arg in args {
        let Some(text) = arg.to_str() else {
            current.push(arg);
            continue;
        };
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            _ => (text, None),
        };
        let is_roles = std::mem::take(&mut names_roles);
        let renamed = if is_roles {
            roles(text, &mut warnings)
        } else if let Some((_, now)) = FLAGS.iter().find(|(old, _)| *old == flag) {
            warnings.push(format!("`{flag}` is now `{now}`; the old name ends with the next release"));
            value.map_or_else(|| (*now).to_owned(), |value| format!("{now}={value}"))
        } else if ["--role", "--replicas"].contains(&flag) {
            names_roles = value.is_none();
            value.map_or_else(|| flag.to_owned(), |value| format!("{flag}={}", roles(value, &mut warnings)))
        } else {
            text.to_owned()
        };
        current.push(renamed.into());
    }
    if ["run", "doctor"].iter().any(|command| current.get(1).is_some_and(|arg| arg == command)) {
        from_environment(&mut current, env, &mut warnings);
    }
    (current, warnings)
}

/// Gives as flags what the environment has under old names.
fn from_environment(
    args: &mut Vec<OsString>,
    env: impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) {
    let given = |args: &[OsString], flag: &str| {
        args.iter().filter_map(|arg| arg.to_str()).any(|arg| arg.split('=').next() == Some(flag))
    };
    for (old, now, flag) in SETTINGS {
        let Some(value) = env(old) else { continue };
        warnings.push(format!("`{old}` is now `{now}`; the old name ends with the next release"));
        if env(now).is_none() && !given(args, flag) {
            args.push(format!("{flag}={value}").into());
        }
    }
    if let Some(value) = env("ROLE").filter(|_| !given(args, "--role")) {
        let renamed = roles(&value, warnings);
        if renamed != value {
            args.push(format!("--role={renamed}").into());
        }
    }
}

/// A list such as `ingest,feed` or `ingest=2,feed=1` with today's names.
fn roles(list: &str, warnings: &mut Vec<String>) -> String {
    let renamed = list.split(',').map(|entry| {
        let (name, count) = entry.find('=').map_or((entry, ""), |at| entry.split_at(at));
        match ROLES.iter().find(|(old, _)| *old == name.trim()) {
            None => entry.to_owned(),
            Some((old, now)) => {
                warnings.push(format!(
                    "the role `{old}` is now `{now}`; the old name ends with the next release"
                ));
                format!("{now}{count}")
            }
        }
    });
    renamed.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], env: &[(&str, &str)], expected: &[&str], warned: usize) {
        let lookup = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        let args = ["xtwebhooks"].iter().chain(args).map(OsString::from);
        let (current, warnings) = super::current(args, lookup);
        let current: Vec<_> = current.iter().skip(1).map(|arg| arg.to_str().expect("UTF-8")).collect();
        assert_eq!((current.as_slice(), warnings.len()), (expected, warned), "{warnings:?}");
    }

    #[test]
    fn old_names_become_the_new_ones_with_a_warning_each() {
        check(&["run", "--role", "ingest,feed"], &[], &["run", "--role", "ingest,schedule"], 1);
        check(&["run", "--role=keep,feed"], &[], &["run", "--role=dead-letter,schedule"], 2);
        check(&["doctor", "--replicas=keep=1,api=2"], &[], &["doctor", "--replicas=dead-letter=1,api=2"], 1);
        check(&["run", "--tide-mark-every", "5s"], &[], &["run", "--watermark-every", "5s"], 1);
        check(&["run", "--tide-mark-every=5s"], &[], &["run", "--watermark-every=5s"], 1);
        check(&["run"], &[("TIDE_MARK_EVERY", "5s")], &["run", "--watermark-every=5s"], 1);
        check(&["run"], &[("ROLE", "feed")], &["run", "--role=schedule"], 1);
    }

    #[test]
    fn the_new_name_counts_where_both_are_given() {
        check(&["run"], &[("TIDE_MARK_EVERY", "5s"), ("WATERMARK_EVERY", "9s")], &["run"], 1);
        check(
            &["run", "--watermark-every=9s"],
            &[("TIDE_MARK_EVERY", "5s")],
            &["run", "--watermark-every=9s"],
            1,
        );
        check(&["run", "--role=api"], &[("ROLE", "feed")], &["run", "--role=api"], 0);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        check(&["run", "--role", "ingest,api"], &[("ROLE", "deliver")], &["run", "--role", "ingest,api"], 0);
        check(&["publish", "--data", "feed"], &[("ROLE", "feed")], &["publish", "--data", "feed"], 0);
        check(&["webhooks", "create", "--name=keep"], &[], &["webhooks", "create", "--name=keep"], 0);
    }
}
