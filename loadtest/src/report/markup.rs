//! Pieces of pages: tables, and text that others chose.

use std::fmt::{self, Write as _};

/// A table; a head of empty names is left out. Columns of words stand left, of numbers right.
///
/// # Errors
/// None: writing to a string cannot fail.
pub(crate) fn table(
    page: &mut String,
    head: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    let rows: Vec<Vec<String>> = rows.collect();
    let first = rows.first();
    let side = |column: usize| {
        let words = |cell: &String| cell.starts_with(char::is_alphabetic);
        let is_words = first.and_then(|row| row.get(column)).is_some_and(words);
        if is_words { " class=\"w\"" } else { "" }
    };
    page.push_str("<table>");
    if head.iter().any(|name| !name.is_empty()) {
        page.push_str("<tr>");
        for (column, name) in head.iter().enumerate() {
            write!(page, "<th{}>{name}</th>", side(column))?;
        }
        page.push_str("</tr>");
    }
    for row in &rows {
        page.push_str("\n<tr>");
        for (column, cell) in row.iter().enumerate() {
            write!(page, "<td{}>{}</td>", side(column), escaped(cell))?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>\n");
    Ok(())
}

/// Text that others chose, so that it cannot become markup.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_is_no_markup() {
        let mut page = String::new();
        let rows = [["<b>&\"", "1", "so"].map(str::to_owned).to_vec()];
        table(&mut page, &["name", "", "why"], rows.into_iter()).unwrap();
        assert!(
            page.contains("<tr><th>name</th><th></th><th class=\"w\">why</th></tr>"),
            "{page}"
        );
        assert!(
            page.contains("<td>&lt;b&gt;&amp;&quot;</td><td>1</td><td class=\"w\">so</td>"),
            "{page}"
        );
    }
}
