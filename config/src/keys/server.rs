//! Keys of the listeners and of what one request may ask for.

use super::{Key, Slot, key};
use crate::limits;
use crate::schema::Config;

/// Keys of `[server]`, `[admin]` and `[limits]`.
pub(super) const ROOT: &[Key<Config>] = &[
    key(
        "server.listen",
        "Address for clients, an IP address and a port; port 0 takes a free one, which is printed \
         at start.",
        |c| Slot::Address(&mut c.server.listen),
    ),
    key(
        "server.connections_max",
        "Connections at once; further ones wait in the kernel's queue.",
        |c| Slot::U32(&mut c.server.connections_max, limits::CONNECTIONS),
    ),
    key(
        "server.header_timeout_ms",
        "Time for a client to send the whole request head, then its connection is closed. Also how \
         long a kept HTTP/1 connection may stay without a request.",
        |c| Slot::U64(&mut c.server.header_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.body_timeout_ms",
        "Time for a client to send the whole body, then the request is refused.",
        |c| Slot::U64(&mut c.server.body_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.ping_after_ms",
        "Silence after which a waiting stream gets its headers and a comment, so that nothing \
         between closes it.",
        |c| Slot::U64(&mut c.server.ping_after_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.write_timeout_ms",
        "Time after which a client that reads nothing of its stream loses it, and its place in \
         the engine.",
        |c| Slot::U64(&mut c.server.write_timeout_ms, limits::CLIENT_TIMEOUT_MS),
    ),
    key(
        "server.grace_ms",
        "Time that running streams get after SIGTERM; then they end with an error.",
        |c| Slot::U64(&mut c.server.grace_ms, limits::SHUTDOWN_MS),
    ),
    key(
        "server.drain_delay_ms",
        "Time between answering \"not ready\" and closing the listener, so that load balancers \
         notice first.",
        |c| Slot::U64(&mut c.server.drain_delay_ms, limits::SHUTDOWN_MS),
    ),
    key(
        "server.tls_cert",
        "PEM file with the certificate, and those that lead to its authority, that the listener shows. With it clients \
         speak https.",
        |c: &mut Config| Slot::Path(&mut c.server.tls_cert),
    )
    .example("\"/etc/hansa/server.pem\""),
    key(
        "server.tls_key",
        "PEM file with the key of server.tls_cert.",
        |c: &mut Config| Slot::Path(&mut c.server.tls_key),
    )
    .example("\"/etc/hansa/server.key\""),
    key(
        "admin.listen",
        "Address for operators, or \"none\". It answers anyone who reaches it, so keep it off \
         open networks.",
        |c| Slot::MaybeAddress(&mut c.admin.listen),
    ),
    key(
        "limits.body_bytes_max",
        "Bytes of a request body; a larger one is refused before it is held in memory.",
        |c| Slot::Size(&mut c.limits.body_bytes_max, limits::BODY_BYTES),
    ),
    key(
        "limits.n_max",
        "Choices (`n`) of one request; each is a sequence of its own.",
        |c| Slot::U32(&mut c.limits.n_max, limits::CHOICES),
    ),
    key(
        "limits.stop_strings_max",
        "Stop strings of one request.",
        |c| Slot::U32(&mut c.limits.stop_strings_max, limits::STOP_STRINGS),
    ),
    key(
        "limits.stop_bytes_max",
        "Bytes of one stop string; a stream may be held back by as much.",
        |c| Slot::U32(&mut c.limits.stop_bytes_max, limits::STOP_BYTES),
    ),
    key(
        "limits.messages_max",
        "Messages of one conversation.",
        |c| Slot::U32(&mut c.limits.messages_max, limits::MESSAGES),
    ),
    key(
        "limits.prompts_max",
        "Prompts of one completion request; each is a sequence of its own.",
        |c| Slot::U32(&mut c.limits.prompts_max, limits::PROMPTS),
    ),
    key(
        "limits.request_timeout_ms",
        "Time that a request may take in all, waiting and streaming included.",
        |c| Slot::U64(&mut c.limits.request_timeout_ms, limits::REQUEST_TIMEOUT_MS),
    ),
];
