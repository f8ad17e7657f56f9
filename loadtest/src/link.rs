//! One connection to a server over HTTP/1.1 or h2c, made when it is needed and again after it broke.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::http::{Answer, Connection};

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// One request at a time on a connection.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge: many at a time.
    H2c,
}

/// A place on a connection: over HTTP/1.1 it has the connection for itself.
pub struct Link {
    address: Arc<str>,
    inner: Inner,
}

enum Inner {
    Own {
        connection: Option<Connection>,
        /// The request as it is sent.
        out: Vec<u8>,
    },
    /// The same for every link that was cloned from the first.
    Shared(Arc<Mutex<Option<http2::SendRequest<Full<Bytes>>>>>),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

// === impl Link ===

impl Link {
    /// `address`: host and port.
    pub fn new(address: &str, protocol: Protocol) -> Link {
        let inner = match protocol {
            Protocol::Http1 => Inner::own(),
            Protocol::H2c => Inner::Shared(Arc::default()),
        };
        Link { address: address.into(), inner }
    }

    /// Another place: over h2c on the same connection, over HTTP/1.1 with one of its own.
    pub fn another(&self) -> Link {
        let inner = match &self.inner {
            Inner::Own { .. } => Inner::own(),
            Inner::Shared(sender) => Inner::Shared(sender.clone()),
        };
        Link { address: self.address.clone(), inner }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connects ahead of the first request.
    pub async fn connect(&mut self) -> Result<(), String> {
        match &mut self.inner {
            Inner::Own { connection, .. } => {
                if connection.is_none() {
                    *connection = Some(connect1(&self.address).await?);
                }
            }
            Inner::Shared(sender) => drop(shared(sender, &self.address).await?),
        }
        Ok(())
    }

    /// Sends a request and reads its answer whole. After an error it is unknown whether the server took
    /// the request, and the next call connects anew.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        match &mut self.inner {
            Inner::Own { connection: slot, out } => {
                let mut connection = match slot.take() {
                    Some(connection) => connection,
                    None => connect1(&self.address).await?,
                };
                write_http1(request, out).await?;
                let answer = connection.send(out).await?;
                if !answer.last {
                    *slot = Some(connection);
                }
                Ok(answer)
            }
            Inner::Shared(slot) => {
                let mut sender = shared(slot, &self.address).await?;
                let sent = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                read(sent.await.map_err(|error| format!("send: {error}"))?).await
            }
        }
    }

    /// Whether a request is written for HTTP/2: its URI then names the server.
    pub fn is_h2(&self) -> bool {
        matches!(self.inner, Inner::Shared(_))
    }
}

impl Inner {
    fn own() -> Inner {
        Inner::Own { connection: None, out: Vec::new() }
    }
}

/// A request as HTTP/1.1 has it.
async fn write_http1(request: Request<Full<Bytes>>, out: &mut Vec<u8>) -> Result<(), String> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| format!("body: {error}"))?.to_bytes();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    out.clear();
    for part in [head.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| format!("answer: {error}"))?;
    Ok(Answer { status, body: body.to_bytes().into(), last: false })
}

async fn stream(address: &str) -> Result<TokioIo<TcpStream>, String> {
    let stream = in_time(address, TcpStream::connect(address)).await?;
    let stream = stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    Ok(TokioIo::new(stream.map_err(|error| format!("connect to {address}: {error}"))?))
}

async fn connect1(address: &str) -> Result<Connection, String> {
    in_time(address, Connection::open(address)).await?
}

async fn in_time<T>(address: &str, connecting: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| format!("connect to {address}: no answer"))
}

async fn shared(
    slot: &Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
    address: &str,
) -> Result<http2::SendRequest<Full<Bytes>>, String> {
    let mut slot = slot.lock().await;
    if let Some(sender) = slot.as_ref().filter(|sender| !sender.is_closed()) {
        return Ok(sender.clone());
    }
    let connecting = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake(stream(address).await?);
    let (sender, connection) = connecting.await.map_err(|error| format!("connect: {error}"))?;
    tokio::spawn(connection);
    *slot = Some(sender.clone());
    Ok(sender)
}
