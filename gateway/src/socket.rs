//! What every TCP connection of ours asks of its kernel, whoever opened it: no waiting with small writes, and to tell when
//! the other end is gone without a word.
//!
//! Where a path swallows packets, or a machine loses its power, nobody says that a connection is over. A kernel that is asked
//! for nothing tries for a quarter of an hour with what it has sent, and waits for ever where it has sent nothing; so long
//! a stream would run, with its place in the engine and what is held of somebody's quota. This file knows sockets; what
//! they carry is not known here.

use std::time::Duration;

#[cfg(target_os = "linux")]
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::limits;

/// How long the other end of a connection may be silent before the kernel breaks the connection off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Silence after which the other kernel is asked, again and again, whether it is there; `None` where what the connection
    /// carries asks by itself.
    ask: Option<Duration>,
    /// Time in which it must acknowledge something of what we sent or asked.
    unacknowledged: Duration,
}

impl Patience {
    /// With servers of ours: HTTP/2 asks on those connections, and their status shows that they are there too.
    pub(crate) const OURS: Self = Self {
        ask: None,
        unacknowledged: limits::LINK_UNACKNOWLEDGED,
    };

    /// With servers of another make: all that shows that they are there is their kernel.
    pub(crate) const OTHERS: Self = Self {
        ask: Some(limits::LINK_KEEPALIVE.0),
        unacknowledged: limits::LINK_KEEPALIVE.1,
    };

    /// With a client that may leave its answer unread for `write_timeout`.
    ///
    /// Linux counts time in which a living client has no room for more (a window of zero) as unacknowledged too, though
    /// its kernel answers each time that it is asked. Clients who read nothing are ended by those who know what there was
    /// to read, after `write_timeout` ([`crate::connection`]) or at the latest after twice that ([`crate::unread`]). So the
    /// kernel gets as long as the last of them: whoever takes a little from time to time is never cut off by it.
    pub(crate) fn with_client(write_timeout: Duration) -> Self {
        let unacknowledged = limits::CLIENT_UNREAD_TIMES * write_timeout;
        Self {
            ask: Some(limits::CLIENT_KEEPALIVE),
            unacknowledged: unacknowledged.max(limits::CLIENT_UNACKNOWLEDGED_MIN),
        }
    }
}

/// Sets a connection up. A refusal costs latency, or the time after which a loss is noticed, and no request.
pub(crate) fn prepare(tcp: &TcpStream, patience: Patience) {
    // A request or a token is a small write that must not wait for the next one.
    let _ = tcp.set_nodelay(true);
    // Elsewhere the other end may be gone for as long as that system bears it.
    #[cfg(target_os = "linux")]
    let _ = notice_death(tcp, patience);
    #[cfg(not(target_os = "linux"))]
    let _ = patience;
}

/// Has the kernel break the connection off once the other end acknowledges nothing any more. While nothing is on its way the
/// questions of `ask` are what must be acknowledged.
#[cfg(target_os = "linux")]
fn notice_death(tcp: &TcpStream, patience: Patience) -> std::io::Result<()> {
    let socket = SockRef::from(tcp);
    if let Some(ask) = patience.ask {
        let keepalive = TcpKeepalive::new().with_time(ask).with_interval(ask);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(Some(patience.unacknowledged))
}

/// What the kernel was asked for: whether it asks the other end and after which silence, and when it gives up.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn asked_for<'s>(socket: impl Into<SockRef<'s>>) -> std::io::Result<Patience> {
    let socket = socket.into();
    let asks = socket.keepalive()?;
    Ok(Patience {
        ask: asks.then(|| socket.tcp_keepalive_time()).transpose()?,
        unacknowledged: socket.tcp_user_timeout()?.unwrap_or_default(),
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_kernel_does_as_it_is_asked() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let client = Patience::with_client(Duration::from_secs(30));
        for patience in [Patience::OURS, Patience::OTHERS, client] {
            let tcp = TcpStream::connect(listener.local_addr()?).await?;
            prepare(&tcp, patience);
            assert_eq!(asked_for(&tcp)?, patience);
            assert!(tcp.nodelay()?);
        }
        Ok(())
    }

    #[test]
    fn a_client_has_as_long_as_the_last_who_would_end_its_stream() {
        let given = |seconds| Patience::with_client(Duration::from_secs(seconds)).unacknowledged;
        assert_eq!(given(30), Duration::from_secs(60));
        // Less than some round trips and a lost packet would break living connections.
        assert_eq!(given(0), limits::CLIENT_UNACKNOWLEDGED_MIN);
    }
}
