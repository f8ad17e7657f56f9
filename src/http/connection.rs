//! HTTP/1.1 or h2c on one connection, and its orderly end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::entrance::Entrance;
use super::guard::{Guarded, Waits};
use crate::config::{Http, ms};
use crate::limits::HEAD_BYTES_MAX;

/// What a client that speaks HTTP/2 without negotiation sends first (RFC 9113, 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves one connection to its end. When `stop` turns true, requests under way are answered and
/// the connection closes.
pub async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    entrance: Arc<Entrance>,
    waits: Arc<Waits>,
    mut stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let config = &entrance.app.config.http;
    let is_h2 = tokio::select! {
        biased;
        first = tokio::time::timeout(ms(config.header_timeout_ms), speaks_h2(&stream)) => first.ok().flatten(),
        // Who has said nothing yet is owed nothing.
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let Some(is_h2) = is_h2 else { return };
    let service = service_fn(|request| {
        let entrance = entrance.clone();
        async move { Ok::<_, std::convert::Infallible>(entrance.answer(request, peer.ip()).await) }
    });
    if is_h2 {
        let io = TokioIo::new(Guarded::http2(stream, waits));
        let mut connection = pin!(h2_builder(config).serve_connection(io, service));
        tokio::select! {
            // What has arrived is a request, though the stop came in the same moment.
            biased;
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let io = TokioIo::new(Guarded::http1(stream, waits));
        let mut connection = pin!(h1_builder().serve_connection(io, service));
        tokio::select! {
            // What has arrived is a request, though the stop came in the same moment.
            biased;
            _ = connection.as_mut() => return,
            _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Whether the first bytes are HTTP/2's. `None`: the client left.
async fn speaks_h2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0u8; 24];
    loop {
        let seen = stream.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if first[..seen] != H2_PREFACE[..seen] {
            return Some(false);
        }
        if seen >= 4 {
            return Some(true);
        }
        // "P", "PR" or "PRI": no HTTP/1 method but the rest is on its way. Peeking again at once
        // would spin.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn h1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The library's own bound of 100 header lines stands: another one would cost an allocation a request.
    // Idle connections and slow heads are ended by the guard's sweep, at no cost a request. No
    // `pipeline_flush`: it keeps an answer back while further bytes wait, and drops it on a close.
    builder.max_buf_size(HEAD_BYTES_MAX).half_close(false).writev(false);
    builder
}

fn h2_builder(config: &Http) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.h2_streams_max)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_millis(config.idle_timeout_ms / 2))
        .keep_alive_timeout(Duration::from_millis(config.header_timeout_ms));
    builder
}
