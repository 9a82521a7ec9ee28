//! Keys of the sections that say who may use the server, and how much.

use super::{Key, Section, Slot, key, section};
use crate::limits;
use crate::schema::Config;
use crate::schema::tenancy::{Allocation, ApiKey, Price, RateOf, Tenant};

pub(crate) const SECTIONS: [Section; 6] = [
    many(
        "tenant",
        "Who uses the server: an organisation, or a project of one; one section for each.",
    ),
    many(
        "key",
        "A key of the API, one section for each; `hansa key new` makes one. With keys, every request \
         needs one, and the server may listen on open networks.",
    ),
    many(
        "allocation",
        "What a tenant may spend in all, one section for each. A tenant without any is bounded by its \
         rates alone; one with some spends those of the site that serves it first.",
    ),
    many(
        "price",
        "What a million tokens of a model cost, in millionths of the unit of money.",
    ),
    many("rate", "Bounds of a model or of a site, whoever asks."),
    section("quota", "The ledger, and what is reserved."),
];

const fn many(path: &'static str, doc: &'static str) -> Section {
    Section {
        many: true,
        optional: true,
        ..section(path, doc)
    }
}

/// Keys of `[quota]`.
pub(crate) const QUOTA: [Key<Config>; 7] = [
    key(
        "quota.ledger",
        "File that keeps what was spent, and the tenants, keys and allocations that are set while the \
         server runs. Left out: in memory, and forgotten when the server ends.",
        |c: &mut Config| Slot::Path(&mut c.quota.ledger),
    )
    .example("\"/var/lib/hansa/ledger.redb\""),
    key(
        "quota.store",
        "File, or \"env:NAME\", with the URL of a PostgreSQL database in place of the file: gateways with the same one share \
         all rates, allocations and records, and should have the same sections here. TLS is used unless the URL says \
         sslmode=disable. The server must not stand behind a pooler of transactions.",
        |c: &mut Config| Slot::Secret(&mut c.quota.store),
    )
    .example("\"env:HANSA_STORE\""),
    key(
        "quota.store_ca",
        "PEM file with the authority that signs the database's certificate. Left out: the public ones.",
        |c: &mut Config| Slot::Path(&mut c.quota.store_ca),
    )
    .example("\"/etc/hansa/store-ca.pem\""),
    key(
        "quota.lease_ttl_ms",
        "How long a gateway that the store no longer hears of keeps what it has on lease; it uses it for two thirds of that.",
        |c| Slot::U32(&mut c.quota.lease_ttl_ms, limits::LEASE_TTL_MS),
    ),
    key(
        "quota.site",
        "The site that this server is, in allocations, prices and records.",
        |c| Slot::Id(&mut c.quota.site),
    ),
    key(
        "quota.default_max_tokens",
        "Tokens that a choice may have where a client with a key names no number: as many are reserved.",
        |c| {
            Slot::U32(
                &mut c.quota.default_max_tokens,
                limits::OUTPUT_TOKENS,
            )
        },
    ),
    key(
        "quota.retention_days",
        "Days after which the records of requests are deleted; what was spent stays counted. Left out: never.",
        |c: &mut Config| Slot::MaybeU32(&mut c.quota.retention_days, limits::RETENTION_DAYS),
    )
    .example("365"),
];

/// The six bounds, for whatever has them as its field `rates`.
macro_rules! rates {
    ($type:ty) => {
        [
            key(
                "requests_per_minute",
                "Requests in a minute. Left out, as with the next five: no bound.",
                |s: &mut $type| Slot::MaybeU64(&mut s.rates.requests_per_minute, limits::RATE),
            )
            .example("600"),
            key(
                "input_tokens_per_minute",
                "Tokens of prompts in a minute.",
                |s: &mut $type| Slot::MaybeU64(&mut s.rates.input_tokens_per_minute, limits::RATE),
            )
            .example("1000000"),
            key(
                "output_tokens_per_minute",
                "Tokens of completions in a minute.",
                |s: &mut $type| Slot::MaybeU64(&mut s.rates.output_tokens_per_minute, limits::RATE),
            )
            .example("200000"),
            key(
                "tokens_per_minute",
                "Tokens of both in a minute.",
                |s: &mut $type| Slot::MaybeU64(&mut s.rates.tokens_per_minute, limits::RATE),
            )
            .example("1000000"),
            key("concurrent_max", "Requests at once.", |s: &mut $type| {
                Slot::MaybeU32(&mut s.rates.concurrent_max, limits::AT_ONCE)
            })
            .example("64"),
            key(
                "queued_max",
                "Requests that wait for their first content.",
                |s: &mut $type| Slot::MaybeU32(&mut s.rates.queued_max, limits::AT_ONCE),
            )
            .example("16"),
        ]
    };
}

const TENANT_RATES: [Key<Tenant>; 6] = rates!(Tenant);
const KEY_RATES: [Key<ApiKey>; 6] = rates!(ApiKey);
const OF_RATES: [Key<RateOf>; 6] = rates!(RateOf);

/// Keys of each `[[tenant]]`.
pub(crate) const TENANT: &[Key<Tenant>] = &join::<Tenant, 11, 17>(
    [
        key(
            "id",
            "The organisation as `acme`, or the project as `acme/research`.",
            |t: &mut Tenant| Slot::Id(&mut t.id),
        )
        .required(),
        key(
            "countries",
            "Countries that may serve it, by ISO 3166 code. Left out or empty, as with all lists here: \
             any. A project has what its organisation has as well.",
            |t: &mut Tenant| Slot::Names(&mut t.countries),
        )
        .example("[\"DE\", \"FI\"]"),
        key("sites", "Sites that may serve it.", |t: &mut Tenant| {
            Slot::Names(&mut t.sites)
        })
        .example("[\"kajaani\"]"),
        key(
            "purposes",
            "Purposes that its requests may name.",
            |t: &mut Tenant| Slot::Names(&mut t.purposes),
        )
        .example("[\"research\"]"),
        key("models", "Models that it may use.", |t: &mut Tenant| {
            Slot::Names(&mut t.models)
        })
        .example("[\"smollm2-135m-instruct\"]"),
        key(
            "experimental",
            "Whether its requests may go to sites and nodes that are marked experimental.",
            |t: &mut Tenant| Slot::Flag(&mut t.experimental),
        ),
        key(
            "pool",
            "Tenants with the same name here share cached prompts, and could find out by timing what \
             the others asked. Left out: its own.",
            |t: &mut Tenant| Slot::IdOrEmpty(&mut t.pool),
        )
        .example("\"acme\""),
        key(
            "store_away",
            "What it gets while the store that gateways share is away. closed: nothing. safe: what its gateway has on lease. \
             open: beyond that open_tokens_per_minute at each gateway. Left out: as its organisation, or safe.",
            |t: &mut Tenant| Slot::StoreAway(&mut t.rates.store_away),
        )
        .example("\"open\""),
        key(
            "open_tokens_per_minute",
            "Tokens of prompt and completion in a minute at each gateway while the store is away, where store_away says \"open\".",
            |t: &mut Tenant| Slot::MaybeU64(&mut t.rates.open_tokens_per_minute, limits::RATE),
        )
        .example("10000"),
        key(
            "retention_days",
            "Days after which its records are deleted. Left out: as [quota] says, or its organisation.",
            |t: &mut Tenant| Slot::MaybeU32(&mut t.retention_days, limits::RETENTION_DAYS),
        )
        .example("365"),
        key(
            "high_risk",
            "Whether its use is high-risk by the EU's AI Act (Articles 19 and 26): its records are then kept for at least \
             six months, and cannot be deleted before.",
            |t: &mut Tenant| Slot::Flag(&mut t.high_risk),
        ),
    ],
    TENANT_RATES,
);

/// Keys of each `[[key]]`.
pub(crate) const API_KEY: &[Key<ApiKey>] = &join::<ApiKey, 8, 14>(
    [
        key(
            "id",
            "Its name in records and messages; not the secret.",
            |k: &mut ApiKey| Slot::Id(&mut k.id),
        )
        .required(),
        key("tenant", "Whose it is: the id of a [[tenant]].", |k: &mut ApiKey| {
            Slot::Id(&mut k.tenant)
        })
        .required(),
        key(
            "sha256",
            "SHA-256 of the key in 64 hexadecimal digits, as `hansa key new` prints it.",
            |k: &mut ApiKey| Slot::Digest(&mut k.sha256),
        )
        .required()
        .example("\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\""),
        key(
            "role",
            "What it may do: a member uses models, a manager also reads its tenant's records, an \
             operator also uses the admin API.",
            |k: &mut ApiKey| Slot::Role(&mut k.role),
        ),
        key(
            "expires",
            "Date or time from which it no longer works. To rotate a key, give the new one a section of \
             its own and the old one a date.",
            |k: &mut ApiKey| Slot::Date(&mut k.expires_s),
        )
        .example("2027-01-01"),
        key("models", "Models that it may use.", |k: &mut ApiKey| {
            Slot::Names(&mut k.models)
        })
        .example("[\"smollm2-135m-instruct\"]"),
        key(
            "endpoints",
            "Endpoints that it may use, by their path below /v1/.",
            |k: &mut ApiKey| Slot::Names(&mut k.endpoints),
        )
        .example("[\"chat/completions\"]"),
        key("sites", "Sites that may serve it.", |k: &mut ApiKey| {
            Slot::Names(&mut k.sites)
        })
        .example("[\"kajaani\"]"),
    ],
    KEY_RATES,
);

/// Keys of each `[[rate]]`.
pub(crate) const RATE: &[Key<RateOf>] = &join::<RateOf, 2, 8>(
    [
        key("model", "The model; this or a site.", |r: &mut RateOf| {
            Slot::IdOrEmpty(&mut r.model)
        })
        .example("\"smollm2-135m-instruct\""),
        key("site", "The site; this or a model.", |r: &mut RateOf| {
            Slot::IdOrEmpty(&mut r.site)
        })
        .example("\"kajaani\""),
    ],
    OF_RATES,
);

/// Keys of each `[[allocation]]`.
pub(crate) const ALLOCATION: &[Key<Allocation>] = &[
    key(
        "id",
        "Its name in records and messages. What was spent is kept under it, so give another id to \
         one that starts or renews at other times.",
        |a: &mut Allocation| Slot::Id(&mut a.id),
    )
    .required(),
    key(
        "tenant",
        "Whose it is: the id of a [[tenant]].",
        |a: &mut Allocation| Slot::Id(&mut a.tenant),
    )
    .required(),
    key(
        "site",
        "The site that it is good for. Left out: any.",
        |a: &mut Allocation| Slot::IdOrEmpty(&mut a.site),
    )
    .example("\"kajaani\""),
    key(
        "currency",
        "What it is counted in: tokens of prompt and completion, money by the prices of [[price]], gpu_seconds of the devices that \
         models run on, or joules. The last two are known at the end alone: a request begins while anything is left.",
        |a: &mut Allocation| Slot::Currency(&mut a.currency),
    ),
    key(
        "amount",
        "How much in each period, in whole units.",
        |a: &mut Allocation| Slot::U64(&mut a.amount, limits::AMOUNT),
    )
    .required(),
    key("overdraft", "How much more may be spent.", |a| {
        Slot::U64(&mut a.overdraft, limits::AMOUNT)
    }),
    key(
        "soft_percent",
        "Percent of the amount from which answers carry a warning; 100 for never.",
        |a| Slot::U32(&mut a.soft_percent, limits::PERCENT),
    ),
    key(
        "start",
        "Date or time of its beginning. Left out: 1970.",
        |a: &mut Allocation| Slot::Date(&mut a.start_s),
    )
    .example("2026-01-01"),
    key(
        "end",
        "Date or time of its end. Left out: never.",
        |a: &mut Allocation| Slot::Date(&mut a.end_s),
    )
    .example("2027-01-01"),
    key(
        "renew_days",
        "Days from its beginning after which it begins anew, again and again; 0 for one period.",
        |a| Slot::U32(&mut a.renew_days, limits::PERIOD_DAYS),
    ),
    key(
        "carry_over_percent",
        "Percent of what is left that goes over into the next period.",
        |a| Slot::U32(&mut a.carry_over_percent, limits::PERCENT),
    ),
];

/// Keys of each `[[price]]`.
pub(crate) const PRICE: &[Key<Price>] = &[
    key("model", "The model.", |p: &mut Price| {
        Slot::Id(&mut p.model)
    })
    .required(),
    key(
        "site",
        "The site. Left out: any that has no price of its own.",
        |p: &mut Price| Slot::IdOrEmpty(&mut p.site),
    )
    .example("\"kajaani\""),
    key(
        "input",
        "A million prompt tokens; 250000 is a quarter of the unit.",
        |p| Slot::U64(&mut p.input, limits::PRICE),
    ),
    key(
        "cached",
        "A million prompt tokens that were found in a prefix cache. Left out: as the others.",
        |p: &mut Price| Slot::MaybeU64(&mut p.cached, limits::PRICE),
    )
    .example("25000"),
    key("output", "A million completion tokens.", |p| {
        Slot::U64(&mut p.output, limits::PRICE)
    }),
];

/// One table of two.
const fn join<S, const A: usize, const N: usize>(
    first: [Key<S>; A],
    then: [Key<S>; 6],
) -> [Key<S>; N] {
    let mut all = [then[0]; N];
    let mut index = 0;
    while index < N {
        all[index] = if index < A {
            first[index]
        } else {
            then[index - A]
        };
        index += 1;
    }
    all
}
