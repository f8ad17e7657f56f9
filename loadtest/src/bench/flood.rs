//! The ceiling of a server over h2c: a closed loop that writes HTTP/2 frames itself.
//!
//! h2load cannot give each request a user of its own, and a whole HTTP/2 client costs as much as the
//! server. This one knows what a load needs (RFC 9113, RFC 7541): request heads of literal fields,
//! no dynamic table, the status of an answer, and the end of its stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Flood {
    pub address: String,
    pub path: String,
    pub connections: usize,
    /// Requests under way on each.
    pub streams: u32,
    pub duration: Duration,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Count {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    pub took: Duration,
}

/// One connection.
struct Connection {
    flood: Arc<Flood>,
    /// Numbers of users, over all connections.
    users: Arc<AtomicU64>,
    out: Vec<u8>,
    stream: u32,
    statuses: BTreeMap<u16, u64>,
    /// Bytes of data that the server may still send.
    window: u32,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const WINDOW_MAX: u32 = 0x7FFF_FFFF;
const WINDOW_AT_FIRST: u32 = 65_535;
/// A server that sends nothing for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(10);

// === impl Flood ===

impl Flood {
    /// Runs on threads of the present runtime.
    pub async fn run(self) -> Result<Count, String> {
        let (flood, users) = (Arc::new(self), Arc::new(AtomicU64::new(1)));
        let begun = Instant::now();
        let tasks: Vec<_> = (0..flood.connections)
            .map(|_| {
                let connection = Connection {
                    flood: flood.clone(),
                    users: users.clone(),
                    out: Vec::new(),
                    stream: 1,
                    statuses: BTreeMap::new(),
                    window: WINDOW_AT_FIRST,
                };
                tokio::spawn(connection.run(begun))
            })
            .collect();
        let mut statuses = BTreeMap::new();
        for task in tasks {
            for (status, count) in task.await.map_err(|error| error.to_string())?? {
                *statuses.entry(status).or_default() += count;
            }
        }
        Ok(Count { statuses, took: flood.duration })
    }
}

// === impl Count ===

impl Count {
    pub fn of(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    pub fn all(&self) -> u64 {
        self.statuses.values().sum()
    }
}

// === impl Connection ===

impl Connection {
    /// Asks until the time is over; what is then under way is not counted.
    async fn run(mut self, begun: Instant) -> Result<BTreeMap<u16, u64>, String> {
        let connect = TcpStream::connect(&self.flood.address).await.and_then(|s| s.set_nodelay(true).map(|()| s));
        let mut socket = connect.map_err(|error| format!("connect: {error}"))?;
        self.open();
        for _ in 0..self.flood.streams {
            self.ask();
        }
        let (mut buffer, mut kept) = (vec![0; 256 << 10], 0);
        loop {
            socket.write_all(&self.out).await.map_err(|error| format!("send: {error}"))?;
            self.out.clear();
            if begun.elapsed() >= self.flood.duration {
                return Ok(self.statuses);
            }
            let read = tokio::time::timeout(SILENCE_MAX, socket.read(&mut buffer[kept..])).await;
            let read = read.map_err(|_| "no answer for 10 s")?.map_err(|error| format!("answer: {error}"))?;
            if read == 0 {
                return Err("the server closed the connection".into());
            }
            kept += read;
            let mut at = 0;
            while let Some(length) = self.frame(&buffer[at..kept])? {
                at += length;
            }
            buffer.copy_within(at..kept, 0);
            kept -= at;
        }
    }

    fn open(&mut self) {
        self.out.extend_from_slice(PREFACE);
        let mut settings = Vec::new();
        // Header table size 0: heads come as literals. The window of every stream: as large as can be. No push.
        for (name, value) in [(1u16, 0u32), (2, 0), (4, WINDOW_MAX)] {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        self.write(SETTINGS, 0, 0, &settings);
        self.widen();
    }

    fn widen(&mut self) {
        let more = WINDOW_MAX - self.window;
        self.write(WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        self.window = WINDOW_MAX;
    }

    /// One more request, by a user that nobody else is.
    fn ask(&mut self) {
        let user = self.users.fetch_add(1, Ordering::Relaxed);
        // :method POST and :scheme http are entries 3 and 6 of the static table, :path 4, :authority 1.
        let mut head = vec![0x83, 0x86];
        literal(&mut head, 4, &self.flood.path);
        literal(&mut head, 1, &self.flood.address);
        head.push(0);
        text(&mut head, "x-user-id");
        text(&mut head, &format!("u{user:011}"));
        let stream = self.stream;
        self.stream += 2;
        self.write(HEADERS, END_STREAM | END_HEADERS, stream, &head);
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    /// Takes the first frame, if it is whole, and tells its length.
    fn frame(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some((head, rest)) = bytes.split_at_checked(9) else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let (kind, flags) = (head[3], head[4]);
        match kind {
            HEADERS => {
                let status = status(payload, flags).ok_or("an answer's head begins with no status")?;
                *self.statuses.entry(status).or_default() += 1;
            }
            DATA => {
                self.window = self.window.saturating_sub(length as u32);
                if self.window < WINDOW_MAX / 2 {
                    self.widen();
                }
            }
            SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.write(PING, ACK, 0, payload),
            RST_STREAM => return Err("the server gave up a stream".into()),
            GOAWAY => return Err("the server said goodbye".into()),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            self.ask();
        }
        Ok(Some(9 + length))
    }
}

/// A field without indexing, its name from the static table.
fn literal(head: &mut Vec<u8>, name: u8, value: &str) {
    head.push(name);
    text(head, value);
}

/// Not longer than 126 bytes, so that its length is one byte.
fn text(head: &mut Vec<u8>, value: &str) {
    assert!(value.len() < 127, "{value} is too long for this small encoder");
    head.push(value.len() as u8);
    head.extend_from_slice(value.as_bytes());
}

/// `:status`, an answer's first field.
fn status(mut block: &[u8], flags: u8) -> Option<u16> {
    if flags & PADDED != 0 {
        block = block.get(1..)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    // Changes of the dynamic table's size stand before the fields.
    while block.first()? & 0xE0 == 0x20 {
        block = block.get(1..)?;
    }
    match *block.first()? {
        indexed @ 0x88..=0x8E => Some([200, 204, 206, 304, 400, 404, 500][(indexed - 0x88) as usize]),
        // A literal whose name is one of the static table's entries 8 to 14, which all are `:status`.
        0x48..=0x4E | 0x08..=0x0E => {
            let length = *block.get(1)?;
            let value = block.get(2..2 + usize::from(length & 0x7F))?;
            if length & 0x80 == 0 { std::str::from_utf8(value).ok()?.parse().ok() } else { huffman_digits(value) }
        }
        _ => None,
    }
}

/// A number in Huffman's code of RFC 7541: 0, 1, 2 in five bits, the other digits in six.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let (mut bits, mut held) = (0u32, 0);
    let mut number = 0u16;
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        loop {
            let of = |count: u32| bits >> (held - count) & ((1 << count) - 1);
            let digit = if held >= 5 && of(5) <= 2 {
                held -= 5;
                bits >> held & 0x1F
            } else if held >= 6 && (0x19..=0x1F).contains(&of(6)) {
                held -= 6;
                (bits >> held & 0x3F) - 0x16
            } else {
                break;
            };
            number = number.checked_mul(10)?.checked_add(digit as u16)?;
        }
    }
    // The rest is padding of ones.
    (held < 8 && (100..1000).contains(&number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        assert_eq!(status(&[0x88], 0), Some(200));
        assert_eq!(status(&[0x20, 0x8D], 0), Some(404));
        assert_eq!(status(&[0x48, 3, b'2', b'0', b'1'], 0), Some(201));
        assert_eq!(status(&[0x08, 3, b'4', b'1', b'0'], 0), Some(410));
        // RFC 7541, C.4 and C.6: 302 and 307.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02], 0), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0E, 0xFF], 0), Some(307));
        assert_eq!(status(&[0x00, 1, b'a', 1, b'b'], 0), None);
        // 201 and 429 as h2 writes them.
        assert_eq!(huffman_digits(&[0x10, 0x03]), Some(201));
        assert_eq!(huffman_digits(&[0x68, 0x4F, 0xFF]), Some(429));
    }
}
