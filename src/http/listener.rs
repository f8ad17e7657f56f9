//! Sockets, accepting, and how many connections may be open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use metrics::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::connection;
use super::entrance::Entrance;
use super::guard::{Patience, Waits, Watch};
use crate::telemetry::metrics;

/// Connections open over all threads of one listener.
#[derive(Default)]
pub struct Open {
    count: AtomicUsize,
}

/// Subtracts itself when a connection ends, however it ends.
struct Counted {
    open: Arc<Open>,
    gauge: Gauge,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// Says in a sentence that an address is taken: a bind without SO_REUSEPORT, which would share it
/// with whoever is there.
pub fn probe(address: SocketAddr) -> Result<(), String> {
    let socket = socket(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    let bound =
        socket.set_reuse_address(true).and_then(|()| socket.bind(&address.into())).and_then(|()| socket.listen(1));
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{address} is taken by another process; choose another address"),
        _ => format!("cannot listen on {address}: {error}"),
    })
}

/// Binds with SO_REUSEPORT, so that every thread accepts on a socket of its own.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
}

/// Accepts until `stop` turns true, then waits until the connections have ended.
pub async fn run(
    listener: std::net::TcpListener,
    entrance: Arc<Entrance>,
    open: Arc<Open>,
    gauge: Gauge,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let config = &entrance.app.config.http;
    let watch = Arc::new(Watch::default());
    let patience =
        Patience { idle: config.idle_timeout_ms, head: config.header_timeout_ms, write: config.idle_timeout_ms };
    let sweeper = tokio::spawn({
        let watch = watch.clone();
        async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                watch.sweep(patience);
            }
        }
    });
    let mut connections = tokio::task::JoinSet::new();
    let mut admit = |stream, peer| {
        while connections.try_join_next().is_some() {}
        if open.count.fetch_add(1, Ordering::Relaxed) >= config.connections_max {
            open.count.fetch_sub(1, Ordering::Relaxed);
            metrics().connections_refused.increment(1);
            return;
        }
        gauge.increment(1.0);
        let counted = Counted { open: open.clone(), gauge: gauge.clone() };
        let waits = Arc::new(Waits::default());
        let serve = connection::serve(stream, peer, entrance.clone(), waits.clone(), stop.clone());
        let task = connections.spawn(async move {
            let _counted = counted;
            serve.await;
        });
        watch.add(waits, task);
    };
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) => {
                // Out of descriptors, or the client left between SYN and accept.
                tracing::warn!(error = %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    // Who was let into the queue before the stop is answered, too.
    for _ in 0..BACKLOG {
        let Some(Ok((stream, peer))) = listener.accept().now_or_never() else { break };
        admit(stream, peer);
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    sweeper.abort();
    Ok(())
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}
