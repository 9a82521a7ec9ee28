//! The one table of keys: name, meaning, bounds and place of each. The reader, the JSON schema, the
//! reference file and the hints in messages are all made from it, so a key is added here and in
//! `schema.rs` and nowhere else.
//!
//! It must not know TOML or JSON.

pub(crate) mod agent;
mod energy;
pub(crate) mod issuer;
mod model;
mod route;
mod server;
pub(crate) mod tenancy;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::schema::tenancy::{Currency, Role, StoreAway};
use crate::schema::{
    Config, Device, Discover, Kind, KvType, ModelName, Policy, Quantise, Runner, SelfTest,
    Speculation,
};
use crate::secret::SecretSource;
use crate::units::Range;

pub(crate) use energy::ENERGY;
pub(crate) use model::MODEL;
pub(crate) use route::ROUTE;
pub(crate) use upstream::{PEER, UPSTREAM};

/// A section of the file.
pub(crate) struct Section {
    /// Path of the section: `"model.sim"`.
    pub(crate) path: &'static str,
    /// What it is for.
    pub(crate) doc: &'static str,
    /// Written `[[path]]`, once for each of many.
    pub(crate) many: bool,
    /// A server without it is one as it should be.
    pub(crate) optional: bool,
    /// The section means nothing to other runners.
    pub(crate) only: Option<Runner>,
}

/// A key of the file, whose value has its place in an `S`.
pub(crate) struct Key<S: 'static> {
    /// Path below `S`: `"server.listen"`.
    pub(crate) path: &'static str,
    /// What it sets, with unit and consequence.
    pub(crate) doc: &'static str,
    /// Where a value goes, and what values there are.
    pub(crate) slot: fn(&mut S) -> Slot<'_>,
    /// There is no default that could be meant.
    pub(crate) required: bool,
    /// The key means nothing to other runners.
    pub(crate) only: Option<Runner>,
    /// A value as TOML, shown where leaving the key out differs from every value.
    pub(crate) example: Option<&'static str>,
}

/// The place of a value, with what is allowed there.
pub(crate) enum Slot<'a> {
    U32(&'a mut u32, Range),
    MaybeU32(&'a mut Option<u32>, Range),
    U64(&'a mut u64, Range),
    /// Bytes, as a whole number or as text such as `"256MiB"`.
    Size(&'a mut u64, Range),
    MaybeSize(&'a mut Option<u64>, Range),
    Id(&'a mut String),
    Source(&'a mut String),
    Address(&'a mut SocketAddr),
    /// An address or `"none"`.
    MaybeAddress(&'a mut Option<SocketAddr>),
    Runner(&'a mut Runner),
    Device(&'a mut Device),
    KvType(&'a mut KvType),
    Quantise(&'a mut Quantise),
    Flag(&'a mut bool),
    Path(&'a mut Option<PathBuf>),
    /// The path of a file, or `"env:NAME"`.
    Secret(&'a mut Option<SecretSource>),
    /// Names of fields.
    Words(&'a mut Vec<String>),
    Url(&'a mut String),
    MaybeUrl(&'a mut Option<String>),
    /// Lines of text.
    Lines(&'a mut Vec<String>),
    Models(&'a mut Vec<ModelName>),
    Kind(&'a mut Kind),
    Discover(&'a mut Discover),
    Policy(&'a mut Policy),
    MaybeId(&'a mut Option<String>),
    Country(&'a mut Option<String>),
    Countries(&'a mut Vec<String>),
    /// Names of sites.
    Sites(&'a mut Vec<String>),
    SelfTest(&'a mut SelfTest),
    Speculation(&'a mut Speculation),
    MaybeU64(&'a mut Option<u64>, Range),
    /// An id, or an empty text where it is left out.
    IdOrEmpty(&'a mut String),
    /// Several ids.
    Names(&'a mut Vec<String>),
    /// 64 hexadecimal digits.
    Digest(&'a mut String),
    /// A date or a time, as seconds since the epoch.
    Date(&'a mut Option<i64>),
    Role(&'a mut Role),
    Currency(&'a mut Currency),
    StoreAway(&'a mut Option<StoreAway>),
}

/// Every section, in the order of the reference.
pub(crate) fn sections() -> impl Iterator<Item = &'static Section> {
    SECTIONS
        .iter()
        .chain(&tenancy::SECTIONS)
        .chain(&issuer::SECTIONS)
        .chain(&agent::SECTIONS)
        .chain(&[ENERGY_SECTION])
}

const ENERGY_SECTION: Section = section(
    "energy",
    "What the work of this process takes, so that each answer can say it and routing can go by it.",
);

const SECTIONS: [Section; 9] = [
    section("server", "The listener for clients."),
    section("admin", "The listener for operators: metrics and health."),
    section(
        "limits",
        "What one request may ask for; more is refused with 400, or 413 for the body.",
    ),
    section(
        "route",
        "Where requests go that several upstreams could serve, and what happens when one of them fails.",
    ),
    Section {
        many: true,
        ..section(
            "model",
            "A model that this process serves itself, one section for each.",
        )
    },
    Section {
        only: Some(Runner::Sim),
        ..section(
            "model.sim",
            "Cost of the simulated model's steps: base + prefill tokens x prefill_token + \
             decoding sequences x decode_sequence.",
        )
    },
    section(
        "peer",
        "How servers of ours know each other. What a caller says of a request's tenant, deadline or seed is believed \
         only of a peer.",
    ),
    Section {
        many: true,
        optional: true,
        ..section(
            "node",
            "A server of this site that serves models for this one, one section for each.",
        )
    },
    Section {
        many: true,
        optional: true,
        ..section(
            "site",
            "The gateway of another site, one section for each. The keys are those of [[node]].",
        )
    },
];

const fn section(path: &'static str, doc: &'static str) -> Section {
    Section {
        path,
        doc,
        many: false,
        optional: false,
        only: None,
    }
}

impl<S> Clone for Key<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Key<S> {}

const fn key<S>(path: &'static str, doc: &'static str, slot: fn(&mut S) -> Slot<'_>) -> Key<S> {
    Key {
        path,
        doc,
        slot,
        required: false,
        only: None,
        example: None,
    }
}

impl<S> Key<S> {
    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn only(mut self, runner: Runner) -> Self {
        self.only = Some(runner);
        self
    }

    const fn example(mut self, toml: &'static str) -> Self {
        self.example = Some(toml);
        self
    }
}

/// All keys of the sections that are there once.
pub(crate) fn root() -> impl Iterator<Item = &'static Key<Config>> {
    let sections = server::ROOT.iter().chain(ROUTE).chain(PEER);
    let sections = sections.chain(&tenancy::QUOTA).chain(agent::ROOT);
    sections.chain(ENERGY)
}

/// Paths of all keys from the root of the file: `"model.sim.context_tokens"`.
pub(crate) fn paths() -> impl Iterator<Item = String> {
    fn below<S>(section: &'static str, keys: &'static [Key<S>]) -> impl Iterator<Item = String> {
        keys.iter()
            .map(move |key| format!("{section}.{}", key.path))
    }
    let of_root = root().map(|key| key.path.to_owned());
    of_root
        .chain(below("model", MODEL))
        .chain(below("node", UPSTREAM))
        .chain(below("site", UPSTREAM))
        .chain(below("tenant", tenancy::TENANT))
        .chain(below("key", tenancy::API_KEY))
        .chain(below("allocation", tenancy::ALLOCATION))
        .chain(below("price", tenancy::PRICE))
        .chain(below("rate", tenancy::RATE))
        .chain(below("job", agent::JOB))
        .chain(below("issuer", issuer::ISSUER))
        .chain(below("claim", issuer::CLAIM))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_has_one_place_and_a_known_section() {
        let all: Vec<String> = paths().collect();
        let different: BTreeSet<&String> = all.iter().collect();
        assert_eq!(all.len(), different.len());
        for path in &all {
            let (section, _) = path.rsplit_once('.').expect("no key outside a section");
            assert!(sections().any(|known| known.path == section), "{path}");
        }
    }
}
