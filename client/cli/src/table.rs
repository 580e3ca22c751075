//! Plain tables: columns as wide as their widest cell, two spaces between, numbers to the right.

/// A table being filled.
pub(crate) struct Table {
    head: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// To which side a column's cells go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these columns. Without names it has no head.
    pub(crate) fn new(head: impl IntoIterator<Item = (&'static str, Align)>) -> Table {
        Table { head: head.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row, one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.head.len(), "every row of a table has a cell for every column");
        self.rows.push(cells);
    }

    /// The lines, without trailing spaces; a newline after each.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.head[column].0.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let names: Vec<String> = self.head.iter().map(|(name, _)| name.to_string()).collect();
        let named = names.iter().any(|name| !name.is_empty());
        let mut out = String::new();
        for row in named.then_some(&names).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(&self.head) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, &padding, "  "]),
                    Align::Right => line.extend([&padding, cell, "  "]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["a".into(), "1".into(), "x".into()]);
        table.row(["größer".into(), "12345".into(), "".into()]);
        assert_eq!(table.render(), "NAME     SIZE  NOTE\na           1  x\ngrößer  12345\n");
    }

    #[test]
    fn without_names_there_is_no_head() {
        let mut table = Table::new([("", Align::Right), ("", Align::Left)]);
        table.row(["1".into(), "a".into()]);
        table.row(["20".into(), "b".into()]);
        assert_eq!(table.render(), " 1  a\n20  b\n");
    }
}
