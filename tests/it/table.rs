//! The claim scripts by example: each text is played on the model and on Redis at once.

use super::support::clock_redis;
use super::support::language::play;
use super::support::stage::{ModelStage, RedisStage};

fn on_both(text: &str) {
    let server = clock_redis::shared();
    play(text, &mut [&mut ModelStage::new(), &mut RedisStage::new(&server)]);
}

#[test]
fn stock_sells_to_the_last_unit_and_a_key_is_answered_again() {
    on_both(
        "template t1 per_user=1 stock=2
         claim r1 u1 -> granted 1
         claim r1 u1 -> replayed 1
         claim r2 u1 -> user_limit_reached 1
         claim r3 u2 -> granted 2
         claim r4 u3 -> sold_out
         claim r3 u2 -> replayed 2
         claim r1 u3 -> sold_out  # a key is its user's own
         lookup r1 u1 -> replayed 1
         lookup r9 u1 -> none
         lookup r1 u1 t9 -> not_loaded
         remaining t1 -> 0",
    );
}

#[test]
fn quotas_are_exact_at_the_edges_of_their_window() {
    on_both(
        "quotas user=1/60s ip=2/60s device=2/60s
         template t1 per_user=10 stock=100 quotas
         template t2 per_user=10 stock=100 quotas
         template t3 per_user=10 stock=100
         claim r1 u1 ip=1.1.1.1 device=d1 -> granted 1
         claim r2 u1 t2 ip=1.1.1.1 device=d1 -> quota_exceeded user 60s
         claim r3 u1 t3 ip=1.1.1.1 device=d1 -> granted 1
         clock +1ms
         claim r4 u2 t2 ip=1.1.1.1 device=d2 -> granted 1
         claim r5 u3 ip=1.1.1.1 device=d3 -> quota_exceeded ip 59999ms
         claim r5 u3 -> granted 2
         clock +59998ms
         claim r6 u1 -> quota_exceeded user 1ms
         clock +1ms
         claim r6 u1 -> granted 3
         claim r7 u4 ip=1.1.1.1 -> granted 4
         claim r8 u5 ip=1.1.1.1 -> quota_exceeded ip 1ms",
    );
}
