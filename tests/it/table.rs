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
         claim r1 u1 t9 -> not_loaded
         remaining t1 -> 0",
    );
}

/// Every set of refusals that can hold at once: the lowest number is given, and a replay comes
/// before all of them.
#[test]
fn of_all_refusals_the_lowest_number_is_given() {
    let server = clock_redis::shared();
    let outcomes = [
        "template_inactive",
        "not_started",
        "ended",
        "user_limit_reached 1",
        "user_daily_limit_reached",
        "quota_exceeded user 60s",
        "sold_out",
        "daily_limit_reached",
        "overloaded",
        "granted 2",
    ];
    for set in 0..1 << 9 {
        let holds = |number: usize| set >> number & 1 == 1;
        if holds(1) && holds(2) {
            continue;
        }
        let pick = |number, yes: &'static str, no: &'static str| if holds(number) { yes } else { no };
        let expected = (0..9).find(|number| holds(*number)).unwrap_or(9);
        let text = [
            pick(5, "quotas user=1/60s", "quotas user=5/60s"),
            "template t1 quotas",
            pick(3, "change t1 per_user=1", "change t1 per_user=5"),
            pick(4, "change t1 per_user_daily=1", ""),
            pick(6, "restock t1 1", "restock t1 9"),
            pick(7, "change t1 daily=1", ""),
            // With the limit on the day, which counts from here on.
            "claim r1 u1 -> granted 1",
            pick(0, "pause t1", ""),
            pick(1, "change t1 window=+1h..+2h", ""),
            pick(2, "change t1 window=-2h..-0s", ""),
            &format!("claim r2 u1 {} -> {}", pick(8, "backlog=1", "backlog=2"), outcomes[expected]),
            "claim r1 u1 backlog=0 -> replayed 1",
        ]
        .join("\n");
        println!("{text}\n");
        play(&text, &mut [&mut ModelStage::new(), &mut RedisStage::new(&server)]);
    }
}

#[test]
fn the_window_holds_its_start_and_not_its_end() {
    on_both(
        "template t1 per_user=9 stock=9 window=+10s..+20s
         clock +9999ms
         claim r1 u1 -> not_started
         clock +1ms
         claim r1 u1 -> granted 1
         clock +9999ms
         claim r2 u1 -> granted 2
         clock +1ms
         claim r3 u1 -> ended
         claim r1 u1 -> replayed 1",
    );
}

#[test]
fn a_paused_template_goes_on_and_a_stopped_one_still_answers_its_keys() {
    on_both(
        "template t1 per_user=2 stock=9
         claim r1 u1 -> granted 1
         pause t1
         claim r2 u1 -> template_inactive
         claim r1 u1 -> replayed 1
         resume t1
         claim r2 u1 -> granted 2
         stop t1
         claim r1 u1 -> replayed 1
         lookup r2 u1 -> replayed 2
         claim r3 u2 -> template_inactive",
    );
}

#[test]
fn ranges_are_used_up_one_after_the_other() {
    on_both(
        "template t1 per_user=9 stock=2
         change t1 range=11-12
         change t1 range=101-101
         batch {
             claim r1 u1 -> granted 1
             claim r2 u1 -> granted 2
             claim r3 u2 -> granted 11
             claim r1 u1 -> replayed 1
             claim r4 u3 -> granted 12
         }
         remaining t1 -> 1
         claim r5 u3 -> granted 101
         claim r6 u3 -> sold_out
         restock t1 3
         batch {
             claim r6 u3 -> granted 102
             claim r7 u4 -> granted 103
         }
         remaining t1 -> 1
         change t1 range=50-60  # given already, as it lies below
         remaining t1 -> 1",
    );
}

#[test]
fn unlimited_stock_does_not_end() {
    on_both(
        "template t1 per_user=9 stock=-1
         claim r1 u1 -> granted 1
         claim r2 u1 -> granted 2
         remaining t1 -> 1099511627773",
    );
}

#[test]
fn the_last_serial_of_all_is_given() {
    on_both(
        "template t1 per_user=9
         change t1 range=1099511627774-1099511627775
         claim r1 u1 -> granted 1099511627774
         claim r2 u1 -> granted 1099511627775
         claim r3 u1 -> sold_out
         claim r3 u2 -> sold_out
         claim r2 u1 -> replayed 1099511627775",
    );
}

#[test]
fn one_batch_holds_duplicates_and_several_templates() {
    on_both(
        "quotas user=3/60s ip=4/60s
         template t1 per_user=1 stock=3
         template t2 per_user=2 stock=3 quotas
         template t3 per_user=9 stock=1 quotas
         batch {
             claim r1 u1 -> granted 1
             claim r1 u1 t2 ip=a -> granted 1
             claim r1 u1 -> replayed 1
             claim r2 u1 -> user_limit_reached 1
             claim r1 u2 -> granted 2
             claim r2 u1 t2 ip=a -> granted 2
             claim r2 u1 t2 ip=a -> replayed 2
             claim r3 u1 t2 ip=a -> user_limit_reached 1 2
             claim r1 u1 t3 -> granted 1
             claim r2 u1 t3 -> quota_exceeded user 60s
             claim r1 u2 t3 ip=a -> sold_out
             claim r9 u9 t4 -> not_loaded
         }
         entries -> 2",
    );
}

#[test]
fn users_have_a_limit_for_all_and_one_for_the_day() {
    on_both(
        "template t1 per_user=3 per_user_daily=1 stock=9 tz=Asia/Shanghai
         at 2026-06-18T15:59:59.999Z
         claim r1 u1 -> granted 1
         claim r2 u1 -> user_daily_limit_reached
         clock +1ms
         claim r2 u1 -> granted 2
         claim r3 u1 -> user_daily_limit_reached
         clock +24h
         claim r3 u1 -> granted 3
         clock +24h
         claim r4 u1 -> user_limit_reached 1 2 3",
    );
}

#[test]
fn a_day_is_the_calendars_when_the_clocks_change() {
    on_both(
        "template t1 per_user=9 per_user_daily=1 stock=9 tz=America/New_York
         template t2 per_user=9 daily=1 stock=9 tz=America/New_York
         at 2026-11-01T00:00:00-04:00  # of 25 hours
         claim r1 u1 -> granted 1
         claim r1 u1 t2 -> granted 1
         at 2026-11-01T23:59:59.999-05:00
         claim r2 u1 -> user_daily_limit_reached
         claim r2 u2 t2 -> daily_limit_reached
         clock +1ms
         claim r2 u1 -> granted 2
         claim r2 u2 t2 -> granted 2
         at 2027-03-14T00:00:00-05:00  # of 23 hours
         claim r3 u1 -> granted 3
         claim r3 u3 t2 -> granted 3
         clock +82799999ms
         claim r4 u1 -> user_daily_limit_reached
         claim r4 u4 t2 -> daily_limit_reached
         clock +1ms
         claim r4 u1 -> granted 4
         claim r4 u4 t2 -> granted 4",
    );
}

#[test]
fn outside_of_the_gateways_day_nothing_is_executed_for_the_template() {
    on_both(
        "template t1 per_user=9 daily=1 stock=9
         template t2 per_user=9 per_user_daily=1 stock=9
         template t3 per_user=9 stock=9
         claim r1 u1 -> granted 1
         batch day=-24h {
             claim r1 u1 -> day_moved
             claim r2 u1 t2 -> day_moved
             claim r2 u1 t3 -> granted 1
         }
         claim r2 u1 t2 day=+24h -> day_moved
         at 2026-06-18T23:59:59.999Z
         claim r2 u2 -> daily_limit_reached
         clock +1ms
         claim r2 u2 day=-1ms -> day_moved
         claim r2 u2 -> granted 2
         claim r3 u3 -> daily_limit_reached",
    );
}

#[test]
fn the_day_limit_is_reached_within_a_batch() {
    on_both(
        "template t1 per_user=9 daily=2 stock=9
         batch {
             claim r1 u1 -> granted 1
             claim r2 u2 -> granted 2
             claim r3 u3 -> daily_limit_reached
             claim r2 u2 -> replayed 2
         }
         clock +24h
         claim r3 u3 -> granted 3",
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
         claim r5 u3 -> granted 2  # no address, no device: neither checked nor counted
         clock +59998ms
         claim r6 u1 -> quota_exceeded user 1ms
         clock +1ms
         claim r6 u1 -> granted 3
         claim r7 u4 ip=1.1.1.1 -> granted 4
         claim r8 u5 ip=1.1.1.1 -> quota_exceeded ip 1ms",
    );
}

#[test]
fn the_first_scope_that_refuses_is_named() {
    on_both(
        "quotas user=1/60s ip=1/30s device=1/90s
         template t1 per_user=10 stock=100 quotas
         claim r1 u1 ip=a device=d -> granted 1
         claim r2 u1 ip=a device=d -> quota_exceeded user 60s
         claim r2 u2 ip=a device=d -> quota_exceeded ip 30s
         claim r2 u2 ip=b device=d -> quota_exceeded device 90s
         batch {
             claim r3 u3 ip=c device=e -> granted 2
             claim r4 u4 ip=d device=e -> quota_exceeded device 90s
             claim r5 u3 ip=e device=f -> quota_exceeded user 60s
         }",
    );
}

/// Periods are as long as the window and begin at multiples of it.
#[test]
fn quotas_count_over_the_change_of_periods() {
    on_both(
        "quotas user=2/10s
         template t1 per_user=99 stock=100 quotas
         at 2026-06-18T12:00:09.999Z
         claim r1 u1 -> granted 1
         at 2026-06-18T12:00:10Z
         claim r2 u1 -> granted 2
         claim r3 u1 -> quota_exceeded user 9999ms
         at 2026-06-18T12:00:19.998Z
         claim r3 u1 -> quota_exceeded user 1ms
         at 2026-06-18T12:00:19.999Z
         claim r3 u1 -> granted 3
         at 2026-06-18T12:00:20Z
         claim r4 u1 -> granted 4
         claim r5 u1 -> quota_exceeded user 9999ms
         at 2026-06-18T12:00:39.999Z  # a period without a grant
         claim r5 u1 -> granted 5
         at 2026-06-18T12:01:00.001Z  # two of them
         claim r6 u1 -> granted 6
         claim r7 u1 -> granted 7
         claim r8 u1 -> quota_exceeded user 10s",
    );
}

#[test]
fn a_quota_whose_window_changes_starts_empty() {
    on_both(
        "quotas user=1/60s ip=1/60s
         template t1 per_user=9 stock=9 quotas
         claim r1 u1 ip=a -> granted 1
         quotas user=1/30s ip=1/60s
         reopen
         claim r2 u1 ip=a -> quota_exceeded ip 60s
         claim r2 u1 ip=b -> granted 2
         claim r3 u1 ip=c -> quota_exceeded user 30s",
    );
}

#[test]
fn a_quota_that_is_lowered_counts_what_was_granted_before() {
    on_both(
        "quotas user=3/60s
         template t1 per_user=9 stock=9 quotas
         claim r1 u1 -> granted 1
         clock +1s
         claim r2 u1 -> granted 2
         clock +1s
         claim r3 u1 -> granted 3
         quotas user=2/60s
         reopen
         claim r4 u1 -> quota_exceeded user 59s  # two of three must leave the window
         quotas user=1/60s
         reopen
         claim r4 u1 -> quota_exceeded user 60s",
    );
}

#[test]
fn a_full_queue_refuses_but_answers_known_keys() {
    on_both(
        "template t1 per_user=9 stock=9
         claim r1 u1 -> granted 1
         entries -> 2
         claim r2 u2 backlog=1 -> overloaded
         claim r1 u1 backlog=1 -> replayed 1
         claim r2 u2 backlog=2 -> granted 2
         trim
         entries -> 0
         claim r3 u3 backlog=1 -> granted 3",
    );
}

#[test]
fn nothing_is_executed_under_another_identity_or_after_the_deadline() {
    on_both(
        "template t1 per_user=9 stock=9
         claim r1 u1 -> granted 1
         claim r1 u1 epoch=2 -> not_executed identity
         claim r2 u1 replid=0123 -> not_executed identity
         claim r2 u1 deadline=-1ms -> not_executed deadline
         claim r2 u1 deadline=+0s -> not_executed deadline
         claim r2 u1 deadline=+1ms -> granted 2
         close
         claim r3 u1 -> not_executed identity
         claim r3 u1 epoch=2 -> not_executed identity
         lookup r1 u1 -> not_executed identity
         open
         claim r3 u1 epoch=1 -> not_executed identity
         claim r3 u1 -> granted 3
         claim r1 u1 -> replayed 1
         entries -> 5",
    );
}

#[test]
fn the_cells_clock_does_not_go_back() {
    on_both(
        "template t1 per_user=9 stock=9 window=-1h..+10s
         clock +9999ms
         claim r1 u1 -> granted 1
         clock -1000ms
         claim r2 u1 deadline=+1000ms -> not_executed deadline  # it counts as 9999
         claim r2 u1 -> granted 2
         clock -1ms
         claim r3 u1 -> not_executed clock
         lookup r1 u1 -> not_executed clock
         clock +1ms
         claim r1 u1 -> replayed 1",
    );
}

#[test]
fn a_freed_template_has_ended_for_good() {
    on_both(
        "template t1 per_user=9 stock=9 daily=5
         claim r1 u1 -> granted 1
         free t1 -> unflushed
         trim
         free t1 -> freed
         claim r1 u1 -> ended
         claim r2 u2 day=-24h -> ended
         lookup r1 u1 -> freed
         restock t1 5
         resume t1
         claim r3 u3 -> ended",
    );
}

#[test]
fn without_memory_nothing_is_executed_and_keys_are_still_found() {
    on_both(
        "template t1 per_user=9 stock=9
         claim r1 u1 -> granted 1
         starve
         claim r2 u2 -> not_executed oom
         batch {
             claim r1 u1 -> not_executed oom
             claim r3 u3 -> not_executed oom
         }
         lookup r1 u1 -> replayed 1
         flush scripts
         claim r2 u2 -> not_executed oom
         lookup r1 u1 -> replayed 1
         entries -> 2
         remaining t1 -> 8
         feed
         claim r2 u2 -> granted 2",
    );
}
