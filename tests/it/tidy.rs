//! The rules of the house that a compiler does not know: who may use whom, and where SQL may be made at run time.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    ("dead_letter", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
    ("schedule", &["model", "clock", "shutdown", "telemetry", "broker", "store"]),
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
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The module below the crate's root that a file belongs to.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("below src");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// A path, segment by segment.
type Segments = Vec<String>;

/// Reads the path that a text begins with, or one for each leaf where there are braces; returns its length in bytes.
fn leaves(text: &str, prefix: &[String], found: &mut Vec<Segments>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            while !text[at..].starts_with('}') {
                at += 1 + leaves(&text[at + 1..], &path, found);
                at += text[at..].find([',', '}']).expect("a brace that is opened is closed");
            }
            return at + 1;
        }
        let name = text[at..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        path.extend((!name.is_empty()).then(|| name.to_owned()));
        at += name.len();
        // Another name for it counts as one more segment, so that it is the last.
        let goes_on = ["::", " as "].into_iter().find(|sign| text[at..].starts_with(sign));
        let Some(sign) = goes_on else { break };
        at += sign.len();
    }
    found.extend((path.len() > prefix.len()).then_some(path));
    at
}

/// Every path of a code that follows one of these words, or begins with it where it is the first part of a path.
fn paths(code: &str, words: &[&str]) -> Vec<Segments> {
    let mut found = Vec::new();
    for word in words {
        for (at, _) in code.match_indices(word) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                leaves(code[at..].trim_start_matches("use "), &[], &mut found);
            }
        }
    }
    found
}

/// The modules of the crate that a text names: after `crate::`, or in the braces that follow it.
fn used(code: &str) -> BTreeSet<String> {
    paths(code, &["crate::"]).into_iter().filter_map(|path| path.into_iter().nth(1)).collect()
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
    let at = root().join("src/schedule/due.rs");
    assert_eq!(reached_by_super(&at, "use super::super::deliver::X;").len(), 1);
    assert_eq!(reached_by_super(&at, "use super::Scheduler;").len(), 0);
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

/// The code of each module below `src/`, by its path.
type Modules = BTreeMap<Segments, String>;

fn modules() -> Modules {
    let src = root().join("src");
    let files = sources(&src).into_iter().filter(|path| !path.ends_with("tests.rs"));
    files
        .map(|path| {
            let inside = path.strip_prefix(&src).expect("below src").with_extension("");
            let names = inside.iter().map(|name| name.to_string_lossy().into_owned());
            (names.filter(|name| name != "mod").collect(), code(&path))
        })
        .collect()
}

/// The module whose file has what a path in another module leads to, also through what modules bring in by `use`.
fn file_of(module: &[String], path: &[String], modules: &Modules, hops: usize) -> Option<Segments> {
    let mut whole = module.to_vec();
    for name in path {
        match name.as_str() {
            "crate" => whole.clear(),
            "super" => drop(whole.pop()),
            "self" => {}
            name => whole.push(name.to_owned()),
        }
    }
    let length = (1..=whole.len()).rev().find(|length| modules.contains_key(&whole[..*length]))?;
    let (found, rest) = whole.split_at(length);
    let brought = rest.first().filter(|_| hops > 0 && found != module).and_then(|name| {
        let uses = paths(&modules[found], &["use "]);
        let path = uses.into_iter().find(|path| path.last() == Some(name))?;
        file_of(found, &path, modules, hops - 1)
    });
    Some(brought.unwrap_or_else(|| found.to_vec()))
}

/// Who takes something from whom. That a module uses its own parts is no import: it is made of them.
fn imports(modules: &Modules) -> BTreeSet<(Segments, Segments)> {
    let of = |(module, code): (&Segments, &String)| -> Vec<(Segments, Segments)> {
        let paths = paths(code, &["use ", "crate::", "super::", "self::"]);
        let to = paths.iter().filter_map(|path| file_of(module, path, modules, 4));
        to.filter(|to| !to.starts_with(module)).map(|to| (module.clone(), to)).collect()
    };
    modules.iter().flat_map(of).collect()
}

/// What remains of imports when all that lead to no circle are left out.
fn circles(mut imports: BTreeSet<(Segments, Segments)>) -> BTreeSet<(Segments, Segments)> {
    loop {
        let from: BTreeSet<_> = imports.iter().map(|(from, _)| from.clone()).collect();
        let to: BTreeSet<_> = imports.iter().map(|(_, to)| to.clone()).collect();
        let before = imports.len();
        imports.retain(|(a, b)| from.contains(b) && to.contains(a));
        if imports.len() == before {
            return imports;
        }
    }
}

#[test]
fn no_file_imports_what_imports_it() {
    let found = circles(imports(&modules()));
    let found: Vec<_> =
        found.iter().map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect();
    assert!(found.is_empty(), "files that import each other in a circle: {found:#?}");
}

#[test]
fn circles_are_found_through_parents_and_what_they_bring_in() {
    let of = |code: &[(&str, &str)]| -> Vec<String> {
        let path = |name: &str| name.split("::").map(str::to_owned).collect::<Segments>();
        let modules = code.iter().map(|(name, code)| (path(name), (*code).to_owned())).collect();
        circles(imports(&modules)).iter().map(|(from, _)| from.join("::")).collect()
    };
    let parent = ("a", "mod b;\nmod c;\npub use b::One;\nuse self::c::{Two, three::Three};");
    let b = ("a::b", "use super::{\n    Two as Other,\n    x::Y,\n};");
    assert_eq!(of(&[parent, b, ("a::c", "use super::One as Y;")]), ["a::b", "a::c"]);
    assert_eq!(of(&[parent, b, ("a::c", "use super::Z;")]), <[String; 0]>::default());
    assert_eq!(
        of(&[("a", "use crate::d::D;"), ("a::b", "use super::A;"), ("d", "use crate::{e, a::b::B};")]),
        ["a", "a::b", "d"]
    );
}
