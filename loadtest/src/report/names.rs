//! What each figure means, and what other tools call it. Part of every report, so that nobody has to guess.

use serde::Serialize;

/// Names of one figure.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Alias {
    /// Here.
    pub hansa: &'static str,
    /// In `vllm bench serve`.
    pub vllm: &'static str,
    /// In aiperf and genai-perf.
    pub aiperf: &'static str,
    /// In guidellm.
    pub guidellm: &'static str,
}

/// What each figure means.
pub const DEFINITIONS: [(&str, &str); 26] = [
    (
        "good",
        "finish_reason and [DONE] seen, no error event, the model asked for, usage consistent with the stream, some \
         content; everything else failed",
    ),
    (
        "latencies",
        "of good requests only; percentiles within 0.1 %, mean and maximum exact",
    ),
    (
        "service",
        "counted from the actual send; opening a connection, where none was idle, is included",
    ),
    (
        "response",
        "counted from the due time of the schedule: what a user felt who came on time",
    ),
    ("ttfb", "to the first byte of the response body"),
    (
        "ttft",
        "to the first event with non-empty content, reasoning or tool call (vllm: first event with choices, may be \
         empty; aiperf, guidellm: the same as here)",
    ),
    (
        "e2e",
        "to the [DONE] event (vllm, aiperf: to the last content; guidellm: to the end of the stream)",
    ),
    (
        "tpot",
        "(last content - first content) / (n - 1), one value a request, n = usage.completion_tokens; none for n = 1 or \
         where all content came in one event (aiperf, guidellm: inter-token latency)",
    ),
    (
        "itl",
        "gap between successive content events, pooled over requests; an event may hold several tokens (aiperf: ICL)",
    ),
    (
        "ntpot",
        "e2e / n, one value a request (inference-perf: NTPOT; guidellm's time_per_output_token ends at the last token)",
    ),
    (
        "goodput",
        "good requests within every limit of a single request, of all requests, failed ones included (vllm: of the \
         successful ones only, and one token passes every tpot)",
    ),
    (
        "objectives",
        "percentiles over all requests, failed ones counted as answers that never came; response view unless said",
    ),
    (
        "fairness",
        "Jain's index over tenants, of output tokens per weight and of good fractions: 1 is even, 1/n is one takes all",
    ),
    (
        "faults",
        "served_again: from a fault's beginning to the first content of a good request due after it (failover time); all until \
         the next fault begins",
    ),
    (
        "output_tok_s",
        "usage.completion_tokens of good requests / wall_s",
    ),
    (
        "prompt_tok_s",
        "usage.prompt_tokens of good requests / wall_s, whether cached or not",
    ),
    (
        "wall_s",
        "from the start of the run to the end of its last request",
    ),
    (
        "lag",
        "actual send - due time, of all requests sent; in a closed loop a request is due when its user's last one is over",
    ),
    (
        "stall",
        "how late the client's event loop woke up from a timer that is due every 10 ms, never moved",
    ),
    (
        "cached",
        "usage.prompt_tokens_details.cached_tokens, of the prompt tokens of good requests that tell them",
    ),
    (
        "joules, grams",
        "as the server estimates them: hansa.joules and hansa.grams of the final usage, or the headers x-hansa-joules and \
         x-hansa-grams; summed over good requests that tell them",
    ),
    (
        "retried",
        "requests whose header x-hansa-route names an attempt that was not the first",
    ),
    (
        "probe_requests",
        "short requests for one token, sent at random times beside the load, counted apart; alone: the same before the load \
         (vllm: probe requests)",
    ),
    (
        "wrong_form",
        "whole answers that are no JSON where JSON was asked for, or that lack a call that was required",
    ),
    (
        "schema_mismatch",
        "whole answers in JSON that do not keep the schema that was asked for, or arguments of a strict tool that do not",
    ),
    (
        "in_flight",
        "sampled by a thread of its own, and by Little's law: sum of all requests' times / wall_s",
    ),
];

/// Names of the same figures elsewhere.
pub const ALIASES: [Alias; 6] = [
    Alias {
        hansa: "ttft",
        vllm: "ttft (may be an empty first event)",
        aiperf: "time_to_first_token",
        guidellm: "time_to_first_token",
    },
    Alias {
        hansa: "tpot",
        vllm: "tpot",
        aiperf: "inter_token_latency",
        guidellm: "inter_token_latency",
    },
    Alias {
        hansa: "itl",
        vllm: "itl",
        aiperf: "inter_chunk_latency",
        guidellm: "-",
    },
    Alias {
        hansa: "e2e",
        vllm: "e2el (to the last choice)",
        aiperf: "request_latency (to the last content)",
        guidellm: "request_latency (to the end of the stream)",
    },
    Alias {
        hansa: "ntpot",
        vllm: "-",
        aiperf: "-",
        guidellm: "time_per_output_token (to the last token)",
    },
    Alias {
        hansa: "lag",
        vllm: "client_queue_time (closed loop only)",
        aiperf: "schedule lag (replay only)",
        guidellm: "request_dispatch_delay",
    },
];
