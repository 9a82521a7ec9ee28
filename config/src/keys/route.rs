//! Keys of `[route]`.

use super::{Key, Slot, key};
use crate::limits;
use crate::schema::Config;

/// Keys of `[route]`.
pub(crate) const ROUTE: &[Key<Config>] = &[
    key(
        "route.policy",
        "How one of the upstreams that may serve is picked: \"cost\" by the expected time until the answer is \
         complete, \"round_robin\" in turn, \"least_load\" by the sequences there, \"prefix\" where the beginning of \
         the prompt was served before, \"weighted\" by chance.",
        |c| Slot::Policy(&mut c.route.policy),
    ),
    key(
        "route.home_site",
        "The site that this server belongs to: models of this process count as there, and requests stay there while \
         that costs little.",
        |c: &mut Config| Slot::MaybeId(&mut c.route.home_site),
    )
    .example("\"lumi\""),
    key(
        "route.home_country",
        "The country of models of this process, two capital letters of ISO 3166. Left out: unknown, which no list of \
         countries allows.",
        |c: &mut Config| Slot::Country(&mut c.route.home_country),
    )
    .example("\"FI\""),
    key(
        "route.allow_countries",
        "Countries that requests may go to, two capital letters of ISO 3166 each; empty for any. A tenant's own list \
         can only narrow it.",
        |c: &mut Config| Slot::Countries(&mut c.route.allow_countries),
    ),
    key(
        "route.allow_sites",
        "Sites that requests may go to; empty for any. A tenant's own list can only narrow it.",
        |c: &mut Config| Slot::Sites(&mut c.route.allow_sites),
    ),
    key(
        "route.band_percent",
        "Upstreams whose cost is so much above the lowest share its requests.",
        |c| Slot::U32(&mut c.route.band_percent, limits::BAND_PERCENT),
    ),
    key(
        "route.hysteresis_ms",
        "Time that the home site, or the upstream that knows the session, may cost more before requests leave it.",
        |c| Slot::U64(&mut c.route.hysteresis_ms, limits::HYSTERESIS_MS),
    ),
    key(
        "route.carbon_ms_per_gram",
        "Waiting time that a gram of CO2 is worth; 0 leaves carbon out of the cost.",
        |c| Slot::U64(&mut c.route.carbon_ms_per_gram, limits::CARBON_MS),
    ),
    key(
        "route.prefix_index_bytes",
        "Bytes of the index that remembers where the beginnings of prompts were served.",
        |c| Slot::Size(&mut c.route.prefix_index_bytes, limits::PREFIX_INDEX_BYTES),
    ),
    key(
        "route.attempts_max",
        "Upstreams that one request may be sent to before its answer begins, one after the other.",
        |c| Slot::U32(&mut c.route.attempts_max, limits::ATTEMPTS),
    ),
    key(
        "route.retry_percent",
        "Retries of failed requests that an upstream may get, in percent of its other requests.",
        |c| Slot::U32(&mut c.route.retry_percent, limits::PERCENT),
    ),
    key(
        "route.retry_per_s",
        "Retries that an upstream may get a second beyond these percent.",
        |c| Slot::U32(&mut c.route.retry_per_s, limits::RETRIES_PER_S),
    ),
    key(
        "route.moves_in_flight_max",
        "Requests whose connection died that are on their way to another upstream at once; further ones wait.",
        |c| Slot::U32(&mut c.route.moves_in_flight_max, limits::MOVES),
    ),
    key(
        "route.queue_max",
        "Requests of one model that wait at this server while each of several upstreams has a line of its own, in \
         order of class (header `x-hansa-class`, \"interactive\" or \"batch\") and fairly between tenants; 0 leaves \
         the order to the upstreams.",
        |c| Slot::U32(&mut c.route.queue_max, limits::ROUTE_QUEUE),
    ),
    key(
        "route.resumes_max",
        "Times that a stream whose upstream died is continued elsewhere, token for token; 0 ends it with an error.",
        |c| Slot::U32(&mut c.route.resumes_max, limits::RESUMES),
    ),
    key(
        "route.hedge_after_ms",
        "Silence after which a request with a short prompt is sent to a second upstream too; the first to answer \
         wins. Left out: never.",
        |c: &mut Config| Slot::MaybeU32(&mut c.route.hedge_after_ms, limits::HEDGE_AFTER_MS),
    )
    .example("2000"),
    key(
        "route.hedge_prompt_bytes_max",
        "Bytes of a prompt that counts as short there.",
        |c| Slot::Size(&mut c.route.hedge_prompt_bytes_max, limits::HEDGE_PROMPT_BYTES),
    ),
    key(
        "route.eject_failures",
        "Failures in a row after which an upstream gets no requests for a time.",
        |c| Slot::U32(&mut c.route.eject_failures, limits::EJECT_FAILURES),
    ),
    key(
        "route.eject_ms",
        "That time; the n-th lasts n times as long.",
        |c| Slot::U64(&mut c.route.eject_ms, limits::EJECT_MS),
    ),
    key(
        "route.eject_percent_max",
        "Upstreams of a model that may be without requests at once for their failures, in percent.",
        |c| Slot::U32(&mut c.route.eject_percent_max, limits::PERCENT),
    ),
    key(
        "route.slow_start_ms",
        "Time in which an upstream that recovered comes back to its usual share.",
        |c| Slot::U64(&mut c.route.slow_start_ms, limits::SLOW_START_MS),
    ),
];
