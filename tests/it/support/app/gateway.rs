//! One `floodgate serve` as a test sees it: two addresses, readiness, metrics.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

use floodgate::demo::child::Supervised;

use super::Process;
use crate::support::proxy::Proxy;
use crate::support::wire::Client;

/// What stands between a process and its neighbours, with [`super::Plan::linked`].
pub struct Links {
    pub shoppers: Proxy,
    pub redis: Proxy,
    pub postgres: Proxy,
}

/// One `floodgate serve`.
pub struct Gateway {
    pub(super) roles: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) child: Option<Supervised>,
    pub(super) public: String,
    pub(super) internal: String,
    pub(super) links: Option<Links>,
    /// Clients of both listeners; they keep their connections.
    pub shop: Client,
    pub office: Client,
}

// === impl Gateway ===

impl Gateway {
    pub(super) fn new(process: Process) -> Gateway {
        let (public, internal) = (free_address(), free_address());
        let (shop, office) = (Client::new(&public), Client::new(&internal));
        Gateway { roles: process.roles, env: process.env, child: None, public, internal, links: None, shop, office }
    }

    /// Address of the public listener, as `127.0.0.1:8080`.
    pub fn address(&self) -> &str {
        &self.public
    }

    pub fn internal_address(&self) -> &str {
        &self.internal
    }

    /// Where shoppers go: to the link before it, if there is one.
    pub fn front(&self) -> &str {
        self.links.as_ref().map_or(&self.public, |links| links.shoppers.address())
    }

    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("a process with links")
    }

    /// The same for programs that want a URL.
    #[allow(dead_code)]
    pub fn url(&self) -> String {
        format!("http://{}", self.public)
    }

    #[allow(dead_code)]
    pub fn internal(&self) -> String {
        format!("http://{}", self.internal)
    }

    /// Whether it runs and has the public listener.
    pub(super) fn serves(&self) -> bool {
        self.child.is_some() && self.roles.contains("gateway")
    }

    /// The status of `/readyz`; `None`: nobody answers.
    pub async fn readyz(&self) -> Option<u16> {
        Some(self.office.send("GET", "/readyz", &[], "").await.ok()?.status)
    }

    /// The sum of a metric's series whose line begins so: a name, perhaps with `{label="value"`.
    pub async fn metric(&self, begin: &str) -> Option<f64> {
        let answer = self.office.send("GET", "/metrics", &[], "").await.ok()?;
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        let values = text
            .lines()
            .filter(|line| line.strip_prefix(begin).is_some_and(|rest| rest.starts_with([' ', '{', ',', '}'])));
        values.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// A loopback address that is free and stays so: outside of the range that the system takes for
/// outgoing connections.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        let address = format!("127.0.0.1:{}", 10_000 + step % 20_000);
        if TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}
