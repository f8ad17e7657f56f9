//! webdis: Redis over HTTP as it is; the claim's EVALSHA stands in the URL.

use floodgate::demo::redis_server::Fsync;
use serde_json::json;

use super::naive::agreed;
use super::nginx::unpacked;
use super::script::{self, KEYS};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, free_address};
use crate::bench::wrk::{self, Wrk};
use crate::meter::{Meter, RedisCounts};

struct Webdis;

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Webdis)]
}

impl Party for Webdis {
    fn name(&self) -> &'static str {
        "webdis"
    }

    fn what(&self) -> &'static str {
        "webdis, one EVALSHA a claim, the plain script, always; its answer is shorter than a grant"
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        wrk::absent().or_else(|| unpacked("usr/bin/webdis").err())
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (server, mut connection, sha) = script::stocked(stand, Fsync::Always).await?;
            let (address, folder) = (free_address(), stand.fresh_folder("webdis-conf")?);
            let port = address.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).unwrap_or(0);
            let config = json!({
                "redis_host": server.socket(), "redis_port": 0, "http_host": "127.0.0.1", "http_port": port,
                "threads": 2, "pool_size": 20, "daemonize": false, "websockets": false, "database": 0,
                "verbosity": 1, "logfile": folder.join("webdis.log"),
                "acl": [{"enabled": ["EVALSHA"]}],
            });
            let file = folder.join("webdis.json");
            std::fs::write(&file, config.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
            let mut command = unpacked("usr/bin/webdis")?;
            command.arg(&file);
            let mut child = stand.child("webdis", command).await?;
            stand.listening(&mut child, &address).await?;
            let path = format!("/EVALSHA/{sha}/3/{}", KEYS.join("/"));
            let wrk = Wrk { url: format!("http://{address}"), script: "webdis", env: vec![("WEBDIS_PATH", path)] };
            let before = RedisCounts::read(&mut connection).await?;
            let meter = Meter::start(&[("gateway", child.pid()), ("redis", server.pid())]);
            let count = wrk.run(stand).await?;
            let used = meter.stop();
            let counts = RedisCounts::read(&mut connection).await?.since(&before);
            let claims = count.granted() as f64;
            let sample = Sample::rate(claims, count.took).used(&used, claims).redis(&counts, claims);
            Ok(agreed(sample, stand, &count, script::granted(&mut connection).await?))
        })
    }
}
