//! One connection to Redis that nobody shares: what a lane needs, and nothing between it and the socket.
//!
//! The client library's connection is shared: commands pass a queue to a task that owns the socket, and
//! answers pass another back. A lane has a connection of its own and one batch under way, so both hops,
//! with their wake-ups, would be for nothing. Here the caller's own task writes and reads. What
//! is said is RESP 2 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use std::io;

use redis::{Cmd, ConnectionAddr, ConnectionInfo, RedisError, RedisResult, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// A connection that was authenticated and has its database selected.
pub struct Wire {
    socket: Box<dyn Socket>,
    out: Vec<u8>,
    /// What has arrived of the answer.
    buffer: Vec<u8>,
}

/// Commands as they are sent.
#[derive(Debug, Default)]
pub struct Packed {
    bytes: Vec<u8>,
    commands: usize,
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for S {}

/// Arrays within arrays that an answer may have: the scripts' have three.
const DEPTH_MAX: usize = 8;

/// What stands around a part: `$`, its length of up to seven digits, and twice CR LF.
const PART_FRAME: usize = 12;
const BUFFER: usize = 16 << 10;
/// What a connection keeps after a large answer.
const BUFFER_KEPT: usize = 4 << 20;

// === impl Wire ===

impl Wire {
    /// Connects. The caller bounds the time.
    pub async fn connect(info: &ConnectionInfo) -> RedisResult<Wire> {
        let socket: Box<dyn Socket> = match info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
            other => return Err(io::Error::other(format!("{other} is an address of another kind")).into()),
        };
        let mut wire = Wire { socket, out: Vec::new(), buffer: Vec::with_capacity(BUFFER) };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            wire.send_all(&[auth.arg(password)]).await?;
        }
        if settings.db() != 0 {
            wire.send_all(&[redis::cmd("SELECT").arg(settings.db())]).await?;
        }
        Ok(wire)
    }

    /// Commands in one go, and their answers; the first error reply is the error. After any other error, and
    /// where the future is dropped, the connection is worth nothing any more.
    pub async fn send_all(&mut self, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
        let mut packed = Packed { bytes: std::mem::take(&mut self.out), commands: 0 };
        packed.bytes.clear();
        commands.iter().for_each(|command| packed.command(command));
        let answers = self.send(&packed).await;
        self.out = packed.bytes;
        answers
    }

    /// The same of commands that are packed already.
    pub async fn send(&mut self, packed: &Packed) -> RedisResult<Vec<Value>> {
        self.post(packed).await?;
        self.answers(packed.commands).await
    }

    /// The first half of [`Wire::send`]: all of the commands are on their way.
    pub async fn post(&mut self, packed: &Packed) -> RedisResult<()> {
        Ok(self.socket.write_all(&packed.bytes).await?)
    }

    /// The second half: the answers to all commands that were posted.
    pub async fn answers(&mut self, commands: usize) -> RedisResult<Vec<Value>> {
        let mut unfinished = Unfinished::of(commands);
        loop {
            if self.buffer.capacity() - self.buffer.len() < BUFFER / 2 {
                self.buffer.reserve(self.buffer.len().max(BUFFER));
            }
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Some(end) = unfinished.end_of(&self.buffer)? {
                let answers = if end == self.buffer.len() {
                    values(&self.buffer, commands)
                } else {
                    Err(malformed("more answers than commands"))
                };
                self.buffer.clear();
                self.buffer.shrink_to(BUFFER_KEPT);
                return answers?.into_iter().map(Value::extract_error).collect();
            }
        }
    }
}

// === impl Packed ===

impl Packed {
    /// Makes room for so many parts, of so many bytes in all.
    pub fn reserve(&mut self, parts: usize, bytes: usize) {
        self.bytes.reserve(parts * PART_FRAME + bytes);
    }

    pub fn command(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.commands += 1;
    }

    /// Begins a command of so many parts, its name among them; each follows by [`Packed::part`].
    pub fn begin(&mut self, parts: usize) {
        self.size(b'*', parts);
        self.commands += 1;
    }

    pub fn part(&mut self, bytes: &[u8]) {
        self.size(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub fn append(&mut self, other: &Packed) {
        self.bytes.extend_from_slice(&other.bytes);
        self.commands += other.commands;
    }

    pub fn commands(&self) -> usize {
        self.commands
    }

    fn size(&mut self, kind: u8, size: usize) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// Finds where answers end, going on where it stopped when more has arrived.
struct Unfinished {
    /// Up to where whole elements stand.
    at: usize,
    /// Elements that are missing still: answers, and then by array.
    missing: Vec<usize>,
}

// === impl Unfinished ===

impl Unfinished {
    fn of(answers: usize) -> Self {
        Unfinished { at: 0, missing: vec![answers] }
    }

    fn end_of(&mut self, bytes: &[u8]) -> RedisResult<Option<usize>> {
        while let Some(missing) = self.missing.last_mut() {
            if *missing == 0 {
                self.missing.pop();
                continue;
            }
            let Some((kind, text, next)) = line(bytes, self.at) else { return Ok(None) };
            let mut end = next;
            match kind {
                b'$' => {
                    if let Some(length) = size(text)? {
                        end += length + 2;
                    }
                    if end > bytes.len() {
                        return Ok(None);
                    }
                    *missing -= 1;
                }
                b'*' => {
                    *missing -= 1;
                    if let Some(count) = size(text)? {
                        if self.missing.len() > DEPTH_MAX {
                            return Err(malformed("nested too deep"));
                        }
                        self.missing.push(count);
                    }
                }
                b'+' | b'-' | b':' => *missing -= 1,
                _ => return Err(malformed("no RESP")),
            }
            self.at = end;
        }
        Ok(Some(self.at))
    }
}

/// The line that begins at `at`: its first byte, the others, and where the next one begins.
fn line(bytes: &[u8], at: usize) -> Option<(u8, &[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = memchr::memchr(b'\n', rest)?;
    let text = rest.get(1..end.checked_sub(1)?)?;
    Some((rest[0], text, at + end + 1))
}

/// The length of a text or an array; none of a null.
fn size(text: &[u8]) -> RedisResult<Option<usize>> {
    match number(text)? {
        -1 => Ok(None),
        size => usize::try_from(size).map(Some).map_err(|_| malformed("a length below zero")),
    }
}

fn number(text: &[u8]) -> RedisResult<i64> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| malformed("no number"))
}

/// So many values, which are all that `bytes` holds.
fn values(mut bytes: &[u8], count: usize) -> RedisResult<Vec<Value>> {
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let (next, rest) = value(bytes)?;
        values.push(next);
        bytes = rest;
    }
    Ok(values)
}

/// The value at the front of `bytes`, which holds all of it, and what follows.
fn value(bytes: &[u8]) -> RedisResult<(Value, &[u8])> {
    let (kind, text, next) = line(bytes, 0).ok_or_else(|| malformed("no line"))?;
    let rest = &bytes[next..];
    Ok(match kind {
        b'$' => match size(text)? {
            None => (Value::Nil, rest),
            Some(length) => (Value::BulkString(rest[..length].to_vec()), &rest[length + 2..]),
        },
        b'*' => match size(text)? {
            None => (Value::Nil, rest),
            Some(count) => {
                let (mut elements, mut rest) = (Vec::with_capacity(count), rest);
                for _ in 0..count {
                    let (element, after) = value(rest)?;
                    elements.push(element);
                    rest = after;
                }
                (Value::Array(elements), rest)
            }
        },
        b':' => (Value::Int(number(text)?), rest),
        b'+' if text == b"OK" => (Value::Okay, rest),
        b'+' => (Value::SimpleString(String::from_utf8_lossy(text).into_owned()), rest),
        // The library knows the kinds of errors.
        _ => (redis::parse_redis_value(&bytes[..next])?, rest),
    })
}

fn malformed(what: &str) -> RedisError {
    io::Error::new(io::ErrorKind::InvalidData, format!("an answer that is none: {what}")).into()
}

#[cfg(test)]
mod tests {
    use redis::{ErrorKind, ServerErrorKind};

    use super::*;

    const ANSWER: &[u8] = b"*5\r\n:1\r\n$3\r\na\r\n\r\n$-1\r\n*2\r\n$0\r\n\r\n*0\r\n+OK\r\n";

    #[test]
    fn an_answer_is_found_whole_wherever_it_is_cut() {
        let mut unfinished = Unfinished::of(1);
        for end in 0..ANSWER.len() {
            assert_eq!(unfinished.end_of(&ANSWER[..end]).unwrap(), None, "{end}");
            assert_eq!(Unfinished::of(1).end_of(&ANSWER[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(unfinished.end_of(ANSWER).unwrap(), Some(ANSWER.len()));
        let bulk = |text: &[u8]| Value::BulkString(text.to_vec());
        let inner = Value::Array(vec![bulk(b""), Value::Array(vec![])]);
        let whole = vec![Value::Int(1), bulk(b"a\r\n"), Value::Nil, inner, Value::Okay];
        assert_eq!(value(ANSWER).unwrap(), (Value::Array(whole), &b""[..]));
        assert_eq!(redis::parse_redis_value(ANSWER).unwrap(), value(ANSWER).unwrap().0, "as the library reads it");
    }

    #[test]
    fn answers_in_one_go_are_told_apart() {
        let both = [ANSWER, b":7\r\n"].concat();
        assert_eq!(Unfinished::of(2).end_of(ANSWER).unwrap(), None);
        assert_eq!(Unfinished::of(2).end_of(&both).unwrap(), Some(both.len()));
        assert_eq!(values(&both, 2).unwrap(), [value(ANSWER).unwrap().0, Value::Int(7)]);
    }

    #[test]
    fn a_command_by_hand_is_the_librarys() {
        let (mut library, mut hand) = (Packed::default(), Packed::default());
        library.command(redis::cmd("HSET").arg("key").arg(&b"\r\n"[..]).arg(""));
        hand.begin(4);
        [&b"HSET"[..], b"key", b"\r\n", b""].iter().for_each(|part| hand.part(part));
        assert_eq!((&library.bytes, library.commands), (&hand.bytes, 1));
        hand.append(&library);
        assert_eq!(hand.commands(), 2);
    }

    #[test]
    fn an_error_reply_keeps_its_kind() {
        let kind = |text: &[u8]| value(text).unwrap().0.extract_error().unwrap_err().kind();
        assert_eq!(kind(b"-NOSCRIPT No matching script.\r\n"), ErrorKind::Server(ServerErrorKind::NoScript));
        assert_eq!(kind(b"-READONLY You can't write\r\n"), ErrorKind::Server(ServerErrorKind::ReadOnly));
        let oom = value(b"-OOM command not allowed\r\n").unwrap().0.extract_error().unwrap_err();
        assert_eq!(oom.code(), Some("OOM"));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let deep = [&b"*1\r\n".repeat(DEPTH_MAX + 1)[..], b":1\r\n"].concat();
        for bad in [&b"?\r\n"[..], b"$x\r\n", b"*-2\r\n", &deep] {
            assert!(Unfinished::of(1).end_of(bad).is_err(), "{bad:?}");
        }
    }
}
