//! A bad link: stands before a server and does to its connections what networks do.
//!
//! One proxy, one weather at a time, for all of its connections, those that are open included.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Every piece comes so much later, in both directions.
    Late(Duration),
    /// One byte at a time, in both directions.
    Crumbs,
    /// Connections are accepted and stay open, and nothing passes any more.
    HalfOpen,
    /// Open connections break, new ones at once.
    Down,
    /// After so many bytes of answers, whoever's, their connection breaks. Once.
    CutAnswersAfter(usize),
    /// The same of requests.
    CutRequestsAfter(usize),
    /// A request with these bytes in it arrives, and its connection breaks before the answer. Once.
    CutBehind(&'static [u8]),
    /// The same, and the request never arrives.
    CutBefore(&'static [u8]),
    /// The same, and the request arrives so much later.
    CutAndLate(&'static [u8], Duration),
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Place {
    Tcp(String),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
    cuts: Arc<AtomicU32>,
    task: JoinHandle<()>,
    address: String,
}

/// What the two directions of a connection share.
#[derive(Clone)]
struct Sky {
    weather: Arc<watch::Sender<Weather>>,
    cuts: Arc<AtomicU32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Requests,
    Answers,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// How long a server whose client was cut off is still listened to, so that what it was sent arrives.
const LINGER: Duration = Duration::from_millis(300);

// === impl Proxy ===

impl Proxy {
    /// On a free port of the loopback.
    pub async fn tcp(to: Place) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Proxy::start(address, Listener::Tcp(listener), to)
    }

    pub fn unix(at: &Path, to: Place) -> Proxy {
        let listener = UnixListener::bind(at).unwrap();
        Proxy::start(at.display().to_string(), Listener::Unix(listener), to)
    }

    fn start(address: String, listener: Listener, to: Place) -> Proxy {
        let sky = Sky { weather: Arc::new(watch::Sender::new(Weather::Clear)), cuts: Arc::default() };
        let shared = sky.clone();
        let task = tokio::spawn(async move {
            while let Ok(client) = listener.accept().await {
                let (sky, to) = (shared.clone(), to.clone());
                tokio::spawn(async move {
                    if let Ok(server) = to.connect().await {
                        sky.join(client, server).await;
                    }
                });
            }
        });
        Proxy { weather: sky.weather, cuts: sky.cuts, task, address }
    }

    /// `127.0.0.1:1234`, or the socket's path.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Connections that were cut because of what passed over them.
    pub fn cuts(&self) -> u32 {
        self.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.send_replace(Weather::Down);
        self.task.abort();
    }
}

// === impl Listener ===

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

// === impl Place ===

impl Place {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Place::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }
}

// === impl Sky ===

impl Sky {
    async fn join(&self, client: Box<dyn Stream>, server: Box<dyn Stream>) {
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_server, mut to_server) = tokio::io::split(server);
        let (mut down, mut half) = (self.weather.subscribe(), self.weather.subscribe());
        let swallowed = async {
            // What was swallowed is missing: no connection outlives it.
            let _ = half.wait_for(|weather| *weather == Weather::HalfOpen).await;
            let _ = half.wait_for(|weather| *weather != Weather::HalfOpen).await;
        };
        let late = tokio::select! {
            late = self.pass(&mut from_client, &mut to_server, Way::Requests) => late,
            late = self.pass(&mut from_server, &mut to_client, Way::Answers) => late,
            _ = down.wait_for(|weather| *weather == Weather::Down) => None,
            () = swallowed => None,
        };
        drop((from_client, to_client));
        if let Some((time, bytes)) = late {
            tokio::time::sleep(time).await;
            let _ = to_server.write_all(&bytes).await;
        }
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(LINGER, from_server.read_to_end(&mut rest)).await;
    }

    /// Passes bytes on until either side ends, or the weather breaks the connection; what then still has
    /// to arrive, and when.
    async fn pass(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        way: Way,
    ) -> Option<(Duration, Vec<u8>)> {
        let mut buffer = vec![0; 65536];
        loop {
            let length = from.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
            let (weather, bytes) = (*self.weather.borrow(), &buffer[..length]);
            match weather {
                Weather::Late(time) => tokio::time::sleep(time).await,
                Weather::Crumbs => {
                    for byte in bytes {
                        to.write_all(std::slice::from_ref(byte)).await.ok()?;
                        to.flush().await.ok()?;
                    }
                    continue;
                }
                Weather::HalfOpen => continue,
                Weather::CutAnswersAfter(left)
                    if way == Way::Answers
                        && self.counts(
                            weather,
                            Weather::CutAnswersAfter(left.saturating_sub(length)),
                            length < left,
                        ) =>
                {
                    let _ = to.write_all(&bytes[..left]).await;
                    return None;
                }
                Weather::CutRequestsAfter(left)
                    if way == Way::Requests
                        && self.counts(
                            weather,
                            Weather::CutRequestsAfter(left.saturating_sub(length)),
                            length < left,
                        ) =>
                {
                    let _ = to.write_all(&bytes[..left]).await;
                    return None;
                }
                Weather::CutBehind(word) | Weather::CutBefore(word) | Weather::CutAndLate(word, _)
                    if way == Way::Requests && holds(bytes, word) && self.turn(weather, Weather::Clear) =>
                {
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                    return match weather {
                        Weather::CutBehind(_) => Some((Duration::ZERO, bytes.to_vec())),
                        Weather::CutAndLate(_, time) => Some((time, bytes.to_vec())),
                        _ => None,
                    };
                }
                _ => {}
            }
            to.write_all(bytes).await.ok()?;
        }
    }

    /// Counts bytes that pass, as `rest` says; whether the last of them have passed, and it is cut here.
    fn counts(&self, weather: Weather, rest: Weather, passes: bool) -> bool {
        if passes {
            self.turn(weather, rest);
            return false;
        }
        let cut = self.turn(weather, Weather::Clear);
        self.cuts.fetch_add(u32::from(cut), Ordering::SeqCst);
        cut
    }

    /// Changes the weather, if it is still what it was; whether it was.
    fn turn(&self, was: Weather, becomes: Weather) -> bool {
        self.weather.send_if_modified(|weather| {
            let same = *weather == was;
            if same {
                *weather = becomes;
            }
            same
        })
    }
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}
