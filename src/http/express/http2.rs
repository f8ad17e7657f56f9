//! Plain claims over HTTP/2: between a client and the library, frame by frame.
//!
//! A [`Relay`] is the library's stream. It reads the client's frames along, decodes every head (the compression has a
//! state, so there is no leaving one out), and answers the heads that are plain claims. All others go to the library, newly
//! encoded without state; its own frames go out as they come, whole ones, with the answers to claims between them.
//! Three things belong to both, and are divided here:
//!
//! - *Streams*: what the client says of a stream goes to whom it is with. A connection may have as many claims
//!   under way as the library may have requests.
//! - *The connection's window*: the library hears of as much of it as it needs, and claims live on the rest
//!   (`Windows`). A client that gives no more than the protocol's 65,535 octets is answered by the library alone.
//! - *The end*: GOAWAY names the last stream that anybody here took, and the connection is shut when all claims are
//!   answered.
//!
//! # Layout
//! - `client`: what comes from the client
//! - `head`: which heads are plain claims, and the heads of answers
//! - `library`: what goes to the library and comes from it
//! - `windows`: how much may be sent, and by whom

mod client;
mod head;
mod library;
mod windows;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{self, ErrorCode, Frame};
use super::hpack::Fields;
use super::{Begun, Decided, begin};
use crate::http::entrance::Entrance;
use crate::http::guard::{StreamUnderWay, Waits};
use crate::http::route::Door;
use crate::limits::HEAD_BYTES_MAX;

pub use client::PREFACE;
use client::{Client, WholeHead};
use head::{plain_claim, put_answer_head};
use library::Library;
use windows::Windows;

/// What the library reads and writes instead of the client's stream.
pub struct Relay<S> {
    stream: S,
    waits: Arc<Waits>,
    entrance: Arc<Entrance>,
    peer: IpAddr,
    streams_max: usize,
    /// Claims that are being decided.
    claims: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// Their streams, without those that the client has reset.
    claimed: Vec<u32>,
    windows: Windows,
    client: Client,
    library: Library,
    /// For the client, frame after frame, and how much of it is sent.
    out: Vec<u8>,
    sent: usize,
    /// It was told what it did wrong, and nothing more is read.
    broken: bool,
}

/// A claim's end.
struct Done {
    stream: u32,
    decided: Decided,
    _under_way: StreamUnderWay,
}

/// What waits for the client, beyond which nothing more is read from it nor taken from the library.
const OUT_BYTES_MAX: usize = 256 * 1024;

/// Octets of one look at the socket.
const READ_BYTES: usize = 32 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// A head as it was read, shorter than what the library finds too long, and one as it is written.
    static FIELDS: RefCell<Fields> = RefCell::new(Fields::new(HEAD_BYTES_MAX - 1));
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

// === impl Relay ===

impl<S: AsyncRead + AsyncWrite + Unpin> Relay<S> {
    pub fn new(stream: S, entrance: Arc<Entrance>, peer: IpAddr, waits: Arc<Waits>) -> Self {
        waits.end_request();
        let streams_max = entrance.app.config.http.h2_streams_max as usize;
        let is_public = entrance.door == Door::Public;
        Relay {
            stream,
            waits,
            entrance,
            peer,
            streams_max,
            claims: FuturesUnordered::new(),
            claimed: Vec::new(),
            windows: Windows::new(),
            client: Client::new(is_public),
            library: Library::default(),
            out: Vec::new(),
            sent: 0,
            broken: false,
        }
    }

    // --- From the client

    /// Reads what is there; ready at the end, too.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                self.client.ended = true;
            } else if self.client.unread.is_empty() {
                let read = self.look_at(bytes);
                self.client.unread.extend_from_slice(&bytes[read..]);
            } else {
                self.client.unread.extend_from_slice(bytes);
                self.look_again();
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Looks at what had to wait: whether that led to anything.
    fn look_again(&mut self) -> bool {
        let mut unread = std::mem::take(&mut self.client.unread);
        let read = self.look_at(&unread);
        unread.drain(..read);
        if !unread.is_empty() {
            self.client.unread = unread;
        }
        read > 0 || self.broken
    }

    /// Takes whole frames from the front, and tells how many octets those were.
    fn look_at(&mut self, bytes: &[u8]) -> usize {
        let mut read = self.client.preface(bytes);
        self.library.pass(&bytes[..read]);
        while !self.must_wait() {
            match Frame::first(&bytes[read..]) {
                Ok(Some(frame)) => {
                    read += frame.whole.len();
                    if let Err(code) = self.take(&frame) {
                        self.refuse(code);
                    }
                }
                Ok(None) => break,
                Err(frame::TooLarge) => self.refuse(ErrorCode::FrameSize),
            }
        }
        read
    }

    /// Whether nothing is read until something has gone out. Who sends on without taking answers waits for itself.
    fn must_wait(&self) -> bool {
        self.broken || self.library.is_behind() || self.out.len() - self.sent > OUT_BYTES_MAX
    }

    fn take(&mut self, frame: &Frame<'_>) -> Result<(), ErrorCode> {
        if self.client.is_in_head() && frame.kind != frame::CONTINUATION {
            return Err(ErrorCode::Protocol);
        }
        match frame.kind {
            frame::HEADERS | frame::CONTINUATION => {
                if let Some(head) = self.client.collect(frame)? {
                    return self.take_head(&head);
                }
            }
            frame::DATA if self.claimed.contains(&frame.stream) => return Err(ErrorCode::StreamClosed),
            frame::DATA => {
                self.library.pass(frame.whole);
                self.library.client_ends(frame.stream, frame.has(frame::END_STREAM));
            }
            frame::RST_STREAM if frame.payload.len() == 4 && self.is_ours(frame.stream) => {
                // The claim goes on: who has a coupon by it finds it with its key.
                self.claimed.retain(|stream| *stream != frame.stream);
            }
            frame::RST_STREAM => {
                self.library.pass(frame.whole);
                self.library.forget(frame.stream);
            }
            frame::SETTINGS => {
                self.windows.see(frame);
                self.client.is_set |= !frame.has(frame::ACK);
                self.library.settings(frame);
            }
            frame::WINDOW_UPDATE if frame.stream == 0 => match frame.number() {
                Some(octets) if octets > 0 => {
                    let more = self.windows.grow(octets).ok_or(ErrorCode::FlowControl)?;
                    self.library.grow(more);
                }
                // The library has a word for it.
                _ => self.library.pass(frame.whole),
            },
            // Of streams whose end may not have been heard of.
            frame::WINDOW_UPDATE | frame::PRIORITY if self.is_ours(frame.stream) => {}
            _ => self.library.pass(frame.whole),
        }
        Ok(())
    }

    /// Whether the stream was a claim's, or has ended. Of what never was, the library knows what to say.
    fn is_ours(&self, stream: u32) -> bool {
        stream % 2 == 1 && self.client.has_opened(stream) && !self.library.has(stream)
    }

    fn take_head(&mut self, WholeHead { stream, end_stream, block }: &WholeHead<'_>) -> Result<(), ErrorCode> {
        let (stream, end_stream) = (*stream, *end_stream);
        FIELDS.with_borrow_mut(|fields| {
            self.client.decode(block, fields)?;
            if self.client.opens(stream) {
                if end_stream && self.may_take() && self.take_claim(stream, fields) {
                    return Ok(());
                }
                if self.library.is_full() {
                    return Err(ErrorCode::EnhanceYourCalm);
                }
                self.library.begin(stream);
            } else if !self.library.has(stream) {
                return Err(if stream % 2 == 1 { ErrorCode::StreamClosed } else { ErrorCode::Protocol });
            }
            self.library.head(stream, end_stream, fields);
            Ok(())
        })
    }

    /// Whether a claim may be taken from the library.
    fn may_take(&self) -> bool {
        self.client.may_be_plain() && self.library.is_serving() && self.claims.len() < self.streams_max
    }

    /// Begins the claim of a head, if it is a plain one that can be answered.
    fn take_claim(&mut self, stream: u32, fields: &Fields) -> bool {
        let Some(head) = plain_claim(fields) else { return false };
        if !self.windows.reserve() {
            return false;
        }
        let under_way = StreamUnderWay::of_claim(&self.waits);
        let begun = begin(&self.entrance, self.peer, &head);
        self.library.last_claim = stream;
        self.claimed.push(stream);
        match begun {
            Begun::UnderWay(claim) => {
                let claim = async move { Done { stream, decided: claim.await, _under_way: under_way } };
                self.claims.push(Box::pin(claim));
            }
            Begun::Refused(decided) => self.answer(Done { stream, decided: *decided, _under_way: under_way }),
        }
        true
    }

    // --- To the client

    /// Goes on with the claims under way, as far as they come.
    fn poll_claims(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(done)) = self.claims.poll_next_unpin(cx) {
            self.answer(done);
        }
    }

    fn answer(&mut self, Done { stream, decided, _under_way }: Done) {
        let answer = decided.answer(&self.entrance);
        let at = self.claimed.iter().position(|claimed| *claimed == stream);
        let body = answer.body();
        let may_send = self.windows.spend(at.map_or(0, |_| body.len()));
        // The library may have run short while claims had put aside for their answers.
        self.library.grow(self.windows.lend());
        let Some(at) = at else { return };
        self.claimed.swap_remove(at);
        if !may_send {
            // The client takes less on its streams than when the claim was taken.
            frame::put_numbers(&mut self.out, frame::RST_STREAM, stream, &[ErrorCode::Internal as u32]);
            return;
        }
        BLOCK.with_borrow_mut(|block| {
            block.clear();
            self.client.put_table_size(block);
            put_answer_head(&answer, block);
            frame::put_headers(&mut self.out, stream, false, block);
        });
        frame::put_head(&mut self.out, body.len(), frame::DATA, frame::END_STREAM, stream);
        self.out.extend_from_slice(body);
    }

    /// Tells the client what it did wrong. Nothing more is read.
    fn refuse(&mut self, code: ErrorCode) {
        self.broken = true;
        let last = self.library.named.unwrap_or(self.client.last());
        frame::put_numbers(&mut self.out, frame::GOAWAY, 0, &[last, code as u32]);
    }

    /// Sends what there is: ready, when nothing is left.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]);
            match ready!(self.waits.wrote(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        clear(&mut self.out);
        Poll::Ready(Ok(()))
    }

    /// Takes what the library writes, unless too much waits for the client.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        if self.out.len() - self.sent > OUT_BYTES_MAX {
            ready!(self.poll_out(cx))?;
        }
        let sent = self.library.take(slices, &mut self.out);
        self.windows.library_sent(sent);
        let more = self.windows.lend();
        if more > 0 {
            self.library.grow(more);
            // It may have read for this time.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(slices.iter().map(|bytes| bytes.len()).sum()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Relay<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.poll_claims(cx);
            let sent = this.poll_out(cx)?;
            if this.library.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            if this.broken {
                ready!(sent);
                let what = "the client's frames are not HTTP/2";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
            }
            if this.must_wait() {
                return Poll::Pending;
            }
            if !this.client.unread.is_empty() && this.look_again() {
                continue;
            }
            if this.client.ended {
                // The library would close over the claims that are under way.
                return if this.claims.is_empty() { sent.map(Ok) } else { Poll::Pending };
            }
            ready!(this.poll_fill(cx))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Relay<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_take(cx, &[bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let slices: SmallVec<[&[u8]; 8]> = slices.iter().map(|slice| &slice[..]).collect();
        self.poll_take(cx, &slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// When every claim is answered.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_claims(cx);
        ready!(self.poll_out(cx))?;
        if !self.claims.is_empty() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Empties a buffer; one that has grown large is given back.
fn clear(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > 4 * frame::PAYLOAD_MAX {
        *buffer = Vec::new();
    }
}
