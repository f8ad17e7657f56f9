//! HTTP/1.1 or h2c on one connection, and its orderly end.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::entrance::Entrance;
use super::express::http1::Express;
use super::express::http2::{PREFACE, Relay};
use super::guard::{Guarded, StreamUnderWay, Waits};
use crate::config::{Http, ms};
use crate::limits::HEAD_BYTES_MAX;

/// How far a listener's stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Serving,
    /// What was accepted is answered, nothing new is.
    Draining,
    /// Time is up: connections are cut.
    Over,
}

/// How long a connection that was accepted during a drain may take to say its first bytes.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// Serves one connection to its end. From [`Stage::Draining`] on, requests under way are answered and
/// the connection closes.
pub async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    entrance: Arc<Entrance>,
    waits: Arc<Waits>,
    mut stage: watch::Receiver<Stage>,
) {
    let _ = stream.set_nodelay(true);
    let config = &entrance.app.config.http;
    let is_h2 = {
        let mut first = pin!(tokio::time::timeout(ms(config.header_timeout_ms), speaks_h2(&stream)));
        tokio::select! {
            biased;
            first = first.as_mut() => first.ok().flatten(),
            // Who says nothing is owed nothing; but what has arrived must first be seen.
            () = reached(&mut stage, Stage::Draining) => {
                tokio::time::timeout(LAST_CHANCE, first).await.ok().and_then(Result::ok).flatten()
            }
        }
    };
    let Some(is_h2) = is_h2 else { return };
    if is_h2 {
        let service = service_fn(|request| {
            let (entrance, stream) = (entrance.clone(), StreamUnderWay::begin(&waits));
            async move {
                let answer = entrance.answer(request, peer.ip()).await;
                Ok::<_, std::convert::Infallible>(answer.map(|body| stream.send(Full::new(body))))
            }
        });
        let io = TokioIo::new(Relay::new(stream, entrance.clone(), peer.ip(), waits.clone()));
        let mut connection = pin!(h2_builder(config).serve_connection(io, service));
        tokio::select! {
            // What has arrived is a request, though the stop came in the same moment.
            biased;
            _ = connection.as_mut() => return,
            () = reached(&mut stage, Stage::Draining) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let service = service_fn(|request| {
            let (entrance, waits) = (entrance.clone(), waits.clone());
            async move {
                waits.begin_request();
                let answer = entrance.answer(request, peer.ip()).await;
                waits.end_http1();
                Ok::<_, std::convert::Infallible>(answer.map(Full::new))
            }
        });
        let io = TokioIo::new(Guarded::new(stream, waits.clone(), Express::at(&entrance, peer.ip())));
        let mut connection = pin!(h1_builder().serve_connection(io, service));
        tokio::select! {
            // What has arrived is a request, though the stop came in the same moment.
            biased;
            _ = connection.as_mut() => return,
            () = reached(&mut stage, Stage::Draining) => {}
        }
        // What has arrived may not have been heard of yet: the runtime looks at its sockets once more.
        tokio::task::yield_now().await;
        // A claim of the express is none of the library's: it would close the connection over it.
        let ended = poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if waits.express_is_busy() => Poll::Pending,
            Poll::Pending => Poll::Ready(false),
        });
        if !ended.await {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// Waits until the stop has come as far as `at`, or nobody can stop any more.
pub async fn reached(stage: &mut watch::Receiver<Stage>, at: Stage) {
    let _ = stage.wait_for(|stage| *stage >= at).await;
}

/// Whether the first bytes are HTTP/2's. `None`: the client left.
async fn speaks_h2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0u8; 24];
    let mut pause = Duration::from_millis(1);
    loop {
        let seen = stream.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if first[..seen] != PREFACE[..seen] {
            return Some(false);
        }
        if seen >= 4 {
            return Some(true);
        }
        // "P", "PR" or "PRI": no HTTP/1 method but the rest is on its way. Peeking again at once
        // would spin.
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(100));
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
