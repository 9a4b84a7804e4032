//! Every bound is reached: what happens then, and that nothing is lost.
//!
//! `docs/bounds.md` lists the bounds with the test that reaches each.

mod quarantine;
mod queues;
mod requests;
mod sizes;
mod stopping;

use std::path::Path;

use crate::support::app::App;

/// Declares the queues without anybody who takes from them.
async fn declare(app: &App) {
    assert_eq!(app.run(&["--role", "dead-letter"]).await.stop().await, Some(0));
}

/// Waits until so many deliveries are delivered, and makes sure that no others are there.
async fn all_delivered(app: &App, count: i64) {
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", count).await;
    assert_eq!(app.count("select count(*) from webhook_deliveries").await, count);
}

/// Every line of Rust under a folder.
fn source(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            text += &source(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path).expect("a text");
        }
    }
    text
}

#[test]
fn every_bound_is_listed_with_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bounds = std::fs::read_to_string(root.join("docs/bounds.md")).expect("docs/bounds.md");
    let tests = source(&root.join("tests/it"));
    let rows: Vec<Vec<&str>> = bounds
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 30, "{} bounds", rows.len());
    for row in &rows {
        for test in row[5].split('`').filter(|word| word.contains('_') && !word.contains('/')) {
            assert!(
                tests.contains(&format!("fn {test}(")) || tests.contains(&format!("mod {test};")),
                "docs/bounds.md names {test}, which is no test"
            );
        }
    }
    // A setting whose name says that it is a bound is one.
    let settings = source(&root.join("src"));
    for name in settings.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        if name.ends_with("_MAX") {
            assert!(
                rows.iter().any(|row| row[1].contains(&format!("`{name}`"))),
                "{name} is not listed in docs/bounds.md"
            );
        }
    }
}
