//! The tests bite: for each bug that the program can be told to have (`src/faults.rs`), a test that notices.
//!
//! The tests run as they are, in processes of their own, without a bug and with each of them. In the
//! quick form those that need no PostgreSQL; `BITES=all` (`make test-bites`) all.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use floodgate::faults::Bug;

/// How long a test that is to fail waits for what never comes, in seconds.
const PATIENCE: &str = "10";

/// Tests at once: they wait more than they compute.
const AT_ONCE: usize = 4;

/// The cheapest test that must fail with a bug.
fn catcher(bug: Bug) -> &'static str {
    match bug {
        Bug::ReplayNotChecked | Bug::StockOffByOne => "table::stock_sells_to_the_last_unit_and_a_key_is_answered_again",
        Bug::ReplayAfterRefusal => "table::a_paused_template_goes_on_and_a_stopped_one_still_answers_its_keys",
        Bug::LimitOffByOne | Bug::DailyLimitOffByOne => "table::users_have_a_limit_for_all_and_one_for_the_day",
        Bug::QuotaNotCounted => "table::quotas_are_exact_at_the_edges_of_their_window",
        Bug::DeadlineIgnored | Bug::IdentityNotChecked => {
            "table::nothing_is_executed_under_another_identity_or_after_the_deadline"
        }
        Bug::ClockMayGoBack => "table::the_cells_clock_does_not_go_back",
        Bug::BacklogIgnored => "table::a_full_queue_refuses_but_answers_known_keys",
        Bug::TombstoneReadAsNew => "table::a_freed_template_has_ended_for_good",
        Bug::ReceiptsNotReapplied | Bug::CursorNotReapplied => "scripts::rows_are_reapplied_once",
        Bug::AnswerBeforeScript => "http_claims::every_refusal_by_state_and_limit",
        Bug::UnknownIsRefusal | Bug::DoubtNotNoted => {
            "faults::links::a_retry_is_not_refused_while_the_first_try_may_still_execute"
        }
        Bug::DayHas24Hours => "faults::time::a_day_is_as_long_as_the_calendar_says",
        Bug::LatchHidesReplay => "http_claims::a_granted_key_is_replayed_whatever_came_after",
        Bug::LatchNeverEnds => "http_admission::after_sold_out_redis_rests_and_a_restock_is_claimable_within_a_second",
        Bug::AckNotWaited => "http_stores::at_level_postgres_the_row_is_there_with_the_answer",
        Bug::TrimBeforeCommit => "grant::flushing::a_commit_that_never_arrives_is_made_again",
        Bug::WatermarkNotCompared => "grant::flushing::a_zombie_writes_nothing",
        Bug::GapIgnored => "grant::flushing::missing_entries_halt_the_flusher",
        Bug::SetAsideDropped | Bug::ConflictIsRepeat => {
            "grant::flushing::bad_rows_are_set_aside_and_their_neighbours_pass"
        }
        Bug::EndingsIgnored => "grant::openings::grants_that_no_store_has_are_lost_and_say_so",
        Bug::EmptyIsNew => "grant::recoveries::an_empty_redis_is_refused_until_it_is_recovered",
        Bug::DivergedIsOpened => "grant::recoveries::a_diverged_redis_is_refused_and_what_it_alone_knew_is_kept",
        Bug::EpochNotRaised | Bug::FinalNotRecorded => {
            "grant::openings::a_new_cell_opens_and_every_grant_is_stored_once"
        }
    }
}

/// Runs tests by their whole names, with a bug or without. What they printed, and those that failed.
fn run<'a>(tests: &[&'a str], bug: Option<Bug>) -> (String, Vec<&'a str>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--exact").args(tests).env("PATIENCE", PATIENCE).env_remove("FAULTS");
    command.envs(bug.map(|bug| ("FLOODGATE_BUG", bug.word())));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ended = |test: &str, how: &str| said.contains(&format!("test {test} ... {how}"));
    let failed = tests.iter().copied().filter(|test| {
        assert!(ended(test, "ok") || ended(test, "FAILED"), "{test} did not run: {said}");
        ended(test, "FAILED")
    });
    let failed = failed.collect();
    (said, failed)
}

/// Whether the test starts a PostgreSQL: some seconds each.
fn is_slow(test: &str) -> bool {
    !(test.starts_with("table::") || test.starts_with("scripts::"))
}

#[test]
fn every_bug_is_noticed() {
    let all = std::env::var("BITES").is_ok_and(|value| value == "all");
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|bug| all || !is_slow(catcher(*bug))).collect();
    // All of the tests without a bug; then each bug.
    let sound: BTreeSet<&str> = bugs.iter().map(|bug| catcher(*bug)).collect();
    let mut runs: Vec<(Vec<&str>, Option<Bug>)> = vec![(sound.into_iter().collect(), None)];
    runs.extend(bugs.iter().map(|bug| (vec![catcher(*bug)], Some(*bug))));
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((tests, bug)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let (said, failed) = run(tests, *bug);
                    let took = begun.elapsed().as_secs_f64();
                    let mut wrong = wrong.lock().unwrap();
                    match (bug, failed.is_empty()) {
                        (Some(bug), false) => println!("| {} | {} | caught | {took:.1} s |", bug.word(), tests[0]),
                        (Some(bug), true) => wrong.push(format!("{} does not notice {bug:?}", tests[0])),
                        (None, true) => println!("{} tests pass without a bug, {took:.1} s", tests.len()),
                        (None, false) => wrong.push(format!("{failed:?} fail without a bug:\n{said}")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
