//! The wrk and k6 scripts of `loadtest/`, each run for a short time: its own thresholds hold, and
//! PostgreSQL has what they say. Counts only; a shared machine tells nothing of speed.
//!
//! They need programs that the other tests do not: `make load-check` brings them, and switches these on by
//! `LOAD_SCRIPTS=run`.

use std::path::{Path, PathBuf};
use std::process::Output;

use super::support::app::{TestApp, coupons, until};

const STOCK: u32 = 300;

/// `None`: nobody has switched these tests on.
async fn shop(name: &str) -> Option<TestApp> {
    if std::env::var("LOAD_SCRIPTS").as_deref() != Ok("run") {
        println!("not run: make load-check does");
        return None;
    }
    // The devices and addresses of `PLACES` are believed from here.
    Some(TestApp::plan(name).set("TRUSTED_PROXIES", "127.0.0.0/8").start().await)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn k6() -> PathBuf {
    root().join("target/load-tools/k6/bin/k6")
}

async fn run(app: &TestApp, program: &Path, arguments: &[String], env: &[(&str, String)]) -> Output {
    assert!(app.processes() > 0);
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).envs(env.iter().map(|(name, value)| (name, value))).current_dir(root());
    command.kill_on_drop(true);
    command.output().await.unwrap_or_else(|error| {
        panic!("{}: {error}; run scripts/install-load-tools, or make load-check", program.display())
    })
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A k6 script on templates of its own making; what it is told besides, and whether it may pass.
async fn k6_run(app: &TestApp, script: &str, more: &[(&str, u32)]) -> Output {
    let gateway = app.gateway(0);
    let mut arguments = vec!["run".to_owned(), "--quiet".into(), "--no-usage-report".into()];
    let mut settings = vec![
        ("URL", gateway.url()),
        ("INTERNAL_URL", gateway.internal()),
        ("ADMIN_KEY", app.admin_key().into()),
        ("JWT_SECRET", app.config().auth.jwt_secret.expose().into()),
        ("RATE", "200".into()),
        ("SECONDS", "2".into()),
        ("VUS", "20".into()),
    ];
    settings.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
    for (name, value) in settings {
        arguments.extend(["-e".to_owned(), format!("{name}={value}")]);
    }
    arguments.push(format!("loadtest/k6/{script}.js"));
    run(app, &k6(), &arguments, &[]).await
}

/// Coupons of all templates in PostgreSQL.
async fn stored(app: &TestApp) -> i64 {
    app.sql().await.query_one("SELECT count(*) FROM user_coupons", &[]).await.unwrap().get(0)
}

async fn stores(app: &TestApp, count: i64) {
    until("every grant is a row", async || stored(app).await >= count).await;
    assert_eq!(stored(app).await, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_k6_script_sells_what_there_is_and_says_so() {
    let Some(app) = shop("k6").await else { return };
    let mut count = 0;
    for (script, stock, templates) in [
        ("flash_sale", 150, 1),
        ("ramp", 100, 1),
        ("sold_out_storm", 10, 1),
        ("retry_storm", 150, 1),
        ("double_click", 150, 1),
        ("many_templates", 15, 10),
    ] {
        let output = k6_run(&app, script, &[("STOCK", stock), ("COUNT", templates)]).await;
        assert!(output.status.success(), "{script}: {}", text(&output));
        count += i64::from(stock * templates);
        stores(&app, count).await;
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_k6_script_fails_where_its_counts_do_not_hold() {
    let Some(app) = shop("k6-fails").await else { return };
    // More stock than claims: not all is granted, and nobody hears that it is sold out.
    let output = k6_run(&app, "flash_sale", &[("STOCK", 100_000)]).await;
    assert_eq!(output.status.code(), Some(99), "{}", text(&output));
    assert!(text(&output).contains("granted"), "{}", text(&output));
    // And where nothing answers as it should.
    let output = k6_run(&app, "flash_sale", &[("TEMPLATES", 4_000_000)]).await;
    assert_eq!(output.status.code(), Some(99), "{}", text(&output));
    assert!(text(&output).contains("template_not_found"), "{}", text(&output));
    app.stop().await;
}

/// A wrk script for a second on 16 connections.
async fn wrk_run(app: &TestApp, script: &str, more: &[(&str, String)]) -> Output {
    let arguments = ["-t2", "-c16", "-d1s", "-s"].map(str::to_owned).into_iter();
    let arguments: Vec<String> =
        arguments.chain([format!("loadtest/wrk/{script}.lua"), app.gateway(0).url()]).collect();
    let mut env = vec![
        ("FLOODGATE", env!("CARGO_BIN_EXE_floodgate").to_owned()),
        ("FLOODGATE_JWT_SECRET", app.config().auth.jwt_secret.expose().into()),
        ("FLOODGATE_CODE_KEY", "000102030405060708090a0b0c0d0e0f".into()),
        ("USERS", "4000".into()),
        ("PREFIX", format!("{script}-")),
    ];
    env.extend(more.iter().map(|(name, value)| (*name, value.clone())));
    run(app, Path::new("wrk"), &arguments, &env).await
}

/// The number after a line's beginning.
fn counted(output: &Output, line: &str) -> i64 {
    let text = text(output);
    let found = text.lines().find_map(|text| text.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrk_script_sells_what_there_is_and_says_so() {
    let Some(app) = shop("wrk").await else { return };
    let mut count = 0;
    for (script, statuses) in [
        ("flash_sale", &["201", "410"][..]),
        ("sold_out_storm", &["201", "410"]),
        ("retry_storm", &["200", "201", "410"]),
        ("double_click", &["200", "201", "410"]),
        ("many_templates", &["201", "410"]),
    ] {
        let templates = if script == "many_templates" { 3 } else { 1 };
        let mut ids = Vec::new();
        for _ in 0..templates {
            ids.push(app.publish(coupons(STOCK.into())).await.to_string());
        }
        let expected = STOCK * templates;
        let more = [("TEMPLATES", ids.join(",")), ("EXPECT_GRANTED", expected.to_string()), ("PLACES", "1".into())];
        let output = wrk_run(&app, script, &more).await;
        assert!(output.status.success(), "{script}: {}", text(&output));
        for status in statuses {
            assert!(counted(&output, &format!("status {status}:")) > 0, "{script}: no {status}: {}", text(&output));
        }
        count += i64::from(expected);
        stores(&app, count).await;
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrk_script_fails_where_its_counts_do_not_hold() {
    let Some(app) = shop("wrk-fails").await else { return };
    let id = app.publish(coupons(STOCK.into())).await.to_string();
    let output = wrk_run(&app, "flash_sale", &[("TEMPLATE", id), ("EXPECT_GRANTED", (STOCK + 1).to_string())]).await;
    assert!(!output.status.success() && text(&output).contains("grants instead of"), "{}", text(&output));
    let output = wrk_run(&app, "flash_sale", &[("TEMPLATE", "4000000".into())]).await;
    assert!(!output.status.success() && text(&output).contains("FAILED: status 404"), "{}", text(&output));
    app.stop().await;
}
