//! The files made from the table of keys, so that they cannot disagree with the reader: the JSON
//! schema for editors (`schema.json`) and the config that shows everything
//! (`examples/reference.toml`).

mod json_schema;
mod reference;

pub use json_schema::json_schema;
pub use reference::reference;

use crate::keys::{self, Key, MODEL, Slot, UPSTREAM, issuer, tenancy};
use crate::limits;
use crate::schema::tenancy::StoreAway;
use crate::schema::{Choice, Config, Runner};
use crate::units::{Range, show_size};

/// What a key takes, and what it is where the file leaves it out.
enum Form {
    Whole(Range, Option<u64>),
    Size(Range, Option<u64>),
    /// A regular expression that the text matches, and its longest length in bytes.
    Text(String, usize, Option<String>),
    Word(Vec<&'static str>, &'static str),
    Flag(bool),
    /// A date or time; TOML has its own form for these.
    Date,
    /// So many texts at most, each matched by a regular expression.
    List(&'static str, usize),
}

/// A key without its place.
struct Fact {
    name: &'static str,
    doc: &'static str,
    form: Form,
    required: bool,
    only: Option<Runner>,
    example: Option<&'static str>,
}

impl Fact {
    /// What is allowed, in words; empty where the doc says it all.
    fn allowed(&self) -> String {
        let values = match &self.form {
            Form::Whole(range, _) => format!("{range}."),
            Form::Size(range, _) => {
                format!(
                    "{} to {}, as text or as plain bytes.",
                    show_size(range.min),
                    show_size(range.max)
                )
            }
            Form::Word(words, _) => format!("One of {}.", words.join(", ")),
            Form::Text(..) | Form::Date => String::new(),
            Form::Flag(_) => "true or false.".to_owned(),
            Form::List(_, max) => format!("At most {max}."),
        };
        match self.only {
            Some(runner) => format!("{values} Only with runner = {:?}.", runner.name())
                .trim()
                .to_owned(),
            None => values,
        }
    }
}

/// The keys of the section at `path`, in the table's order.
fn facts(path: &str) -> Vec<Fact> {
    let (first, below) = path.split_once('.').unwrap_or((path, ""));
    match first {
        "model" => facts_of(MODEL.iter(), below),
        "node" | "site" => facts_of(UPSTREAM.iter(), below),
        "tenant" => facts_of(tenancy::TENANT.iter(), below),
        "key" => facts_of(tenancy::API_KEY.iter(), below),
        "allocation" => facts_of(tenancy::ALLOCATION.iter(), below),
        "price" => facts_of(tenancy::PRICE.iter(), below),
        "rate" => facts_of(tenancy::RATE.iter(), below),
        "job" => facts_of(keys::agent::JOB.iter(), below),
        "issuer" => facts_of(issuer::ISSUER.iter(), below),
        "claim" => facts_of(issuer::CLAIM.iter(), below),
        _ => {
            let mut config = Config::default();
            let facts = keys::root().filter_map(|key| fact(key, path, &mut config));
            facts.collect()
        }
    }
}

fn facts_of<S: Default + 'static>(
    keys: impl Iterator<Item = &'static Key<S>>,
    below: &str,
) -> Vec<Fact> {
    let mut defaults = S::default();
    keys.filter_map(|key| fact(key, below, &mut defaults))
        .collect()
}

fn fact<S>(key: &Key<S>, section: &str, defaults: &mut S) -> Option<Fact> {
    let (parent, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
    (parent == section).then(|| Fact {
        name,
        doc: key.doc,
        form: form((key.slot)(defaults)),
        required: key.required,
        only: key.only,
        example: key.example,
    })
}

fn form(slot: Slot<'_>) -> Form {
    const ADDRESS: &str = r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}";
    /// Bytes of the longest IPv6 address with scope and port.
    const ADDRESS_BYTES_MAX: usize = 64;
    match slot {
        Slot::U32(at, range) => Form::Whole(range, Some(u64::from(*at))),
        Slot::MaybeU32(at, range) => Form::Whole(range, at.map(u64::from)),
        Slot::U64(at, range) => Form::Whole(range, Some(*at)),
        Slot::Size(at, range) => Form::Size(range, Some(*at)),
        Slot::MaybeSize(at, range) => Form::Size(range, *at),
        Slot::Id(at) => Form::Text(
            "^[!-~]+$".to_owned(),
            limits::ID_BYTES_MAX,
            Some(at.clone()),
        ),
        // Left out, it follows the id.
        Slot::Source(_) => Form::Text(r"^.*\S.*$".to_owned(), limits::SOURCE_BYTES_MAX, None),
        Slot::Address(at) => Form::Text(
            format!("^{ADDRESS}$"),
            ADDRESS_BYTES_MAX,
            Some(at.to_string()),
        ),
        Slot::MaybeAddress(at) => {
            let default = at.map_or("none".to_owned(), |address| address.to_string());
            Form::Text(
                format!("^(none|{ADDRESS})$"),
                ADDRESS_BYTES_MAX,
                Some(default),
            )
        }
        Slot::Device(at) => Form::Text(
            "^(cpu|cuda:[0-9]+)$".to_owned(),
            "cuda:63".len(),
            Some(at.to_string()),
        ),
        Slot::Runner(at) => word(*at),
        Slot::KvType(at) => word(*at),
        Slot::Quantise(at) => word(*at),
        Slot::Flag(at) => Form::Flag(*at),
        Slot::Path(_) | Slot::Secret(_) => {
            Form::Text(r"^.*\S.*$".to_owned(), limits::SOURCE_BYTES_MAX, None)
        }
        Slot::Words(_) => Form::List("^[!-~]+$", limits::PASS_FIELDS_MAX),
        Slot::Models(_) => Form::List("^[!-~]+( = [!-~]+)?$", limits::UPSTREAM_MODELS_MAX),
        Slot::Lines(_) => Form::List(r"^.*\S.*$", limits::JOB_LINES_MAX),
        Slot::Url(_) | Slot::MaybeUrl(_) => {
            Form::Text("^https?://[!-~]+$".to_owned(), limits::URL_BYTES_MAX, None)
        }
        Slot::Country(_) => Form::Text("^[A-Z][A-Z]$".to_owned(), 2, None),
        Slot::Kind(at) => word(*at),
        Slot::Discover(at) => word(*at),
        Slot::Policy(at) => word(*at),
        Slot::MaybeId(_) | Slot::IdOrEmpty(_) => {
            Form::Text("^[!-~]+$".to_owned(), limits::ID_BYTES_MAX, None)
        }
        Slot::Countries(_) => Form::List("^[A-Z][A-Z]$", limits::ALLOW_LIST_MAX),
        Slot::Sites(_) => Form::List("^[!-~]+$", limits::ALLOW_LIST_MAX),
        Slot::SelfTest(at) => word(*at),
        Slot::Speculation(at) => word(*at),
        Slot::MaybeU64(at, range) => Form::Whole(range, *at),
        Slot::Names(_) => Form::List("^[!-~]+$", limits::NAMES_MAX),
        Slot::Digest(_) => Form::Text("^[0-9a-fA-F]{64}$".to_owned(), 64, None),
        Slot::Date(_) => Form::Date,
        Slot::Role(at) => word(*at),
        Slot::Currency(at) => word(*at),
        Slot::StoreAway(at) => word(at.unwrap_or(StoreAway::Safe)),
    }
}

fn word<C: Choice>(default: C) -> Form {
    Form::Word(
        C::ALL.iter().map(|choice| choice.name()).collect(),
        default.name(),
    )
}
