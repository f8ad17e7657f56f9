//! Two peers as processes of their own: H, the bare server, and the naive gateway.
//!
//! Both serve as Floodgate does: one runtime of its own on every core, each with a listener on the same
//! port. H answers every request with the same bytes, as long as a grant. The naive gateway is what one
//! would write first: each claim is an EVALSHA over one multiplexed connection a thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use redis::aio::MultiplexedConnection;
use socket2::{Domain, Protocol as Transport, Socket, Type};
use tokio::net::TcpListener;

use crate::link::Protocol;

/// A grant as the gateway answers it.
const GRANT: &str = r#"{"outcome":"granted","claim_key":"g-01234567-89abcdef","coupon":{"code":"2MDHMP7YN7ET6WN0ZHKQPF63WB","template_id":1,"serial":123456,"status":"unused","acquired_at":"2026-11-11T00:00:00.123+08:00","valid_from":"2026-11-11T00:00:00.123+08:00","expires_at":"2026-11-18T00:00:00.123+08:00"}}"#;

const BACKLOG: i32 = 4096;

/// H, until it is killed.
pub fn bare(listen: SocketAddr, protocol: Protocol) -> Result<(), String> {
    serve(listen, protocol, None)
}

/// The naive gateway on a Redis that holds the script of that hash, until it is killed.
pub fn naive(listen: SocketAddr, redis: String, sha: String) -> Result<(), String> {
    serve(listen, Protocol::Http1, Some((redis, sha)))
}

fn serve(listen: SocketAddr, protocol: Protocol, store: Option<(String, String)>) -> Result<(), String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            let listener = bind(listen).map_err(|error| format!("{listen}: {error}"))?;
            let store = store.clone();
            let work = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| error.to_string())?.block_on(accept(listener, protocol, store))
            };
            Ok(std::thread::spawn(work))
        })
        .collect::<Result<_, String>>()?;
    for thread in threads {
        thread.join().map_err(|_| "a thread ended")??;
    }
    Ok(())
}

fn bind(listen: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Transport::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn accept(
    listener: std::net::TcpListener,
    protocol: Protocol,
    store: Option<(String, String)>,
) -> Result<(), String> {
    let listener = TcpListener::from_std(listener).map_err(|error| error.to_string())?;
    let store = match store {
        Some((url, sha)) => Some((crate::meter::redis(&url).await?, sha)),
        None => None,
    };
    loop {
        let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
        let _ = stream.set_nodelay(true);
        let store = store.clone();
        let service = service_fn(move |request| answer(request, store.clone()));
        tokio::spawn(async move {
            let io = TokioIo::new(stream);
            // A client that leaves is no fault.
            let _ = match protocol {
                Protocol::Http1 => http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await,
                Protocol::H2c => {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder.timer(TokioTimer::new()).max_concurrent_streams(256);
                    builder.serve_connection(io, service).await
                }
            };
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    store: Option<(MultiplexedConnection, String)>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    static BODY: LazyLock<Bytes> = LazyLock::new(|| Bytes::from_static(GRANT.as_bytes()));
    let status = match store {
        None => StatusCode::CREATED,
        Some((connection, sha)) => claim(&request, connection, &sha).await,
    };
    let mut response = Response::new(Full::new(BODY.clone()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn claim(request: &Request<Incoming>, mut connection: MultiplexedConnection, sha: &str) -> StatusCode {
    let Some(user) = request.headers().get("x-user-id") else { return StatusCode::UNAUTHORIZED };
    let mut call = redis::cmd("EVALSHA");
    call.arg(sha).arg(3).arg(&super::parties::script::KEYS).arg(user.as_bytes());
    match call.query_async::<i64>(&mut connection).await {
        Ok(1..) => StatusCode::CREATED,
        Ok(0) => StatusCode::GONE,
        Ok(_) => StatusCode::CONFLICT,
        Err(_) => StatusCode::BAD_GATEWAY,
    }
}
