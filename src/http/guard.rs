//! Bytes that no honest client sends, and clients that stall.
//!
//! The HTTP library accepts a bare LF for a line's end, overlooks a Content-Length beside
//! Transfer-Encoding, and waits for ever on a client that reads nothing. A [`Guarded`] stream refuses
//! the first two, since two parsers that read them in two ways disagree on where a request ends, and notes what a connection waits for, so that
//! [`Watch::sweep`] can end what waits too long.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;

use super::express::http1::Express;
use crate::clock::mono_ms;
use crate::limits::HEAD_BYTES_MAX;

/// What one connection waits for. Times are of the process' monotonic clock in ms; 0: not waiting.
#[derive(Debug, Default)]
pub struct Waits {
    /// Since when the connection is idle between requests.
    idle: AtomicU64,
    /// Since when a request's head is incomplete.
    head: AtomicU64,
    /// Since when the client takes no bytes.
    write: AtomicU64,
    /// HTTP/2: since when an answer of the library's waits for the client and none has ended.
    answer: AtomicU64,
    /// HTTP/2: requests under way, and those of them that the library answers.
    streams: AtomicU64,
    requests: AtomicU64,
    /// HTTP/1.1: requests that the library has answered.
    answered: AtomicU64,
    /// HTTP/1.1: whether the express has a claim under way.
    express: AtomicBool,
}

/// How long a connection may wait for what, in ms.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub idle: u64,
    pub head: u64,
    pub write: u64,
}

/// The connections of one listener thread.
#[derive(Default)]
pub struct Watch {
    connections: Mutex<Vec<(Arc<Waits>, AbortHandle)>>,
}

/// A stream of HTTP/1 whose request heads are read along.
pub struct Guarded<S> {
    stream: S,
    waits: Arc<Waits>,
    scan: Scan,
    /// Answers plain claims over HTTP/1.1 before the library sees them.
    express: Option<Express>,
    /// The library has bytes to write that are not flushed.
    unflushed: bool,
}

/// Reads along, just far enough to know where heads begin and end.
#[derive(Debug, Default)]
struct Scan {
    phase: Phase,
    /// The part of a line that has arrived, where a line arrives in parts.
    line: Vec<u8>,
    head_bytes: usize,
    content_length: Option<u64>,
    chunked: bool,
    /// Heads that have arrived whole.
    heads: u64,
}

#[derive(Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Head,
    /// Bytes of a body still to come.
    Body(u64),
    /// A chunked body: read no further. The connection ends after its answer.
    Opaque,
}

/// One HTTP/2 request from its head to the last byte of its answer.
pub struct StreamUnderWay {
    waits: Arc<Waits>,
    /// Its answer waits for nobody: that it ends says nothing of the client.
    is_claim: bool,
}

/// An answer's body that notes when it has been handed over and when it is gone: the protocol itself
/// lets a client open windows that never grow.
pub struct Sending {
    body: Full<Bytes>,
    _stream: StreamUnderWay,
}

// === impl StreamUnderWay ===

impl StreamUnderWay {
    pub fn begin(waits: &Arc<Waits>) -> Self {
        StreamUnderWay::of(waits, false)
    }

    /// A claim that is answered without the library.
    pub fn of_claim(waits: &Arc<Waits>) -> Self {
        StreamUnderWay::of(waits, true)
    }

    fn of(waits: &Arc<Waits>, is_claim: bool) -> Self {
        waits.streams.fetch_add(1, Ordering::Relaxed);
        waits.requests.fetch_add(u64::from(!is_claim), Ordering::Relaxed);
        waits.begin_request();
        StreamUnderWay { waits: waits.clone(), is_claim }
    }

    /// The answer is made: from now on the client is waited for.
    pub fn send(self, body: Full<Bytes>) -> Sending {
        let _ = self.waits.answer.compare_exchange(0, mono_ms(), Ordering::Relaxed, Ordering::Relaxed);
        Sending { body, _stream: self }
    }
}

impl Drop for StreamUnderWay {
    fn drop(&mut self) {
        let last = self.waits.streams.fetch_sub(1, Ordering::Relaxed) == 1;
        if !self.is_claim {
            // What the library has answered ends when the client has moved.
            let none_waits = self.waits.requests.fetch_sub(1, Ordering::Relaxed) == 1;
            self.waits.answer.store(if none_waits { 0 } else { mono_ms() }, Ordering::Relaxed);
        }
        if last {
            self.waits.end_request();
        }
    }
}

// === impl Sending ===

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Waits ===

impl Waits {
    /// However long a request takes, its connection is not idle meanwhile.
    pub fn begin_request(&self) {
        self.idle.store(0, Ordering::Relaxed);
    }

    pub fn end_request(&self) {
        self.idle.store(mono_ms(), Ordering::Relaxed);
    }

    /// The library has an answer to a request over HTTP/1.1.
    pub fn end_http1(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.end_request();
    }

    /// Notes whether the client takes what is written.
    pub fn wrote<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            if self.write.load(Ordering::Relaxed) == 0 {
                self.write.store(mono_ms(), Ordering::Relaxed);
            }
        } else if self.write.load(Ordering::Relaxed) != 0 {
            self.write.store(0, Ordering::Relaxed);
        }
        polled
    }

    pub fn express_is_busy(&self) -> bool {
        self.express.load(Ordering::Relaxed)
    }
}

// === impl Watch ===

impl Watch {
    pub fn add(&self, waits: Arc<Waits>, task: AbortHandle) {
        self.connections.lock().expect("no panic holds this lock").push((waits, task));
    }

    /// Ends what waits too long and forgets what has ended. Called once a second.
    pub fn sweep(&self, patience: Patience) {
        let now = mono_ms();
        let too_long = |since: &AtomicU64, limit: u64| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since) > limit
        };
        self.connections.lock().expect("no panic holds this lock").retain(|(waits, task)| {
            if task.is_finished() {
                return false;
            }
            let stalled = too_long(&waits.idle, patience.idle)
                || too_long(&waits.head, patience.head)
                || too_long(&waits.write, patience.write)
                || too_long(&waits.answer, patience.write);
            if stalled {
                task.abort();
            }
            !stalled
        });
    }
}

// === impl Guarded ===

impl<S> Guarded<S> {
    pub fn new(stream: S, waits: Arc<Waits>, express: Option<Express>) -> Self {
        waits.end_request();
        Guarded { stream, waits, scan: Scan::default(), express, unflushed: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// Finishes the express' claim, if there is one: ready, when nothing of it is left.
    fn poll_express(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(express) = self.express.as_mut().filter(|express| express.is_busy()) else {
            return Poll::Ready(Ok(()));
        };
        ready!(express.poll(cx));
        while !express.unsent().is_empty() {
            let polled = Pin::new(&mut self.stream).poll_write(cx, express.unsent());
            match ready!(self.waits.wrote(polled))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => express.sent(sent),
            }
        }
        self.waits.express.store(false, Ordering::Relaxed);
        self.waits.end_request();
        Poll::Ready(Ok(()))
    }

    /// Whether the library waits for a request, and has sent all it had to say.
    fn library_is_idle(&self) -> bool {
        let Scan { phase, head_bytes, heads, .. } = &self.scan;
        let answered = self.waits.answered.load(Ordering::Relaxed);
        *phase == Phase::Head && *head_bytes == 0 && *heads == answered && !self.unflushed
    }

    /// Gives bytes to the express, if they are for it.
    fn express_takes(&mut self, bytes: &[u8]) -> bool {
        let takes = self.library_is_idle() && self.express.as_mut().is_some_and(|express| express.take(bytes));
        if takes {
            self.waits.express.store(true, Ordering::Relaxed);
            self.waits.begin_request();
        }
        takes
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = loop {
            ready!(this.poll_express(cx))?;
            if this.express.as_ref().is_some_and(Express::is_over) {
                // To the library this is the client's goodbye.
                return Poll::Ready(Ok(()));
            }
            let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
            if !polled.is_ready() || !this.express_takes(&buffer.filled()[before..]) {
                break polled;
            }
            buffer.set_filled(before);
        };
        if let Poll::Ready(Ok(())) = &polled {
            let scan = &mut this.scan;
            let heads = scan.heads;
            scan.feed(&buffer.filled()[before..])?;
            let since = this.waits.head.load(Ordering::Relaxed);
            let head = match scan.phase {
                Phase::Head if scan.head_bytes == 0 => 0,
                // Its first bytes may have come with the end of the request before.
                Phase::Head if since == 0 || scan.heads != heads => mono_ms(),
                Phase::Head => since,
                _ => 0,
            };
            if head != 0 || scan.heads != heads {
                this.waits.begin_request();
            }
            this.waits.head.store(head, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waits.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.waits.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.unflushed = polled.is_pending();
        self.waits.wrote(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// === impl Scan ===

impl Scan {
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.phase {
                Phase::Opaque => return Ok(()),
                Phase::Body(left) => {
                    let taken = left.min(bytes.len() as u64);
                    bytes = &bytes[taken as usize..];
                    self.phase = if taken == left { Phase::Head } else { Phase::Body(left - taken) };
                }
                Phase::Head => {
                    let end = memchr::memchr(b'\n', bytes);
                    let part = end.map_or(bytes, |end| &bytes[..end]);
                    self.head_bytes += part.len() + 1;
                    if self.head_bytes > 2 * HEAD_BYTES_MAX {
                        return Err(refused("the request's head is too large"));
                    }
                    let Some(end) = end else {
                        self.line.extend_from_slice(part);
                        return Ok(());
                    };
                    bytes = &bytes[end + 1..];
                    if self.line.is_empty() {
                        self.line_ends(part)?;
                    } else {
                        let mut line = std::mem::take(&mut self.line);
                        line.extend_from_slice(part);
                        self.line_ends(&line)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a line without its LF.
    fn line_ends(&mut self, line: &[u8]) -> io::Result<()> {
        let Some((b'\r', line)) = line.split_last() else {
            return Err(refused("a line of the request's head ends without CR"));
        };
        if line.is_empty() {
            // The parser behind this one drops the length and says nothing.
            if self.chunked && self.content_length.is_some() {
                return Err(refused("the request's head has a length and chunks"));
            }
            self.phase = match self.content_length.take() {
                _ if self.chunked => Phase::Opaque,
                None | Some(0) => Phase::Head,
                Some(length) => Phase::Body(length),
            };
            self.head_bytes = 0;
            self.heads += 1;
            return Ok(());
        }
        match line[0] | 0x20 {
            b'c' if has_name(line, b"content-length:") => {
                // What is no plain number is refused by the parser behind this one.
                let digits = line[15..].trim_ascii();
                let length = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                self.content_length = Some(length.unwrap_or(0));
            }
            b't' if has_name(line, b"transfer-encoding:") => self.chunked = true,
            _ => {}
        }
        Ok(())
    }
}

fn has_name(line: &[u8], name: &[u8]) -> bool {
    line.len() >= name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

fn refused(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(parts: &[&[u8]]) -> Result<Scan, String> {
        let mut scan = Scan::default();
        for part in parts {
            scan.feed(part).map_err(|error| error.to_string())?;
        }
        Ok(scan)
    }

    #[test]
    fn honest_requests_pass_in_any_parts() {
        let request =
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{\n}\n\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 0..request.len() {
            let scan = feed(&[&request[..cut], &request[cut..]]).unwrap();
            assert_eq!((scan.phase, scan.head_bytes), (Phase::Head, 0), "cut at {cut}");
        }
        let single: Vec<&[u8]> = request.chunks(1).collect();
        feed(&single).unwrap();
    }

    #[test]
    fn a_bare_lf_is_refused_wherever_it_stands_in_a_head() {
        for bad in [
            &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            b"\nGET / HTTP/1.1\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n\nGET / HTTP/1.1\nHost: a\r\n\r\n",
        ] {
            for cut in 0..bad.len() {
                assert!(feed(&[&bad[..cut], &bad[cut..]]).is_err(), "{:?} cut at {cut}", String::from_utf8_lossy(bad));
            }
        }
    }

    #[test]
    fn a_length_and_chunks_are_refused_in_any_order() {
        let (length, chunks) = ("content-length: 5\r\n", "Transfer-Encoding: chunked\r\n");
        for lines in [[length, chunks], [chunks, length]] {
            let head = format!("POST / HTTP/1.1\r\n{}\r\n", lines.concat());
            assert!(feed(&[head.as_bytes()]).is_err(), "{head}");
        }
    }

    #[test]
    fn heads_are_bounded_and_chunked_bodies_end_the_scan() {
        assert!(feed(&[&vec![b'a'; 3 * HEAD_BYTES_MAX]]).is_err());
        let scan = feed(&[b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx"]).unwrap();
        assert_eq!(scan.phase, Phase::Opaque);
    }

    #[test]
    fn claims_say_nothing_of_answers_that_wait() {
        let waits = Arc::new(Waits::default());
        let waiting = || waits.answer.load(Ordering::Relaxed) != 0;
        let answer = || StreamUnderWay::begin(&waits).send(Full::new(Bytes::new()));
        while mono_ms() == 0 {
            std::thread::yield_now();
        }
        let claim = StreamUnderWay::of_claim(&waits);
        let (first, second) = (answer(), answer());
        drop(first);
        assert!(waiting(), "the second one does");
        drop(StreamUnderWay::of_claim(&waits));
        assert!(waiting());
        drop(second);
        assert!(!waiting(), "nothing but a claim is under way");
        drop(claim);
        assert!(!waiting() && waits.idle.load(Ordering::Relaxed) != 0);
    }

    #[tokio::test]
    async fn what_stalls_is_ended() {
        let watch = Watch::default();
        let stuck = || tokio::spawn(std::future::pending::<()>());
        let (idle, busy) = (stuck(), stuck());
        let waits = Arc::new(Waits::default());
        waits.head.store(1, Ordering::Relaxed);
        watch.add(waits, idle.abort_handle());
        watch.add(Arc::default(), busy.abort_handle());
        while mono_ms() < 4 {
            tokio::task::yield_now().await;
        }
        watch.sweep(Patience { idle: 1, head: 1, write: 1 });
        assert!(idle.await.unwrap_err().is_cancelled());
        assert!(!busy.is_finished());
        assert_eq!(watch.connections.lock().unwrap().len(), 1);
    }
}
