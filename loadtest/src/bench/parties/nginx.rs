//! nginx with Lua: one EVALSHA a claim, as one would configure it (`loadtest/peers/nginx.conf`).

use std::path::Path;
use std::process::Command;

use floodgate::demo::place;
use floodgate::demo::redis_server::Fsync;

use super::naive::agreed;
use super::script::{self, KEYS};
use crate::bench::party::{Party, Results, Sample, Turn};
use crate::bench::stand::{Stand, free_address, peers};
use crate::bench::wrk::{self, Wrk};
use crate::meter::{Meter, RedisCounts};

struct Nginx;

const CONFIG: &str = include_str!("../../../peers/nginx.conf");

pub fn parties() -> Vec<Box<dyn Party>> {
    vec![Box::new(Nginx)]
}

/// A program that scripts/install-load-tools --peers has unpacked, on libraries that came with it.
pub fn unpacked(program: &str) -> Result<Command, String> {
    let path = peers().join(program);
    if !path.exists() {
        return Err(format!("{} is not unpacked: scripts/install-load-tools --peers", program));
    }
    let mut command = Command::new(path);
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| peers().join(folder));
    let libraries = std::env::join_paths(libraries).map_err(|error| error.to_string())?;
    command.env("LD_LIBRARY_PATH", libraries);
    Ok(command)
}

impl Party for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn what(&self) -> &'static str {
        "nginx and lua, one EVALSHA a claim, the plain script, always"
    }

    fn absent(&self, _: &Stand) -> Option<String> {
        wrk::absent().or_else(|| unpacked("usr/sbin/nginx").err())
    }

    fn run<'a>(&'a self, stand: &'a Stand, _: &'a Results) -> Turn<'a> {
        Box::pin(async {
            let (server, mut connection, sha) = script::stocked(stand, Fsync::Always).await?;
            let (address, folder) = (free_address(), stand.fresh_folder("nginx-conf")?);
            let config = config(&folder, &address, server.socket(), &sha);
            let file = folder.join("nginx.conf");
            std::fs::write(&file, config).map_err(|error| format!("{}: {error}", file.display()))?;
            let mut command = unpacked("usr/sbin/nginx")?;
            command.arg("-p").arg(&folder).arg("-c").arg(&file).arg("-e").arg(folder.join("start.log"));
            let mut child = stand.child("nginx", command).await?;
            stand.listening(&mut child, &address).await?;
            let wrk = Wrk { url: format!("http://{address}"), script: "flash_sale", env: Vec::new() };
            let before = RedisCounts::read(&mut connection).await?;
            let meter = Meter::start(&[("gateway", child.pid()), ("redis", server.pid())]);
            let count = wrk.run(stand).await?;
            let used = meter.stop();
            let counts = RedisCounts::read(&mut connection).await?.since(&before);
            child.stop(libc::SIGTERM, std::time::Duration::from_secs(10)).await;
            let claims = count.granted() as f64;
            let sample = Sample::rate(claims, count.took).used(&used, claims).redis(&counts, claims);
            Ok(agreed(sample, stand, &count, script::granted(&mut connection).await?))
        })
    }
}

fn config(folder: &Path, address: &str, socket: &Path, sha: &str) -> String {
    // Workers must reach Redis' socket: as root they would change to another user.
    let user = if place::is_root() { "user root;" } else { "" };
    let text = |path: &Path| path.display().to_string();
    CONFIG
        .replace("{folder}", &text(folder))
        .replace("{root}", &text(&peers()))
        .replace("{user}", user)
        .replace("{address}", address)
        .replace("{socket}", &text(socket))
        .replace("{sha}", sha)
        .replace("{stock}", KEYS[0])
        .replace("{users}", KEYS[1])
        .replace("{queue}", KEYS[2])
}
