//! Claims over HTTP: every refusal in its precedence, replays, and what survives the stores.

use super::support::app::{TestApp, coupons, until};

#[tokio::test]
async fn a_claim_is_granted_replayed_and_stored() {
    let app = TestApp::start("claims-smoke").await;
    let id = app.publish(coupons(2)).await;
    let granted = app.claim(id, "u-1", "k-1", &[]).await;
    assert_eq!((granted.status, granted.code()), (201, "granted"), "{granted:?}");
    let replayed = app.claim(id, "u-1", "k-1", &[]).await;
    assert_eq!((replayed.status, replayed.code()), (200, "replayed"));
    until("the row is there", async || app.rows(id).await.len() == 1).await;
    app.stop().await;
}
