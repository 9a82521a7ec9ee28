//! Keys of `[[node]]` and `[[site]]`, and of `[peer]`.

use super::{Key, Slot, key};
use crate::limits;
use crate::schema::{Config, Upstream};

/// Keys of each `[[node]]` and `[[site]]`.
pub(crate) const UPSTREAM: &[Key<Upstream>] = &[
    key(
        "name",
        "Name in logs, in routing decisions and in lists of allowed sites.",
        |u: &mut Upstream| Slot::Id(&mut u.name),
    )
    .required(),
    key(
        "url",
        "Where it answers: http:// or https://, a host, perhaps a port, perhaps a path below which /v1 lies. Only with \
         discover = \"agent\" it is left out.",
        |u: &mut Upstream| Slot::Url(&mut u.url),
    )
    .example("\"http://127.0.0.1:8081\""),
    key(
        "kind",
        "What it speaks: \"hansa\" is another server of ours, \"openai\" anything with OpenAI's API (vLLM, SGLang, \
         llama.cpp).",
        |u: &mut Upstream| Slot::Kind(&mut u.kind),
    ),
    key(
        "models",
        "The models that it serves, each by its name here; \"NAME = THEIRS\" where it has another name there.",
        |u: &mut Upstream| Slot::Models(&mut u.models),
    )
    .required()
    .example("[\"llama-3-8b\", \"qwen = Qwen/Qwen3-8B\"]"),
    key(
        "key_file",
        "Its API key: the path of a file that holds it, or env:NAME. Only with kind = \"openai\".",
        |u: &mut Upstream| Slot::Secret(&mut u.key_file),
    )
    .example("\"env:VLLM_KEY\""),
    key(
        "pass_fields",
        "Fields of a request that only its engine knows and that are passed on unread; other unknown fields are \
         refused. Only with kind = \"openai\".",
        |u: &mut Upstream| Slot::Words(&mut u.pass_fields),
    ),
    key(
        "ca_file",
        "PEM file with the certificates that may sign its own. Left out: peer.ca for kind = \"hansa\", the public \
         authorities otherwise.",
        |u: &mut Upstream| Slot::Path(&mut u.ca_file),
    )
    .example("\"/etc/hansa/ca.pem\""),
    key(
        "discover",
        "How its instances are found: \"static\" is one at the URL, \"dns\" one at each address of the URL's name, \
         looked up again and again, \"file\" one at each line of addresses_file, which is watched, \"agent\" those that \
         call this server themselves ([dial], `hansa agent`).",
        |u: &mut Upstream| Slot::Discover(&mut u.discover),
    ),
    key(
        "addresses_file",
        "File with one IP address and port a line; # begins a comment. Only with discover = \"file\".",
        |u: &mut Upstream| Slot::Path(&mut u.addresses_file),
    )
    .example("\"/run/hansa/nodes\""),
    key(
        "connect_timeout_ms",
        "Time for a connection to be there, TLS included.",
        |u: &mut Upstream| Slot::U64(&mut u.connect_timeout_ms, limits::UPSTREAM_TIMEOUT_MS),
    ),
    key(
        "first_byte_timeout_ms",
        "Time between sending a request and the head of its answer. A server of ours answers at the latest after its \
         ping_after_ms.",
        |u: &mut Upstream| Slot::U64(&mut u.first_byte_timeout_ms, limits::UPSTREAM_TIMEOUT_MS),
    ),
    key(
        "idle_timeout_ms",
        "Silence on a stream after which it counts as dead. Servers of ours are never silent for longer than their \
         ping_after_ms.",
        |u: &mut Upstream| Slot::U64(&mut u.idle_timeout_ms, limits::UPSTREAM_TIMEOUT_MS),
    ),
    key(
        "country",
        "The country that it stands in, two capital letters of ISO 3166. Left out: unknown, which no list of countries \
         allows.",
        |u: &mut Upstream| Slot::Country(&mut u.country),
    )
    .example("\"FI\""),
    key(
        "experimental",
        "Whether only requests that opt in go there.",
        |u: &mut Upstream| Slot::Flag(&mut u.experimental),
    ),
    key(
        "ends_at",
        "When its machine is taken away: no request goes there that would go on beyond it. A server of ours tells its \
         end itself.",
        |u: &mut Upstream| Slot::Date(&mut u.ends_at_s),
    )
    .example("2027-01-01T06:00:00Z"),
    key(
        "rtt_ms",
        "Round-trip time to assume before one was measured.",
        |u: &mut Upstream| Slot::MaybeU32(&mut u.rtt_ms, limits::RTT_MS),
    )
    .example("20"),
    key(
        "millijoules_per_token",
        "Energy of a token that it produces, overheads of the building included, where it does not tell itself.",
        |u: &mut Upstream| Slot::MaybeU64(&mut u.millijoules_per_token, limits::MILLIJOULES),
    )
    .example("400"),
    key(
        "grams_per_kwh",
        "Carbon of the electricity there, in grams of CO2 for a kilowatt-hour, where it does not tell itself.",
        |u: &mut Upstream| Slot::MaybeU64(&mut u.grams_per_kwh, limits::GRAMS_PER_KWH),
    )
    .example("79"),
];

/// Keys of `[peer]`.
pub(crate) const PEER: &[Key<Config>] = &[
    key(
        "peer.secret_file",
        "A secret that all peers share: the path of a file that holds it, or env:NAME. It is sent with every request to \
         a peer, so use https between machines.",
        |c: &mut Config| Slot::Secret(&mut c.peer.secret_file),
    )
    .example("\"env:HANSA_PEER_SECRET\""),
    key(
        "peer.cert",
        "PEM file with the certificate that this server shows to its peers.",
        |c: &mut Config| Slot::Path(&mut c.peer.cert),
    )
    .example("\"/etc/hansa/peer.pem\""),
    key(
        "peer.key",
        "PEM file with the key of peer.cert.",
        |c: &mut Config| Slot::Path(&mut c.peer.key),
    )
    .example("\"/etc/hansa/peer.key\""),
    key(
        "peer.ca",
        "PEM file with the certificates that sign those of peers, for calls to and from them. With it and \
         server.tls_cert a caller that shows such a certificate is a peer.",
        |c: &mut Config| Slot::Path(&mut c.peer.ca),
    )
    .example("\"/etc/hansa/peers.pem\""),
];
