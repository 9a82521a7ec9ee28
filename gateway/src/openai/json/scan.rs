//! Splits JSON at the speed of memory: where each field or element of a value stands, without reading any.
//!
//! A prompt of 100 kB is one string, and to find its end byte by byte is most of what reading the request takes. Whatever is
//! out of the ordinary is left to serde_json, which knows what to say of it: what is accepted here it would accept as well, and
//! split the same (the tests hold the one against the other). It must not know which fields there are.

use std::borrow::Cow;

use wide::u8x32;

use super::Fields;

/// The fields of the object `text`, so many at most; `None` where serde_json must look.
pub(super) fn object(text: &str, max: usize) -> Option<Fields<'_>> {
    whole(text, |scanner| scanner.fields(max))
}

/// The fields of the object `text`, and in the same pass those of each object in its array `list`; without these where it is
/// no array of objects. `None` as above.
pub(super) fn object_with<'a>(
    text: &'a str,
    max: usize,
    list: List<'_>,
) -> Option<(Fields<'a>, Option<Vec<Fields<'a>>>)> {
    let mut listed = None;
    let fields = whole(text, |scanner| {
        scanner.fields_by(max, |scanner, name| {
            let from = scanner.at;
            if name == list.name {
                let object = |scanner: &mut Scanner<'a>| scanner.fields(list.fields_max);
                listed = scanner.elements(list.max, object);
                if listed.is_some() {
                    return scanner.text.get(from..scanner.at);
                }
                scanner.at = from;
            }
            scanner.value()
        })
    })?;
    Some((fields, listed))
}

/// An array of objects, a field of the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct List<'n> {
    pub(super) name: &'n str,
    /// Objects at most.
    pub(super) max: usize,
    /// Fields of each at most.
    pub(super) fields_max: usize,
}

/// The elements of the array `text`, so many at most; `None` as above.
pub(super) fn array(text: &str, max: usize) -> Option<Vec<&str>> {
    whole(text, |scanner| scanner.elements(max, Scanner::value))
}

fn whole<'a, T>(text: &'a str, read: impl FnOnce(&mut Scanner<'a>) -> Option<T>) -> Option<T> {
    let mut scanner = Scanner { text, at: 0 };
    scanner.space();
    let read = read(&mut scanner)?;
    scanner.space();
    (scanner.at == text.len()).then_some(read)
}

/// A place in a text. Every step is `None` where the text is not as it should be, or not as most are.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn fields(&mut self, max: usize) -> Option<Fields<'a>> {
        self.fields_by(max, |scanner, _| scanner.value())
    }

    /// The fields of an object, each value read by `value`, which is told its name.
    fn fields_by(
        &mut self,
        max: usize,
        mut value: impl FnMut(&mut Self, &str) -> Option<&'a str>,
    ) -> Option<Fields<'a>> {
        self.eat(b'{')?;
        let mut fields = Vec::with_capacity(16.min(max));
        self.space();
        if self.eat(b'}').is_some() {
            return Some(fields);
        }
        loop {
            let name = self.name()?;
            self.colon()?;
            let value = value(self, name)?;
            if fields.len() == max {
                return None;
            }
            fields.push((Cow::Borrowed(name), value));
            self.space();
            match self.next()? {
                b',' => self.space(),
                b'}' => return Some(fields),
                _ => return None,
            }
        }
    }

    fn elements<T>(
        &mut self,
        max: usize,
        mut element: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.eat(b'[')?;
        let mut elements = Vec::new();
        self.space();
        if self.eat(b']').is_some() {
            return Some(elements);
        }
        loop {
            if elements.len() == max {
                return None;
            }
            elements.push(element(self)?);
            self.space();
            match self.next()? {
                b',' => self.space(),
                b']' => return Some(elements),
                _ => return None,
            }
        }
    }

    /// Any value, whatever is in it.
    fn value(&mut self) -> Option<&'a str> {
        let from = self.at;
        let mut open = Open::default();
        loop {
            match self.peek()? {
                b'{' => {
                    self.at += 1;
                    self.space();
                    if self.eat(b'}').is_none() {
                        open.push(true)?;
                        self.string()?;
                        self.colon()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    if self.eat(b']').is_none() {
                        open.push(false)?;
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            if !self.goes_on(&mut open)? {
                return self.text.get(from..self.at);
            }
        }
    }

    /// After a value within what is `open`: whether another follows, at which it stands then.
    fn goes_on(&mut self, open: &mut Open) -> Option<bool> {
        while let Some(object) = open.last() {
            self.space();
            match (self.next()?, object) {
                (b',', true) => {
                    self.space();
                    self.string()?;
                    self.colon()?;
                    return Some(true);
                }
                (b',', false) => {
                    self.space();
                    return Some(true);
                }
                (b'}', true) | (b']', false) => open.pop(),
                _ => return None,
            }
        }
        Some(false)
    }

    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    /// A name as it is written, which is as it reads: one with escapes is out of the ordinary.
    fn name(&mut self) -> Option<&'a str> {
        let name = self.string()?;
        memchr::memchr(b'\\', name.as_bytes())
            .is_none()
            .then_some(name)
    }

    /// What stands between the quotes of a string.
    fn string(&mut self) -> Option<&'a str> {
        self.eat(b'"')?;
        let from = self.at;
        loop {
            let block = self.at;
            let mut special = special(block_of(self.text.as_bytes().get(block..)?));
            while special != 0 {
                self.at = block + special.trailing_zeros() as usize;
                match self.next()? {
                    b'"' => return self.text.get(from..self.at - 1),
                    b'\\' => self.escape()?,
                    // A control character, which must be escaped.
                    _ => return None,
                }
                // What belongs to the escape has been looked at.
                let done = u32::try_from(self.at - block).ok()?;
                special &= u32::MAX.checked_shl(done).unwrap_or(0);
            }
            self.at = self.at.max(block + BLOCK);
        }
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.eat(b'-');
        if self.eat(b'0').is_none() {
            self.digits()?;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if self.eat(b'e').or_else(|| self.eat(b'E')).is_some() {
            let _ = self.eat(b'+').or_else(|| self.eat(b'-'));
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = self.text.as_bytes().get(self.at..)?;
        self.at += word.len();
        rest.starts_with(word.as_bytes()).then_some(())
    }

    fn colon(&mut self) -> Option<()> {
        self.space();
        self.eat(b':')?;
        self.space();
        Some(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}

/// Bytes of a string that are looked at together.
const BLOCK: usize = 32;

/// The first bytes of `text`; what is missing at its end is blank.
fn block_of(text: &[u8]) -> [u8; BLOCK] {
    text.first_chunk().copied().unwrap_or_else(|| {
        let mut block = [b' '; BLOCK];
        block
            .iter_mut()
            .zip(text)
            .for_each(|(to, from)| *to = *from);
        block
    })
}

/// A bit for each byte that does not stand for itself in a string, the lowest for the first: a quote, a backslash, a control
/// character.
fn special(bytes: [u8; BLOCK]) -> u32 {
    let bytes = u8x32::new(bytes);
    let control = bytes.min(u8x32::splat(0x1f)).simd_eq(bytes);
    let quote = bytes.simd_eq(u8x32::splat(b'"'));
    let backslash = bytes.simd_eq(u8x32::splat(b'\\'));
    (control | quote | backslash).to_bitmask()
}

/// What is open around a value: for each level whether it is an object. Deeper than 64 is out of the ordinary.
#[derive(Default)]
struct Open {
    objects: u64,
    depth: u32,
}

impl Open {
    fn push(&mut self, object: bool) -> Option<()> {
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(object);
        (self.depth <= u64::BITS).then_some(())
    }

    const fn pop(&mut self) {
        self.objects >>= 1;
        self.depth -= 1;
    }

    fn last(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.objects & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::super::slow;
    use super::*;

    /// A value as some client may write it.
    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a-z\"\\\\\n\u{e9}\u{1f600}]{0,40}|[a-z]{0,70}\"?[a-z]{0,70}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec(("[a-z]{1,4}", inner), 0..4)
                    .prop_map(|fields| Value::from(Map::from_iter(fields))),
            ]
        })
    }

    fn any_object() -> impl Strategy<Value = Value> {
        let fields = proptest::collection::vec(("[a-z]{1,4}", any_value()), 0..5);
        fields.prop_map(|fields| Value::from(Map::from_iter(fields)))
    }

    fn write(value: &Value, pretty: bool) -> String {
        match pretty {
            true => serde_json::to_string_pretty(value).unwrap(),
            false => value.to_string(),
        }
    }

    proptest! {
        #[test]
        fn what_clients_write_is_split_as_serde_json_does(
            fields in proptest::collection::vec(("[a-z]{1,4}", any_value()), 0..6),
            pretty in any::<bool>(),
        ) {
            let text = write(&Value::from(Map::from_iter(fields)), pretty);
            let split = object(&text, 8);
            prop_assert!(split.is_some(), "{text}");
            prop_assert_eq!(split, slow::fields(&text, 8).ok());
        }

        #[test]
        fn arrays_too(elements in proptest::collection::vec(any_value(), 0..6), pretty in any::<bool>()) {
            let text = write(&Value::from(elements), pretty);
            let split = array(&text, 8);
            prop_assert!(split.is_some(), "{text}");
            prop_assert_eq!(split, slow::array(&text, 8).ok());
        }

        /// What is read in the same pass is what is read of its text alone.
        #[test]
        fn lists_are_split_in_passing(
            elements in proptest::collection::vec(prop_oneof![9 => any_object(), 1 => any_value()], 0..6),
            pretty in any::<bool>(),
        ) {
            let body = serde_json::json!({"a": [{}], "list": elements, "b": {"list": [{}]}});
            let text = write(&body, pretty);
            let list = List { name: "list", max: 4, fields_max: 3 };
            let (fields, listed) = object_with(&text, 8, list).unwrap();
            prop_assert_eq!(&fields, &slow::fields(&text, 8).unwrap());
            let each = slow::array(fields[1].1, 4).unwrap_or_else(|_| vec!["none"]);
            let apart = each.into_iter().map(|element| slow::fields(element, 3).ok()).collect();
            prop_assert_eq!(listed, apart);
        }

        /// Bytes that are changed, left out or doubled make most texts wrong, in every way there is.
        #[test]
        fn nothing_is_accepted_that_serde_json_refuses(
            fields in proptest::collection::vec(("[a-z]{1,4}", any_value()), 0..4),
            at in any::<prop::sample::Index>(),
            with in "[\\[\\]{},:\"\\\\0-9eE.+tfnu\u{1} -]{0,3}",
            drop in 0usize..3,
        ) {
            let text = Value::from(Map::from_iter(fields)).to_string();
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            let end = (at + drop).min(bytes.len());
            bytes.splice(at..end, with.into_bytes());
            if let Ok(text) = String::from_utf8(bytes)
                && let Some(split) = object(&text, 8)
            {
                prop_assert_eq!(Some(split), slow::fields(&text, 8).ok());
            }
        }
    }

    #[test]
    fn bounds_and_depth_are_kept_to() {
        assert!(object(r#"{"a":1,"b":2}"#, 2).is_some());
        assert!(object(r#"{"a":1,"b":2}"#, 1).is_none());
        assert!(array("[1,2]", 1).is_none());
        let nested = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(object(&nested(60), 1).is_some());
        assert!(object(&nested(100), 1).is_none());
    }
}
