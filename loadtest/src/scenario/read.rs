//! Walks a parsed TOML document section by section and collects what is wrong, each with its line. Knows no key.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::limits::MAX_SECTIONS;
use crate::problems::{Problems, line_of, quote};
use crate::spread::{Bell, Spread};
use crate::units;

/// The document and what is wrong with it.
pub(crate) struct Document<'a> {
    text: &'a str,
    problems: RefCell<Problems>,
}

/// A table of the document, or its absence. Every key must be asked for once before [`Section::finish`].
pub(crate) struct Section<'d, 'a> {
    document: &'d Document<'a>,
    path: String,
    table: Option<&'d DeTable<'a>>,
    offset: usize,
    known: RefCell<Vec<&'static str>>,
}

type Value<'d, 'a> = &'d Spanned<DeValue<'a>>;

impl<'a> Document<'a> {
    pub(crate) fn new(file: &Path, text: &'a str) -> Self {
        let problems = RefCell::new(Problems::new(file));
        Self { text, problems }
    }

    /// Notes a problem at a byte of the text.
    pub(crate) fn fault(&self, offset: usize, what: impl Display) {
        let line = line_of(self.text, offset);
        self.problems.borrow_mut().add(line, what);
    }

    /// Parses the text; syntax errors are noted.
    pub(crate) fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let at = error.span().map_or(self.text.len(), |span| span.start);
            self.fault(at, format!("syntax: {}", error.message()));
        }
        table
    }

    pub(crate) fn root<'d>(&'d self, table: &'d DeTable<'a>) -> Section<'d, 'a> {
        self.section(String::new(), Some(table), 0)
    }

    fn section<'d>(
        &'d self,
        path: String,
        table: Option<&'d DeTable<'a>>,
        offset: usize,
    ) -> Section<'d, 'a> {
        Section {
            document: self,
            path,
            table,
            offset,
            known: RefCell::default(),
        }
    }

    /// Whether nothing was wrong so far.
    pub(crate) fn is_sound(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    pub(crate) fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }
}

impl<'d, 'a> Section<'d, 'a> {
    /// Whether the file has it.
    pub(crate) fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// Notes a problem of the section as a whole.
    pub(crate) fn fault(&self, what: impl Display) {
        let name = if self.path.is_empty() {
            String::new()
        } else {
            format!("[{}]: ", self.path)
        };
        self.document.fault(self.offset, format!("{name}{what}"));
    }

    /// Notes a problem of `key`.
    pub(crate) fn fault_of(&self, key: &'static str, what: impl Display) {
        let at = self
            .get(key)
            .map_or(self.offset, |value| value.span().start);
        self.document
            .fault(at, format!("{}: {what}", self.path_of(key)));
    }

    /// Notes a problem at a byte of the text.
    pub(crate) fn fault_at(&self, offset: usize, what: impl Display) {
        self.document
            .fault(offset, format!("{}: {what}", self.path));
    }

    /// Whether the section has `key`, valid or not.
    pub(crate) fn peek(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A section below.
    pub(crate) fn section(&self, key: &'static str) -> Section<'d, 'a> {
        let value = self.take(key);
        let table = value.and_then(|value| value.get_ref().as_table());
        if value.is_some() && table.is_none() {
            self.fault_of(key, format!("is no table; write [{}]", self.path_of(key)));
        }
        let offset = value.map_or(self.offset, |value| value.span().start);
        self.document.section(self.path_of(key), table, offset)
    }

    /// All sections of an array of tables.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'d, 'a>> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.fault_of(key, format!("write [[{key}]] in double brackets"));
            return Vec::new();
        };
        if items.len() > MAX_SECTIONS {
            self.fault_of(key, format!("has more than {MAX_SECTIONS} entries"));
        }
        let tables = items.iter().take(MAX_SECTIONS).enumerate();
        let section = |(index, item): (usize, Value<'d, 'a>)| {
            let path = format!("{key}[{index}]");
            self.document
                .section(path, item.get_ref().as_table(), item.span().start)
        };
        tables.map(section).collect()
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<String> {
        let value = self.take(key)?;
        let text = value.get_ref().as_str().map(str::to_owned);
        self.expect(key, text, "a text in quotes")
    }

    pub(crate) fn texts(&self, key: &'static str) -> Vec<(usize, String)> {
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let items = value.get_ref().as_array().map(|items| {
            let text = |item: Value<'d, 'a>| {
                Some((item.span().start, item.get_ref().as_str()?.to_owned()))
            };
            items.iter().map(text).collect::<Option<Vec<_>>>()
        });
        self.expect(key, items.flatten(), "a list of texts")
            .unwrap_or_default()
    }

    pub(crate) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.take(key)?;
        self.expect(key, value.get_ref().as_bool(), "true or false")
    }

    pub(crate) fn whole(&self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.take(key)?;
        let number = whole(value.get_ref()).filter(|number| range.contains(number));
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.expect(key, number, &wanted)
    }

    pub(crate) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(key)?;
        let number = number(value.get_ref()).filter(|number| range.contains(number));
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.expect(key, number, &wanted)
    }

    pub(crate) fn duration(&self, key: &'static str) -> Option<Duration> {
        let text = self.text(key)?;
        let read = units::duration(&text);
        read.map_err(|what| self.fault_of(key, what)).ok()
    }

    /// One of several words.
    pub(crate) fn choice<T: clap::ValueEnum>(&self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        let read = T::from_str(&text, false).ok();
        let names = T::value_variants()
            .iter()
            .filter_map(clap::ValueEnum::to_possible_value);
        let names: Vec<String> = names
            .map(|value| format!("{:?}", value.get_name()))
            .collect();
        self.expect(key, read, &format!("one of {}", names.join(", ")))
    }

    /// A spread: a number, or a table that names a distribution. With `seconds`, values are durations in quotes.
    pub(crate) fn spread(
        &self,
        key: &'static str,
        range: RangeInclusive<f64>,
        seconds: bool,
    ) -> Option<Spread> {
        let value = self.take(key)?;
        let unit = Unit { range, seconds };
        if let Some(fixed) = unit.read(value.get_ref()) {
            return Some(Spread::Fixed(fixed));
        }
        let Some(table) = value.get_ref().as_table() else {
            return self.expect(
                key,
                None,
                &format!("{unit}, or a table such as {{ dist = \"uniform\", min = .., max = .. }}"),
            );
        };
        let below = self
            .document
            .section(self.path_of(key), Some(table), value.span().start);
        let spread = below.distribution(&unit);
        below.finish();
        spread
    }

    /// Notes every key that nobody asked for, with the nearest that there is.
    pub(crate) fn finish(self) {
        let known = self.known.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            let text: &str = name.get_ref().as_ref();
            if known.contains(&text) {
                continue;
            }
            let near = known
                .iter()
                .max_by(|a, b| strsim::jaro(a, text).total_cmp(&strsim::jaro(b, text)));
            let hint = near.filter(|near| strsim::jaro(near, text) > 0.7);
            let hint = hint.map_or(String::new(), |near| format!("; did you mean {near:?}?"));
            let place = self.path_of(text);
            self.document
                .fault(name.span().start, format!("{place}: unknown key{hint}"));
        }
    }

    fn distribution(&self, unit: &Unit) -> Option<Spread> {
        let value = |key| {
            let given = self.take(key)?;
            self.expect(key, unit.read(given.get_ref()), &unit.to_string())
        };
        let need = |key| {
            let read = value(key);
            if !self.peek(key) {
                self.fault(format!("{key} is missing"));
            }
            read
        };
        let kind: Distribution = self.choice("dist").or_else(|| {
            if !self.peek("dist") {
                self.fault("dist is missing: fixed, uniform, normal, lognormal or exponential");
            }
            None
        })?;
        let bell = || {
            let (mean, sd) = (need("mean"), need("sd"));
            let ends = (value("min"), value("max"));
            let (min, max) = (
                ends.0.unwrap_or(*unit.range.start()),
                ends.1.unwrap_or(*unit.range.end()),
            );
            Some(Bell {
                mean: mean?,
                sd: sd?,
                min,
                max,
            })
        };
        let spread = match kind {
            Distribution::Fixed => Spread::Fixed(need("value")?),
            Distribution::Uniform => {
                let (min, max) = (need("min"), need("max"));
                Spread::Uniform {
                    min: min?,
                    max: max?,
                }
            }
            Distribution::Normal => Spread::Normal(bell()?),
            Distribution::Lognormal => Spread::Lognormal(bell()?),
            Distribution::Exponential => Spread::Exponential {
                mean: need("mean")?,
            },
        };
        match spread {
            Spread::Uniform { min, max }
            | Spread::Normal(Bell { min, max, .. })
            | Spread::Lognormal(Bell { min, max, .. })
                if min > max =>
            {
                self.fault("min is more than max");
                None
            }
            Spread::Lognormal(bell) if bell.mean <= 0.0 => {
                self.fault("a lognormal mean is more than 0");
                None
            }
            spread => Some(spread),
        }
    }

    fn get(&self, key: &str) -> Option<Value<'d, 'a>> {
        self.table?.get(key)
    }

    fn take(&self, key: &'static str) -> Option<Value<'d, 'a>> {
        self.known.borrow_mut().push(key);
        self.get(key)
    }

    fn expect<T>(&self, key: &'static str, read: Option<T>, wanted: &str) -> Option<T> {
        if read.is_none() {
            let given = self.get(key).map_or("", |value| value.get_ref().type_str());
            let given = match self.get(key).and_then(|value| value.get_ref().as_str()) {
                Some(text) => quote(text),
                None => format!("this {given}"),
            };
            self.fault_of(key, format!("expected {wanted}, not {given}"));
        }
        read
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Distribution {
    Fixed,
    Uniform,
    Normal,
    Lognormal,
    Exponential,
}

/// How the numbers of a spread are written.
struct Unit {
    range: RangeInclusive<f64>,
    seconds: bool,
}

impl Unit {
    fn read(&self, value: &DeValue<'_>) -> Option<f64> {
        let read = if self.seconds {
            units::duration(value.as_str()?)
                .ok()
                .map(|time| time.as_secs_f64())
        } else {
            number(value)
        };
        read.filter(|number| self.range.contains(number))
    }
}

impl Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.seconds {
            true => f.write_str("a duration such as \"500ms\""),
            false => write!(
                f,
                "a number from {} to {}",
                self.range.start(),
                self.range.end()
            ),
        }
    }
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    let digits = value.as_integer()?;
    i64::from_str_radix(digits.as_str(), digits.radix()).ok()
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value.as_float() {
        Some(float) => float.as_str().parse().ok(),
        None => whole(value).map(|whole| whole as f64),
    }
}
