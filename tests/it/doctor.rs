//! What `floodgate doctor` says of the stores.

use super::support::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cost_coupons_fail_and_those_that_cost_time_are_told() {
    let app = TestApp::start("doctor").await;
    let told = |line: &str| {
        let output = app.command(&["doctor"]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.lines().any(|told| told.starts_with(line)), "no {line:?} in:\n{said}");
        let failed = said.lines().filter(|line| line.starts_with("fail")).count();
        assert!(said.contains(&format!("\n{failed} failed, ")), "{said}");
        assert_eq!(output.status.success(), failed == 0, "{said}");
    };
    let set = async |name: &str, value: &str| drop(app.redis(&["CONFIG", "SET", name, value]).await);

    told("ok    redis auto-aof-rewrite-min-size: 1024 MiB");
    set("auto-aof-rewrite-min-size", "64mb").await;
    told("warn  redis auto-aof-rewrite-min-size: 64 MiB");
    set("auto-aof-rewrite-percentage", "0").await;
    told("ok    redis auto-aof-rewrite-min-size: the file is rewritten only when");
    for (name, wrong, right) in [
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
        ("aof-load-truncated", "yes", "no"),
        ("appendfsync", "no", "always"),
    ] {
        set(name, wrong).await;
        told(&format!("fail  redis {name}: {wrong}"));
        set(name, right).await;
        told(&format!("ok    redis {name}: {right}"));
    }
    app.stop().await;
}
