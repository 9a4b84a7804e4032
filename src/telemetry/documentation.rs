//! The table in `docs/metrics.md`, rendered from the output of `/metrics`, so that the two always agree.

use std::{collections::BTreeMap, collections::BTreeSet, fmt::Write, fs, path::Path};

use super::Metrics;

const BEGIN: &str = "<!-- metrics -->\n";
const END: &str = "<!-- /metrics -->";

/// Each metric with its kind, its help, and the values of its labels.
fn markdown(shown: &str) -> String {
    let mut table = "| metric | kind | meaning | labels |\n|---|---|---|---|\n".to_owned();
    for help in shown.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = help.split_once(' ').expect("a help follows the name");
        let kind = shown
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")))
            .expect("it has a kind");
        let total = if kind == "counter" { "_total" } else { "" };
        let labels = labels(shown, name);
        writeln!(table, "| `{name}{total}` | {kind} | {} |{labels} |", help.trim_end_matches('.'))
            .expect("a string");
    }
    table
}

/// The labels of every series of a metric except the bounds of buckets.
fn labels(shown: &str, name: &str) -> String {
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for series in shown.lines().filter_map(|line| line.strip_prefix(name)?.split_once('{')) {
        let pairs = series.1.split('}').next().unwrap_or_default();
        for (label, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
            labels.entry(label).or_default().insert(value.trim_matches('"'));
        }
    }
    labels.remove("le");
    let one = |(label, values): (&str, BTreeSet<&str>)| {
        format!(" `{label}`: {}", values.into_iter().collect::<Vec<_>>().join(", "))
    };
    labels.into_iter().map(one).collect::<Vec<_>>().join(";")
}

#[test]
fn the_documentation_lists_every_metric_as_it_is_shown() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(&path).expect("docs/metrics.md is there");
    let (head, rest) = page.split_once(BEGIN).expect("the mark `<!-- metrics -->` is on a line of its own");
    let (table, tail) = rest.split_once(END).expect("the mark `<!-- /metrics -->` is there");
    let expected = markdown(&Metrics::new().encode());
    if std::env::var_os("XT_UPDATE").is_some() {
        fs::write(&path, format!("{head}{BEGIN}{expected}{END}{tail}")).expect("it can be written");
        return;
    }
    assert_eq!(table, expected, "regenerate it with `XT_UPDATE=1 cargo test documentation`");
}
