//! From nothing to a template on sale, and back.
//!
//! Up: Redis, PostgreSQL, the schema, the service, the template. Down, in the opposite order: the
//! service drains first, while its stores still answer. A store that dies in between is started
//! again: the service survives that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use super::folder::DataFolder;
use super::postgres_server::{PostgresOptions, PostgresServer};
use super::redis_server::{RedisOptions, RedisServer};
use super::template::ensure_demo_template;
use crate::cli::out::{say, step, warn};
use crate::cli::signals::Signals;
use crate::cli::{self, token};
use crate::config::{Config, Secret};
use crate::http::listener;
use crate::pg::{Pg, migrate};
use crate::serve::{self, Roles};

const LOOK: Duration = Duration::from_millis(200);
/// Before a store that died is started again; doubles up to the second.
const RESTART_MIN: Duration = Duration::from_secs(1);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// How long the printed shopper's token is good.
const TOKEN_DAYS: u64 = 30;
const SHOPPER: &str = "u-1";

/// A demo that is about to run.
pub struct Demo {
    data: DataFolder,
    config: Config,
}

struct Servers {
    data: DataFolder,
    redis: RedisServer,
    postgres: PostgresServer,
}

/// One sentence if something listens there already: before the stores are started.
pub fn check_free(address: SocketAddr, variable: &str) -> Result<(), String> {
    listener::probe(address).map_err(|error| format!("{error} with {variable}"))
}

// === impl Demo ===

impl Demo {
    pub fn new(data: DataFolder, config: Config) -> Demo {
        Demo { data, config }
    }

    /// Runs until a signal asks it to stop, or the service fails.
    pub async fn run(self) -> Result<(), String> {
        let Demo { data, mut config } = self;
        let mut signals = Signals::catch()?;
        let servers = tokio::select! {
            started = Servers::start(data) => started?,
            signal = signals.next() => {
                say(format_args!("\nstopped by {signal}"));
                return Ok(());
            }
        };
        config.redis.url = Secret::new(servers.redis.url());
        config.redis.sentinels.clear();
        config.postgres.url = Secret::new(servers.postgres.url());
        let admin_key = servers.data.admin_key();
        let (stop, stopping) = watch::channel(false);
        let watching = tokio::spawn(servers.keep_running(stopping.clone()));
        let served = serve_demo(config, &admin_key.display().to_string(), signals, stop.clone(), stopping).await;
        // Whether it was asked to stop or failed: from here on the stores go, too.
        stop.send_replace(true);
        let mut servers = watching.await.map_err(|error| format!("the watch over the stores ended: {error}"))?;
        servers.stop().await;
        served
    }
}

async fn serve_demo(
    config: Config,
    admin_key: &str,
    mut signals: Signals,
    stop: watch::Sender<bool>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let pg = Pg::new(&config.postgres)?;
    step("migrating the schema", migrate::migrate(&pg, &config)).await?;
    let app = cli::app(config).await?;
    let asked = async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let mut service = pin!(serve::run(app.clone(), Roles::ALL, asked));
    let template = tokio::select! {
        made = step("putting a template on sale", ensure_demo_template(app.clone())) => made,
        result = &mut service => return result.and(Err("the service ended before it was up".into())),
        signal = signals.next() => {
            say(format_args!("\nstopping after {signal}"));
            stop.send_replace(true);
            return service.await;
        }
    };
    let welcome = template.and_then(|template| welcome(&app.config, template, admin_key));
    match welcome {
        Ok(text) => say(text),
        Err(error) => {
            stop.send_replace(true);
            let _ = service.await;
            return Err(error);
        }
    }
    tokio::select! {
        result = &mut service => return result,
        signal = signals.next() => {
            say(format_args!("\nstopping after {signal}; once more to stop at once"));
            stop.send_replace(true);
        }
    }
    tokio::spawn(async move {
        signals.next().await;
        // The stores get their death signals.
        std::process::exit(130);
    });
    service.await
}

/// What to copy.
fn welcome(config: &Config, template: u32, admin_key: &str) -> Result<String, String> {
    let public = reachable(config.public.listen);
    let internal = reachable(config.internal.listen);
    let token = token::plain(&config.auth, SHOPPER, TOKEN_DAYS)?;
    let program = std::env::args().next().unwrap_or_else(|| "floodgate".into());
    let folder = std::path::Path::new(admin_key).parent().unwrap_or(std::path::Path::new("data")).display();
    Ok(format!(
        "\nFloodgate is up. Claim a coupon as shopper {SHOPPER}:\n\n\
         curl -i -w '\\n' -X POST http://{public}/v1/templates/{template}/claims \\\n  -H 'Authorization: Bearer {token}'\n\n\
         See the shopper's wallet:\n\n\
         curl -i -w '\\n' http://{public}/v1/me/coupons \\\n  -H 'Authorization: Bearer {token}'\n\n\
         Other shoppers:    {program} token --data '{folder}' --user u-2\n\
         Operations:        http://{internal}/metrics, /readyz, /docs\n\
         Administration:    http://{internal}/v1/admin/templates, with the key in {admin_key}\n\
         Ctrl-C stops it; it starts again with its data.\n"
    ))
}

/// An address to connect to: "all addresses" is none.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

// === impl Servers ===

impl Servers {
    async fn start(data: DataFolder) -> Result<Servers, String> {
        say(format_args!("data folder: {}", data.path().display()));
        let redis = step("starting Redis", RedisServer::start(&data.redis(), &RedisOptions::default())).await?;
        let (folder, options) = (data.postgres(), PostgresOptions::default());
        let postgres = step("starting PostgreSQL", PostgresServer::start(&folder, &options)).await?;
        if !postgres.data().starts_with(data.path()) {
            say(format_args!(
                "PostgreSQL does not run as root, and its user cannot reach the data folder: its data are in {}",
                postgres.data().display()
            ));
        }
        Ok(Servers { data, redis, postgres })
    }

    async fn stop(&mut self) {
        let nothing_fails = Ok::<(), ()>(());
        let redis = async {
            self.redis.stop().await;
            nothing_fails
        };
        let _ = step("stopping Redis", redis).await;
        let postgres = async {
            self.postgres.stop().await;
            nothing_fails
        };
        let _ = step("stopping PostgreSQL", postgres).await;
    }

    /// Starts again what dies, until `stopping` turns true; then hands the servers back.
    async fn keep_running(mut self, mut stopping: watch::Receiver<bool>) -> Servers {
        let mut pause = RESTART_MIN;
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return self,
                _ = tokio::time::sleep(LOOK) => {}
            }
            let gone = self.obituaries();
            if gone.is_empty() {
                continue;
            }
            for sentence in gone {
                warn(format_args!("{sentence}; starting it again in {} s", pause.as_secs()));
            }
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return self,
                _ = tokio::time::sleep(pause) => {}
            }
            match self.start_again().await {
                Ok(()) => pause = RESTART_MIN,
                Err(error) => {
                    warn(error);
                    pause = (pause * 2).min(RESTART_MAX);
                }
            }
        }
    }

    fn obituaries(&mut self) -> Vec<String> {
        let redis = self.redis.exited().map(|status| self.redis.obituary(status));
        let postgres = self.postgres.exited().map(|status| self.postgres.obituary(status));
        redis.into_iter().chain(postgres).collect()
    }

    async fn start_again(&mut self) -> Result<(), String> {
        if self.redis.exited().is_some() {
            self.redis = RedisServer::start(&self.data.redis(), &RedisOptions::default()).await?;
        }
        if self.postgres.exited().is_some() {
            self.postgres = PostgresServer::start(&self.data.postgres(), &PostgresOptions::default()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_taken_port_is_one_sentence() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = check_free(address, "FLOODGATE_PUBLIC_LISTEN").unwrap_err();
        assert!(error.contains("is taken by another process") && error.contains("FLOODGATE_PUBLIC_LISTEN"), "{error}");
        drop(taken);
        check_free(address, "FLOODGATE_PUBLIC_LISTEN").unwrap();
    }
}
