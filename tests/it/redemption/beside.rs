//! The bench of lock + confirm, played for a second: the script that pgbench runs is the product's statements
//! to the last, both sides write the same rows, and the ledger balances over both. No figure is looked at.

use std::path::PathBuf;

use floodgate_loadtest::redemptions::{self, Settings};

#[tokio::test(flavor = "multi_thread")]
async fn bare_statements_write_what_the_product_writes() {
    let settings = Settings {
        gateway: PathBuf::from(env!("CARGO_BIN_EXE_floodgate")),
        folder: std::env::temp_dir().join(format!("floodgate-beside-{}", std::process::id())),
        rounds: 1,
        seconds: 1,
        connections: 2,
        checkouts_limit: None,
    };
    let report = redemptions::run(&settings).await;
    let _ = std::fs::remove_dir_all(&settings.folder);
    let report = report.unwrap();
    assert!(report.floodgate[0].pairs > 0 && report.bare[0].pairs > 0, "{report}");
}
