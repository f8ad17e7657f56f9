//! One keep-alive HTTP/1.1 connection, as small as a load client needs it: requests without a body,
//! answers with a Content-Length.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub struct Connection {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// The server closes the connection after it.
    pub last: bool,
}

const HEAD_BYTES_MAX: usize = 64 << 10;
const BODY_BYTES_MAX: usize = 4 << 20;

// === impl Connection ===

impl Connection {
    pub async fn open(address: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        stream.set_nodelay(true).map_err(|error| format!("connect: {error}"))?;
        Ok(Connection { stream: BufReader::new(stream), line: Vec::new() })
    }

    /// Sends a whole request and reads its answer. After an error the connection is worthless, and
    /// whether the server took the request is unknown.
    pub async fn send(&mut self, request: &[u8]) -> Result<Answer, String> {
        self.stream.get_mut().write_all(request).await.map_err(|error| format!("send: {error}"))?;
        let status = self.status_line().await?;
        let (mut length, mut last, mut head) = (None, false, 0);
        loop {
            let line = self.line().await?;
            head += line.len();
            if line.is_empty() {
                break;
            }
            if head > HEAD_BYTES_MAX {
                return Err("answer: its head is too long".into());
            }
            let Some((name, value)) = line.split_once(':') else { return Err("answer: no header line".into()) };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
                last = true;
            }
        }
        let length = length.filter(|length| *length <= BODY_BYTES_MAX).ok_or("answer: no usable Content-Length")?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.map_err(|error| format!("answer: {error}"))?;
        Ok(Answer { status, body, last })
    }

    async fn status_line(&mut self) -> Result<u16, String> {
        let line = self.line().await?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        status.ok_or_else(|| "answer: no status line".into())
    }

    async fn line(&mut self) -> Result<&str, String> {
        self.line.clear();
        let read = self.stream.read_until(b'\n', &mut self.line).await.map_err(|error| format!("answer: {error}"))?;
        if read == 0 || !self.line.ends_with(b"\n") {
            return Err("answer: the connection was closed".into());
        }
        std::str::from_utf8(&self.line).map(str::trim_end).map_err(|_| "answer: no text".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answered_with(bytes: &'static [u8]) -> Result<Answer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(bytes).await.unwrap();
        });
        Connection::open(&address).await.unwrap().send(b"ping").await
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_or_not_at_all() {
        let whole =
            answered_with(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nconnection: close\r\n\r\n{}").await.unwrap();
        assert_eq!((whole.status, &whole.body[..], whole.last), (201, &b"{}"[..], true));
        for torn in [
            &b""[..],
            b"HTTP/1.1 201 Created\r\nContent-Length: 2",
            b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{",
            b"HTTP/1.1 201 Created\r\n\r\n",
            b"nonsense\r\n\r\n",
        ] {
            assert!(answered_with(torn).await.is_err(), "{:?}", String::from_utf8_lossy(torn));
        }
    }
}
