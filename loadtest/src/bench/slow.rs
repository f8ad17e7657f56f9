//! A Redis that is slow: a relay on a Unix socket that lets only so many bytes a second through.
//!
//! What Redis is asked grows with the claims in a batch, so the relay's rate is a bound on claims a
//! second, the same for every connection together. Answers pass as they come.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A relay; it ends when this is dropped.
pub struct Slow {
    socket: PathBuf,
    task: JoinHandle<()>,
}

/// When the next byte may pass.
struct Gate {
    free_at: Mutex<Instant>,
    bytes_per_second: f64,
}

/// Bytes that pass at once: less than a batch of claims, so that batches share the rate evenly.
const PIECE: usize = 4096;
/// What an idle gate has saved up, at most.
const SAVED_MAX: Duration = Duration::from_millis(5);

// === impl Slow ===

impl Slow {
    /// Between `socket`, which is made, and the server's.
    pub fn start(socket: PathBuf, server: &Path, bytes_per_second: f64) -> Result<Slow, String> {
        let listener = UnixListener::bind(&socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        let gate = Arc::new(Gate { free_at: Mutex::new(Instant::now()), bytes_per_second });
        let server = server.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, server.clone(), gate.clone()));
            }
        });
        Ok(Slow { socket, task })
    }

    /// As the Redis client takes it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn relay(client: UnixStream, server: PathBuf, gate: Arc<Gate>) {
    let Ok(server) = UnixStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(length @ 1..) = from_client.read(&mut piece).await {
            gate.pass(length).await;
            if to_server.write_all(&piece[..length]).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let answering = async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    };
    tokio::join!(asking, answering);
}

// === impl Gate ===

impl Gate {
    /// Waits until so many bytes may have passed.
    async fn pass(&self, bytes: usize) {
        let until = {
            let mut free_at = self.free_at.lock().await;
            *free_at = self.after(*free_at, Instant::now(), bytes);
            *free_at
        };
        tokio::time::sleep_until(until).await;
    }

    /// When so many more bytes will have passed.
    fn after(&self, free_at: Instant, now: Instant, bytes: usize) -> Instant {
        let from = free_at.max(now.checked_sub(SAVED_MAX).unwrap_or(now));
        from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_so_many_bytes_through_in_a_second() {
        let begun = Instant::now();
        let gate = Gate { free_at: Mutex::new(begun), bytes_per_second: 1000.0 };
        let mut free_at = begun;
        for _ in 0..4 {
            free_at = gate.after(free_at, begun, 500);
        }
        assert_eq!(free_at - begun, Duration::from_secs(2));
        // Idle time is not saved up, but for a moment.
        let later = begun + Duration::from_secs(10);
        assert_eq!(gate.after(free_at, later, 1000) - later, Duration::from_secs(1) - SAVED_MAX);
    }
}
