//! The rules of the house that a compiler does not know: who may use whom, and where SQL may be made at run time.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What each module may use inside the crate.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &[]),
    ("shutdown", &[]),
    ("telemetry", &["model"]),
    ("broker", &["model", "clock", "shutdown", "telemetry"]),
    ("store", &["model", "clock", "shutdown", "telemetry"]),
    ("egress", &["model", "clock", "shutdown", "telemetry"]),
    ("ingest", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
    ("deliver", &["model", "clock", "shutdown", "telemetry", "broker", "store", "egress"]),
    ("keep", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
    ("feed", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
    ("prune", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
    ("api", &["model", "clock", "shutdown", "telemetry", "broker", "store", "egress"]),
];

/// The files that may make SQL at run time; everywhere else the macros check it.
const DYNAMIC_SQL: &[&str] = &["src/store/partitions.rs", "src/store/pool.rs"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The code of a file without its unit tests and its comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).expect("a file");
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The module below the crate's root that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("below src");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of the crate that a text names: after `crate::`, or in the braces that follow it.
fn used(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        used.insert(std::mem::take(&mut name));
                    }
                    c if depth == 0 && !c.is_whitespace() => name.push(c),
                    _ => {}
                }
            }
            used.insert(name);
        } else {
            used.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    used.into_iter()
        .filter_map(|name| Some(name.split("::").next()?.to_owned()))
        .filter(|n| !n.is_empty())
        .collect()
}

/// The modules that paths through `super` reach at the crate's root, for a file so deep below it.
fn reached_by_super(path: &Path, code: &str) -> BTreeSet<String> {
    let inside = path.strip_prefix(root().join("src")).expect("below src");
    let is_mod = inside.file_stem().is_some_and(|stem| stem == "mod");
    // `src/a.rs` and `src/a/mod.rs` are one below the root, `src/a/b.rs` two.
    let depth = inside.iter().count() - usize::from(is_mod);
    let up = "super::".repeat(depth);
    let mut reached = BTreeSet::new();
    for (at, _) in code.match_indices(&up) {
        let rest = &code[at + up.len()..];
        let begins = !code[..at].ends_with("super::");
        if begins && !rest.starts_with("super::") {
            reached.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    reached
}

#[test]
fn modules_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let (module, code) = (module(&path), code(&path));
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == module) else { continue };
        for name in used(&code).into_iter().chain(reached_by_super(&path, &code)) {
            if name != module
                && !may_use.contains(&name.as_str())
                && MAY_USE.iter().any(|(known, _)| *known == name)
            {
                wrong.push(format!("{}: {module} may not use {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_reader_of_paths_sees_every_form() {
    let check = |code: &str, expected: &[&str]| {
        assert_eq!(used(code).iter().map(String::as_str).collect::<Vec<_>>(), expected, "{code}");
    };
    check("use crate::model::Job;", &["model"]);
    check(
        "use crate::{broker::{self, Queue}, model::{id::EventId, Job}, store};",
        &["broker", "model", "store"],
    );
    check("fn f() -> crate::egress::Client { todo }", &["egress"]);
    let at = root().join("src/feed/due.rs");
    assert_eq!(reached_by_super(&at, "use super::super::deliver::X;").len(), 1);
    assert_eq!(reached_by_super(&at, "use super::Feed;").len(), 0);
}

#[test]
fn sql_is_made_at_run_time_only_where_it_must_be() {
    let dynamic: Vec<String> = sources(&root().join("src"))
        .into_iter()
        .filter(|path| code(path).contains("AssertSqlSafe("))
        .map(|path| path.strip_prefix(root()).expect("below the root").display().to_string())
        .collect();
    assert_eq!(dynamic, DYNAMIC_SQL);
}

#[test]
fn a_stage_knows_the_time_only_by_the_clock() {
    let reading: Vec<_> = sources(&root().join("src"))
        .into_iter()
        .filter(|path| !path.ends_with("clock.rs") && code(path).contains("Utc::now("))
        .collect();
    assert!(reading.is_empty(), "{reading:?}");
}
