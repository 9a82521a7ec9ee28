//! Walks a parsed TOML document along the table of keys and collects what is wrong, with the place
//! of each.
//!
//! It judges one value at a time; what keys mean together is `check.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::keys::{self, Key};
use crate::limits;
use crate::problems::{Fault, quote};
use crate::schema::{Config, Model, Runner};
use crate::value::{fill, nearest, wrong_type};

/// A fault with its place in the text.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Byte in the text.
    pub(crate) offset: usize,
    /// The key's path from the root.
    pub(crate) path: String,
    pub(crate) fault: Fault,
}

/// A key or section that the text has.
#[derive(Debug, Clone, Copy)]
struct Seen {
    offset: usize,
    valid: bool,
}

/// Reads one document.
pub(crate) struct Reader {
    /// What was read; the default where the text says nothing or nothing valid.
    pub(crate) config: Config,
    /// What is wrong.
    pub(crate) faults: Vec<Placed>,
    seen: BTreeMap<String, Seen>,
}

impl Reader {
    /// A reader that has read nothing: a config of no model.
    pub(crate) fn new() -> Self {
        let config = Config {
            models: Vec::new(),
            ..Config::default()
        };
        Self {
            config,
            faults: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Reads all that can be parsed and returns the syntax errors.
    pub(crate) fn document(&mut self, text: &str) -> Vec<Placed> {
        let (document, errors) = DeTable::parse_recoverable(text);
        self.root(document.get_ref());
        errors
            .iter()
            .map(|error| syntax_error(error, text.len()))
            .collect()
    }

    /// Where the text has the key or section `path`.
    pub(crate) fn offset(&self, path: &str) -> Option<usize> {
        self.seen.get(path).map(|seen| seen.offset)
    }

    /// Whether none of `paths` has a value that was refused, so that checks across them mean
    /// something.
    pub(crate) fn sound(&self, paths: &[&str]) -> bool {
        let refused = |path: &&str| self.seen.get(*path).is_some_and(|seen| !seen.valid);
        !paths.iter().any(refused)
    }

    /// Notes a fault of `path`, which the text has at byte `offset`.
    pub(crate) fn fault(&mut self, offset: usize, path: impl Into<String>, fault: Fault) {
        let path = path.into();
        self.faults.push(Placed {
            offset,
            path,
            fault,
        });
    }

    fn root(&mut self, document: &DeTable<'_>) {
        let mut config = std::mem::take(&mut self.config);
        config.models.clear();
        let root: Vec<_> = keys::root().collect();
        for (name, value) in document {
            let text = name.get_ref().as_ref();
            if self.repeated(text, value, &mut config) {
                continue;
            }
            let place = Place {
                parent: "",
                below: "",
            };
            self.entry(place, &root, (name, value), &mut config);
        }
        self.config = config;
    }

    /// Reads a section that may be there many times; false where `section` is none of these.
    fn repeated(
        &mut self,
        section: &str,
        value: &Spanned<DeValue<'_>>,
        config: &mut Config,
    ) -> bool {
        use keys::issuer::{CLAIM, ISSUER};
        use keys::tenancy::{ALLOCATION, API_KEY, PRICE, RATE, TENANT};
        match section {
            "model" => config.models = self.models(value),
            "node" => {
                config.nodes = self.many(section, value, keys::UPSTREAM, limits::UPSTREAMS_MAX)
            }
            "site" => {
                config.sites = self.many(section, value, keys::UPSTREAM, limits::UPSTREAMS_MAX)
            }
            "tenant" => config.tenants = self.many(section, value, TENANT, limits::TENANTS_MAX),
            "key" => config.keys = self.many(section, value, API_KEY, limits::KEYS_MAX),
            "allocation" => {
                config.allocations = self.many(section, value, ALLOCATION, limits::ALLOCATIONS_MAX);
            }
            "price" => config.prices = self.many(section, value, PRICE, limits::PRICES_MAX),
            "rate" => config.rates = self.many(section, value, RATE, limits::RATES_MAX),
            "job" => config.jobs = self.many(section, value, keys::agent::JOB, limits::JOBS_MAX),
            "issuer" => config.issuers = self.many(section, value, ISSUER, limits::ISSUERS_MAX),
            "claim" => config.claims = self.many(section, value, CLAIM, limits::CLAIMS_MAX),
            _ => return false,
        }
        true
    }

    fn models(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<Model> {
        let mut models: Vec<Model> = self.many("model", value, keys::MODEL, limits::MODELS_MAX);
        for (index, model) in models.iter_mut().enumerate() {
            if self.offset(&format!("model[{index}].source")).is_none() {
                model.source = match model.runner {
                    Runner::Candle => model.id.clone(),
                    Runner::Sim => String::new(),
                };
            }
        }
        models
    }

    /// The entries of `[[section]]`, each with its own `keys`.
    fn many<S: Default>(
        &mut self,
        section: &str,
        value: &Spanned<DeValue<'_>>,
        keys: &'static [Key<S>],
        max: usize,
    ) -> Vec<S> {
        let start = value.span().start;
        let items = value.get_ref().as_array();
        self.mark(section, value.span(), items.is_some());
        let Some(items) = items else {
            let help = format!("write [[{section}]] in double brackets, one for each {section}");
            let fault = wrong_type(value.get_ref(), "an array of tables", help);
            self.fault(start, section, fault);
            return Vec::new();
        };
        if items.len() > max {
            let help = format!("at most {max} {section}s stand in one config");
            self.fault(start, section, Fault::new("has too many entries", help));
        }
        let keys: Vec<_> = keys.iter().collect();
        let first = items.iter().take(max).enumerate();
        first
            .map(|(index, item)| self.one(&format!("{section}[{index}]"), item, &keys))
            .collect()
    }

    fn one<S: Default>(
        &mut self,
        path: &str,
        item: &Spanned<DeValue<'_>>,
        keys: &[&'static Key<S>],
    ) -> S {
        let mut into = S::default();
        let Some(table) = item.get_ref().as_table() else {
            self.mark(path, item.span(), false);
            let help = format!("write [[{}]] and its keys below it", unindexed(path));
            let fault = wrong_type(item.get_ref(), "a table", help);
            self.fault(item.span().start, path, fault);
            return into;
        };
        self.mark(path, item.span(), true);
        let place = Place {
            parent: path,
            below: "",
        };
        self.table(place, keys, table, &mut into);
        into
    }

    fn table<S: 'static>(
        &mut self,
        place: Place<'_>,
        keys: &[&'static Key<S>],
        table: &DeTable<'_>,
        into: &mut S,
    ) {
        for entry in table {
            self.entry(place, keys, entry, into);
        }
    }

    fn entry<S: 'static>(
        &mut self,
        place: Place<'_>,
        keys: &[&'static Key<S>],
        (name, value): (&Spanned<toml::de::DeString<'_>>, &Spanned<DeValue<'_>>),
        into: &mut S,
    ) {
        let text = name.get_ref().as_ref();
        let path = join(place.parent, text);
        let below = join(place.below, text);
        if let Some(key) = keys.iter().find(|key| key.path == below) {
            let filled = fill((key.slot)(into), value.get_ref());
            self.mark(&path, value.span(), filled.is_ok());
            if let Err(fault) = filled {
                self.fault(value.span().start, path, fault);
            }
        } else if keys.iter().any(|key| is_inside(key.path, &below)) {
            self.mark(&path, name.span(), true);
            let Some(table) = value.get_ref().as_table() else {
                let help = format!(
                    "write [{}] in single brackets and its keys below it",
                    unindexed(&path)
                );
                let fault = wrong_type(value.get_ref(), "a table", help);
                return self.fault(name.span().start, path, fault);
            };
            let place = Place {
                parent: &path,
                below: &below,
            };
            self.table(place, keys, table, into);
        } else {
            let fault = unknown_key(text, &unindexed(place.parent));
            self.fault(name.span().start, path, fault);
        }
    }

    fn mark(&mut self, path: &str, span: Range<usize>, valid: bool) {
        let offset = span.start;
        self.seen.insert(path.to_owned(), Seen { offset, valid });
    }
}

/// Where the walk stands.
#[derive(Clone, Copy)]
struct Place<'p> {
    /// Path from the root of the document: `"model[0].sim"`.
    parent: &'p str,
    /// Path below the type that is filled: `"sim"`.
    below: &'p str,
}

fn syntax_error(error: &toml::de::Error, end: usize) -> Placed {
    let (message, help) = match error.message().split_once(", expected ") {
        Some((message, expected)) => (message, format!("expected {expected}")),
        None => (
            error.message(),
            "see https://toml.io for the syntax".to_owned(),
        ),
    };
    Placed {
        offset: error.span().map_or(end, |span| span.start),
        path: String::new(),
        fault: Fault::new(message, help),
    }
}

/// The fault of a key that `section` does not have, with the best hint there is.
fn unknown_key(name: &str, section: &str) -> Fault {
    let message = match section {
        "" => format!("there is no section or key {} here", quote(name)),
        _ => format!("[{section}] has no key {}", quote(name)),
    };
    let all: Vec<String> = keys::paths().collect();
    let homes: Vec<&str> = all
        .iter()
        .filter_map(|path| path.rsplit_once('.'))
        .filter(|(_, key)| *key == name)
        .map(|(home, _)| home)
        .collect();
    if !homes.is_empty() {
        return Fault::new(message, format!("it belongs to [{}]", homes.join("] or [")));
    }
    let mut known: Vec<&str> = all.iter().filter_map(|path| child(path, section)).collect();
    known.dedup();
    let help = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known here: {}", known.join(", ")),
    };
    Fault::new(message, help)
}

/// The next part of `path` below `section`.
fn child<'p>(path: &'p str, section: &str) -> Option<&'p str> {
    let below = match section {
        "" => path,
        _ => path.strip_prefix(section)?.strip_prefix('.')?,
    };
    below.split('.').next()
}

fn is_inside(path: &str, section: &str) -> bool {
    path.strip_prefix(section)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn join(parent: &str, name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let name = match !name.is_empty() && name.bytes().all(bare) {
        true => name.to_owned(),
        false => quote(name),
    };
    match parent {
        "" => name,
        _ => format!("{parent}.{name}"),
    }
}

/// `"model[0].sim"` as the file writes it: `"model.sim"`.
fn unindexed(path: &str) -> String {
    let before_index = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
    path.split('.')
        .map(before_index)
        .collect::<Vec<_>>()
        .join(".")
}
