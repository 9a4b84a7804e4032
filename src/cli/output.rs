//! Writes results: JSON for programs, tables and lines for people.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// JSON, or for people.
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows a result: its JSON, or what `text` makes of it.
    pub(super) fn show<T: Serialize + ?Sized>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(result)? } else { text(result) };
        self.line(text.trim_end())
    }

    /// Writes one line to standard output.
    #[expect(clippy::unused_self, reason = "results go out through this value alone")]
    pub(super) fn line(self, text: &str) -> anyhow::Result<()> {
        match writeln!(io::stdout().lock(), "{text}") {
            // The reader has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

/// A table with columns as wide as their widest cell.
#[derive(Debug)]
pub(super) struct OutputTable {
    rows: Vec<Vec<String>>,
}

impl OutputTable {
    /// A table with its head.
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// One more row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| on_one_line(&cell)).to_vec());
    }

    /// The whole table as text; `none` if there is no row.
    pub(super) fn render(&self, none: &str) -> String {
        if self.rows.len() == 1 {
            return none.to_owned();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A time for people: to the second, in UTC.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Names and values, one per line, without those that have no value.
pub(super) fn fields(pairs: &[(&str, Option<String>)]) -> String {
    let there = || pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let width = there().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = there().map(|(name, value)| format!("{name:width$}  {}", on_one_line(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Control characters in receivers' responses must not move the reader's cursor.
fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = OutputTable::new(&["NAME", "N"]);
        assert_eq!(table.render("nothing"), "nothing");
        table.row(["ä longer name".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), "\u{1b}[2J\n".to_owned()]);
        assert_eq!(table.render("nothing"), "NAME           N\nä longer name  1\nb               [2J");
    }

    #[test]
    fn fields_without_a_value_are_left_out() {
        let pairs =
            [("id", Some("1".to_owned())), ("never paused", None), ("longest", Some("x\ny".to_owned()))];
        assert_eq!(fields(&pairs), "id       1\nlongest  x y");
    }
}
