//! One connection to a server over HTTP/1.1 or h2c, made when it is needed and again after it broke.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::http::Answer;

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
    Own(Option<http1::SendRequest<Full<Bytes>>>),
    /// The same for every link that was cloned from the first.
    Shared(Arc<Mutex<Option<http2::SendRequest<Full<Bytes>>>>>),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

// === impl Link ===

impl Link {
    /// `address`: host and port.
    pub fn new(address: &str, protocol: Protocol) -> Link {
        let inner = match protocol {
            Protocol::Http1 => Inner::Own(None),
            Protocol::H2c => Inner::Shared(Arc::default()),
        };
        Link { address: address.into(), inner }
    }

    /// Another place: over h2c on the same connection, over HTTP/1.1 with one of its own.
    pub fn another(&self) -> Link {
        let inner = match &self.inner {
            Inner::Own(_) => Inner::Own(None),
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
            Inner::Own(sender) => {
                if !sender.as_ref().is_some_and(http1::SendRequest::is_ready) {
                    *sender = Some(connect1(&self.address).await?);
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
            Inner::Own(slot) => {
                let mut sender = match slot.take().filter(|sender| !sender.is_closed()) {
                    Some(sender) => sender,
                    None => connect1(&self.address).await?,
                };
                let sent = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                let answer = read(sent.await.map_err(|error| format!("send: {error}"))?).await?;
                *slot = Some(sender);
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

async fn read(response: Response<Incoming>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| format!("answer: {error}"))?;
    Ok(Answer { status, body: body.to_bytes().into(), last: false })
}

async fn stream(address: &str) -> Result<TokioIo<TcpStream>, String> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| format!("connect to {address}: no answer"))?
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
    Ok(TokioIo::new(stream.map_err(|error| format!("connect to {address}: {error}"))?))
}

async fn connect1(address: &str) -> Result<http1::SendRequest<Full<Bytes>>, String> {
    let stream = stream(address).await?;
    let (sender, connection) = http1::handshake(stream).await.map_err(|error| format!("connect: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
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
