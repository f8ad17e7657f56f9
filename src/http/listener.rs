//! Sockets, accepting, and how many connections may be open.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::Gauge;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::{self, Stage, reached};
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

/// How long handshakes that have begun may take to end, once none begins any more: some round trips of a data centre.
/// Who tries meanwhile is refused a second later, when their system asks again.
const LAST_HANDSHAKES: Duration = Duration::from_millis(20);

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

/// Accepts until [`Stage::Draining`], then waits until the connections have ended, or cuts them when
/// it is over.
pub async fn run(
    listener: std::net::TcpListener,
    entrance: Arc<Entrance>,
    open: Arc<Open>,
    gauge: Gauge,
    stage: watch::Receiver<Stage>,
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
        let serve = connection::serve(stream, peer, entrance.clone(), waits.clone(), stage.clone());
        let task = connections.spawn(async move {
            let _counted = counted;
            serve.await;
        });
        watch.add(waits, task);
    };
    let mut stopped = stage.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reached(&mut stopped, Stage::Draining) => break,
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
    // Whose connection has begun before the stop is answered, too: a socket that is closed would reset it.
    begin_nothing(&listener);
    let last = tokio::time::Instant::now() + LAST_HANDSHAKES;
    while let Ok(Ok((stream, peer))) = tokio::time::timeout_at(last, listener.accept()).await {
        admit(stream, peer);
    }
    for (stream, peer) in queued(listener)? {
        admit(stream, peer);
    }
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = reached(&mut stopped, Stage::Over) => {
            tracing::warn!(connections = connections.len(), "connections are cut: their requests did not end in time");
            connections.shutdown().await;
        }
    }
    sweeper.abort();
    Ok(())
}

/// Lets no handshake begin; those under way go on. Where the system cannot, some of them may be reset.
#[cfg(target_os = "linux")]
fn begin_nothing(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};
    // Of a segment's flags: SYN without ACK is dropped, everything else passes.
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    let of = |code: u32, if_not: u8, value: u32| SockFilter::new(code as u16, 0, if_not, value);
    let drops_syn = [
        of(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, FLAGS_AT),
        of(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, SYN_OR_ACK),
        of(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, SYN),
        of(libc::BPF_RET | libc::BPF_K, 0, 0),
        of(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&drops_syn) {
        tracing::warn!(error = %error, "connections that begin in this moment may be reset");
    }
}

#[cfg(not(target_os = "linux"))]
fn begin_nothing(_: &TcpListener) {}

/// Closes a listener and takes what waits in its queue. The runtime may not have heard of all of it: the socket itself is
/// asked, and what it still held would be reset.
fn queued(listener: TcpListener) -> io::Result<Vec<(TcpStream, SocketAddr)>> {
    let listener = listener.into_std()?;
    let mut streams = Vec::new();
    for _ in 0..BACKLOG {
        match listener.accept() {
            Ok(accepted) => streams.push(accepted),
            // One that left meanwhile says nothing of those behind it.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    drop(listener);
    let adopted = |(stream, peer): (std::net::TcpStream, SocketAddr)| {
        stream.set_nonblocking(true)?;
        Ok((TcpStream::from_std(stream)?, peer))
    };
    streams.into_iter().map(adopted).collect()
}

// === impl Counted ===

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn client(address: SocketAddr) -> Socket {
        let client = socket(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let begun = client.connect(&address.into()).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EINPROGRESS));
        client
    }

    #[tokio::test]
    async fn a_stop_lets_no_connection_begin_and_loses_none_that_has() {
        let listener = TcpListener::from_std(bind("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listener.accept().now_or_never().is_none());
        let clients: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        begin_nothing(&listener);
        // On the loopback a handshake ends before the call that begins it.
        let late = client(address);
        assert!(late.peer_addr().is_err(), "it has not begun");
        assert!(listener.accept().now_or_never().is_none(), "the runtime has not looked since");
        let mut peers: Vec<_> = queued(listener).unwrap().into_iter().map(|(_, peer)| peer).collect();
        peers.sort();
        let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        expected.sort();
        assert_eq!(peers, expected);
        assert!(std::net::TcpStream::connect(address).is_err(), "it is closed");
    }
}
