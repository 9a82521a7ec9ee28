//! Takes connections in and sees each to its end; gives up the port while its server is gone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Shared;
use super::conditions::{Active, Ending};
use super::connection::Wire;
use super::errors;
use crate::limits::{FLOW_PIECE_BYTES, MAX_CARRIED, REBIND_PAUSE, REBIND_WITHIN, REFUSED_BYTES};

/// Connections that wait in the kernel to be taken in.
const BACKLOG: u32 = 1_024;

/// Listens on an address, though connections of a listener before may not have been forgotten by the kernel.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until it is aborted.
pub(super) async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    mut rules: watch::Receiver<Arc<Active>>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let killed = rules.borrow_and_update().killed();
        match (killed, &listener) {
            (true, Some(_)) => listener = None,
            (false, None) => listener = rebind(address).await,
            _ => {}
        }
        tokio::select! {
            changed = rules.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
            taken = next(&listener), if connections.len() < MAX_CARRIED => if let Ok(near) = taken {
                let number = shared.counts.connections.fetch_add(1, Relaxed);
                let open = Open::count(Arc::clone(&shared));
                let wire = Wire::new(Arc::clone(&shared), rules.clone(), number);
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let _open = open;
                    converse(near, wire, shared).await;
                });
            },
        }
    }
}

async fn next(listener: &Option<TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(near, _)| near),
        None => std::future::pending().await,
    }
}

/// Takes the port back. Where somebody else has it, this proxy stays dead, which its clients see.
async fn rebind(address: SocketAddr) -> Option<TcpListener> {
    let trying = async {
        loop {
            match bind(address) {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(REBIND_PAUSE).await,
            }
        }
    };
    tokio::time::timeout(REBIND_WITHIN, trying).await.ok()
}

/// One connection from its first byte to its end.
async fn converse(mut near: TcpStream, mut wire: Wire, shared: Arc<Shared>) {
    // Where it cannot be set, small pieces wait for each other, which latencies show.
    near.set_nodelay(true).ok();
    let ending = match reach(&mut wire, &shared).await {
        Some(Reached::Server(mut far)) => {
            far.set_nodelay(true).ok();
            let ending = wire.carry(&mut near, &mut far).await;
            if ending == Ending::Reset {
                far.set_zero_linger().ok();
            }
            ending
        }
        Some(Reached::Errors(status)) => {
            errors::serve(near, status, wire, shared).await;
            return;
        }
        None => Ending::Reset,
    };
    match ending {
        Ending::Reset => drop(near.set_zero_linger()),
        Ending::Close => {}
        Ending::Answer(status) => refuse(&mut near, status, &shared.counts.refused).await,
    }
}

/// Who answers a new connection.
enum Reached {
    Server(TcpStream),
    Errors(u16),
}

/// Finds out who answers; None where nobody ever does.
async fn reach(wire: &mut Wire, shared: &Shared) -> Option<Reached> {
    loop {
        let conditions = *wire.conditions();
        if conditions.ending(0).is_some() {
            return None;
        }
        if conditions.silent() {
            if !wire.change().await {
                return None;
            }
            continue;
        }
        if let Some(status) = conditions.status {
            return Some(Reached::Errors(status));
        }
        return TcpStream::connect(&shared.to)
            .await
            .ok()
            .map(Reached::Server);
    }
}

/// Answers the request that has begun with an error. The rest of it is read, or the answer might be lost with it.
async fn refuse(near: &mut TcpStream, status: u16, refused: &AtomicU64) {
    refused.fetch_add(1, Relaxed);
    let answer = errors::written(status);
    if near.write_all(&answer).await.is_err() || near.shutdown().await.is_err() {
        return;
    }
    let mut piece = vec![0; FLOW_PIECE_BYTES];
    let mut left = REFUSED_BYTES;
    while let Ok(read @ 1..) = near.read(&mut piece).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn count(shared: Arc<Shared>) -> Self {
        shared.counts.open.fetch_add(1, Relaxed);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Relaxed);
    }
}
