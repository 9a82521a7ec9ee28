//! Pieces of pages: tables, and text that others chose.

use std::fmt::{self, Write as _};

/// A table; a head of empty names is left out.
///
/// # Errors
/// None: writing to a string cannot fail.
pub(crate) fn table(
    page: &mut String,
    head: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    page.push_str("<table>");
    if head.iter().any(|name| !name.is_empty()) {
        page.push_str("<tr>");
        head.iter()
            .try_for_each(|name| write!(page, "<th>{name}</th>"))?;
        page.push_str("</tr>");
    }
    for row in rows {
        page.push_str("\n<tr>");
        row.iter()
            .try_for_each(|cell| write!(page, "<td>{}</td>", escaped(cell)))?;
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
        let rows = [vec!["<b>&\"".to_owned(), "1".to_owned()]];
        table(&mut page, &["name", ""], rows.into_iter()).unwrap();
        assert!(page.contains("<tr><th>name</th><th></th></tr>"), "{page}");
        assert!(
            page.contains("<td>&lt;b&gt;&amp;&quot;</td><td>1</td>"),
            "{page}"
        );
    }
}
