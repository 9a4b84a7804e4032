//! The table of settings in `README.md`, rendered from the definitions of the command line, so that the two cannot
//! differ.

use std::{collections::BTreeSet, fs, path::PathBuf};

use clap::{Arg, Command, CommandFactory};

use super::Cli;

const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- /settings -->";

/// Every setting that has a name in the environment, once, in the order of `--help`: the service's first.
fn markdown() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut known = BTreeSet::new();
    let mut rows = Vec::new();
    let mut commands: Vec<&Command> = cli.get_subcommands().collect();
    while !commands.is_empty() {
        let command = commands.remove(0);
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_env_set()) {
            let Some(env) = arg.get_env().map(|env| env.to_string_lossy().into_owned()) else { continue };
            if known.insert(env.clone()) {
                rows.push(row(&env, arg));
            }
        }
        commands.extend(command.get_subcommands());
    }
    format!("| environment | flag | default | meaning |\n|---|---|---|---|\n{}\n", rows.join("\n"))
}

fn row(env: &str, arg: &Arg) -> String {
    let flag = arg.get_long().map(|long| format!("`--{long}`")).unwrap_or_default();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    // Some defaults are no value: the help says them in brackets.
    let (help, default_in_help) = match help.split_once(" [default: ") {
        Some((help, default)) => (help.to_owned(), default.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let values: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match values.join(",") {
        text if text.is_empty() => default_in_help,
        text => format!("`{text}`"),
    };
    format!("| `{env}` | {flag} | {default} | {help} |").replace("|  |", "| |")
}

fn readme() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

#[test]
fn the_readme_lists_every_setting_as_the_command_line_knows_it() {
    let text = fs::read_to_string(readme()).expect("README.md is there");
    let (head, rest) =
        text.split_once(BEGIN).expect("README.md has the mark `<!-- settings -->` on a line of its own");
    let (table, tail) = rest.split_once(END).expect("README.md has the mark `<!-- /settings -->`");
    let expected = markdown();
    if std::env::var_os("XT_UPDATE").is_some() {
        fs::write(readme(), format!("{head}{BEGIN}{expected}{END}{tail}")).expect("README.md can be written");
        return;
    }
    assert_eq!(table, expected, "update it with `XT_UPDATE=1 cargo test settings`");
}

#[test]
fn every_setting_says_what_it_means() {
    for line in markdown().lines().skip(2) {
        let meaning = line.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
        assert!(meaning.len() > 10, "{line}");
    }
}
