//! The few numbers and ids that a path's query may hold; none needs escapes.

use std::str::FromStr;

use http::Uri;

use super::error::ApiError;
use super::fault::ParamFault;

/// The value of `name`, where the query has it.
///
/// # Errors
/// 400 where it is not `expected`.
pub(crate) fn parameter<T: FromStr>(
    uri: &Uri,
    name: &str,
    expected: &str,
) -> Result<Option<T>, ApiError> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut values = pairs.filter_map(|pair| pair.split_once('='));
    let Some((_, value)) = values.find(|(found, _)| *found == name) else {
        return Ok(None);
    };
    let parsed = value.parse().map_err(|_| {
        let expected = expected.to_owned();
        ApiError::param(name, ParamFault::Value { expected })
    });
    parsed.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_there_absent_or_wrong() {
        let uri = Uri::from_static("/x?a=1&b=x&c");
        let number = |name| parameter::<u32>(&uri, name, "a number");
        assert_eq!(number("a").unwrap(), Some(1));
        assert_eq!(number("c").unwrap(), None);
        assert_eq!(number("d").unwrap(), None);
        assert_eq!(number("b").unwrap_err().status(), 400);
    }
}
