//! Keys of the sections that say whose tokens are as good as keys.

use super::{Key, Section, Slot, key, section};
use crate::limits;
use crate::schema::issuer::{Claim, Issuer};

pub(crate) const SECTIONS: [Section; 2] = [
    Section {
        many: true,
        optional: true,
        ..section(
            "issuer",
            "An identity provider (OpenID Connect) whose tokens are as good as keys, such as MyAccessID; one section for \
             each. Its keys are fetched from its discovery document and fetched again when they change.",
        )
    },
    Section {
        many: true,
        optional: true,
        ..section(
            "claim",
            "What a token must say for its bearer to have a role in a tenant, one section for each. Of several tenants \
             a request names one in the header OpenAI-Project; otherwise the first section that fits counts.",
        )
    },
];

/// Keys of each `[[issuer]]`.
pub(crate) const ISSUER: &[Key<Issuer>] = &[
    key(
        "id",
        "Its name in [[claim]], records and messages.",
        |i: &mut Issuer| Slot::Id(&mut i.id),
    )
    .required(),
    key(
        "url",
        "Its URL as its tokens name it in `iss`; https, or http on this machine.",
        |i: &mut Issuer| Slot::Url(&mut i.url),
    )
    .required()
    .example("\"https://proxy.myaccessid.org\""),
    key(
        "audiences",
        "What tokens must be made for: one of these stands in their `aud`. A token for another service is refused.",
        |i: &mut Issuer| Slot::Names(&mut i.audiences),
    )
    .required()
    .example("[\"hansa\"]"),
    key(
        "algorithms",
        "Algorithms of signatures that are taken: RS256 to RS512, PS256 to PS512, ES256, ES384, EdDSA.",
        |i: &mut Issuer| Slot::Names(&mut i.algorithms),
    )
    .example("[\"RS256\", \"ES256\"]"),
    key(
        "leeway_s",
        "Seconds by which its clock and ours may differ, when a token begins and ends.",
        |i| Slot::U32(&mut i.leeway_s, limits::LEEWAY_S),
    ),
    key(
        "ca_file",
        "PEM file of the authorities that sign its certificate. Left out: the public ones.",
        |i: &mut Issuer| Slot::Path(&mut i.ca_file),
    )
    .example("\"/etc/hansa/ca.pem\""),
];

/// Keys of each `[[claim]]`.
pub(crate) const CLAIM: &[Key<Claim>] = &[
    key(
        "issuer",
        "Who says it: the id of an [[issuer]].",
        |c: &mut Claim| Slot::Id(&mut c.issuer),
    )
    .required(),
    key(
        "claim",
        "Name of the claim, such as eduperson_entitlement or groups.",
        |c: &mut Claim| Slot::Id(&mut c.claim),
    )
    .required(),
    key(
        "value",
        "What it says; one of them where it is a list.",
        |c: &mut Claim| Slot::Id(&mut c.value),
    )
    .required()
    .example("\"urn:example:project:research\""),
    key(
        "tenant",
        "Where the bearer then belongs: the id of a [[tenant]], or of one that is made while the server runs.",
        |c: &mut Claim| Slot::Id(&mut c.tenant),
    )
    .required(),
    key(
        "role",
        "What the bearer may do there, as with keys.",
        |c: &mut Claim| Slot::Role(&mut c.role),
    ),
];
