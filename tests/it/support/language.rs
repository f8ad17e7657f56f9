//! Tests as text, played line by line on every stage; all must answer alike.
//!
//! ```text
//! quotas user=2/60s ip=3/60s device=1/1h        limits and windows; takes effect with `open`
//! template t1 stock=2 per_user=1 per_user_daily=1 daily=5 quotas window=-1h..+1h tz=Asia/Shanghai
//! change t1 per_user=2                          the same words; a new revision
//! pause t1 | resume t1 | stop t1                a new revision with another state
//! restock t1 3                                  a further range of 3 serials; a new generation
//! change t1 range=11-20                         the same, with a gap before it
//! claim r1 u1 -> granted 1                      claim key, user; of t1 where no template is named
//! claim r2 u2 t2 ip=1.1.1.1 device=d1 -> quota_exceeded ip 60s
//! batch {                                       claims that are decided in one batch
//! }
//! lookup r1 u1 -> replayed 1                    or none, freed, not_loaded
//! at 2026-11-01T12:00:00-04:00 | clock +30s     moves the time
//! close | open | reopen                         under the next epoch
//! flush scripts | starve | feed | trim          lose the script cache; no memory left; trim all
//! free t1 -> freed                              or unflushed
//! remaining t1 -> 2                             serials left
//! entries -> 3                                  on the queue, markers included
//! ```
//!
//! `claim` and `batch` take `deadline=+5s`, `backlog=3` (grants from which the queue is full),
//! `day=-24h` (the gateway's day is that of another time), `epoch=1`, `replid=other`.

use std::collections::BTreeMap;

use chrono_tz::Tz;
use floodgate::claim::engine::{
    Batch, BatchReply, Claim, Group, GroupReply, LookupGroup, LookupGroupReply, LookupReply,
};
use floodgate::claim::model_engine::{QuotaRule, Terms};
use floodgate::domain::ids::{CellId, Epoch, Serial, TemplateId};
use floodgate::domain::user::UserRef;
use floodgate::domain::window::{Day, Millis};
use floodgate::redis::cell::Identity;
use floodgate::redis::keys::CellKeys;

use super::stage::Stage;
use super::words::{Words, hash_of, moment, not_executed, outcome, said, span, user};

/// Plays a text from a fresh cell at 2026-06-18 12:00 UTC.
pub fn play(text: &str, stages: &mut [&mut dyn Stage]) {
    let mut player = Player {
        stages,
        now: moment("2026-06-18T12:00:00Z"),
        epoch: 0,
        opened: false,
        believed: 0,
        rules: Default::default(),
        templates: BTreeMap::new(),
        users: Vec::new(),
    };
    player.each(|stage, now| stage.set_clock(now));
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("line {}: {line}", number + 1);
        let (command, expected) =
            line.split_once("->").map_or((line, None), |(left, right)| (left, Some(right.trim())));
        if command.starts_with("batch") {
            let inner: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line.trim())
                .take_while(|line| *line != "}")
                .filter(|line| !line.is_empty())
                .collect();
            player.batch(command.trim_end_matches(['{', ' ']), &inner, &place);
        } else if command.starts_with("claim") {
            player.batch(command, &[line], &place);
        } else {
            let said = player.other(command, &place);
            if expected.is_some() || said.is_some() {
                assert_eq!(said.as_deref(), expected, "{place}");
            }
        }
    }
    player.compare();
}

struct Player<'a, 'b> {
    stages: &'a mut [&'b mut dyn Stage],
    now: Millis,
    epoch: Epoch,
    opened: bool,
    /// The epoch that the gateway believes in.
    believed: Epoch,
    rules: [QuotaRule; 3],
    templates: BTreeMap<String, Known>,
    users: Vec<UserRef>,
}

struct Known {
    id: TemplateId,
    terms: Terms,
    given: Serial,
    zone: Tz,
}

// === impl Player ===

impl Player<'_, '_> {
    fn each<T: std::fmt::Debug + PartialEq>(&mut self, mut act: impl FnMut(&mut dyn Stage, Millis) -> T) -> T {
        let mut answers: Vec<_> = self.stages.iter_mut().map(|stage| (stage.name(), act(*stage, self.now))).collect();
        let (first_name, first) = answers.remove(0);
        for (name, answer) in answers {
            assert_eq!(first, answer, "{first_name} (left) and {name} (right) differ");
        }
        first
    }

    /// The first line that needs a cell opens it.
    fn ensure_open(&mut self) {
        if !self.opened {
            self.reopen(true);
        }
    }

    fn reopen(&mut self, close: bool) {
        if close {
            self.epoch += 1;
            let epoch = self.epoch;
            self.each(|stage, _| stage.close(epoch));
        }
        let (epoch, rules) = (self.epoch, self.rules);
        self.each(|stage, _| stage.open(epoch, rules));
        self.opened = true;
        self.believed = epoch;
    }

    fn other(&mut self, command: &str, place: &str) -> Option<String> {
        let words = Words::of(command);
        if words.plain[0] != "quotas" {
            self.ensure_open();
        }
        let name = words.plain.get(1).copied().unwrap_or("t1").to_owned();
        match words.plain[0] {
            "quotas" => {
                for (scope, rule) in ["user", "ip", "device"].iter().zip(&mut self.rules) {
                    let (limit, window) =
                        words.options.get(scope).map_or(("0", "60s"), |it| it.split_once('/').expect(place));
                    *rule = QuotaRule { limit: limit.parse().expect(place), window: span(window) };
                }
            }
            "template" => {
                let number = name.trim_start_matches('t').parse().expect(place);
                let terms = Terms {
                    state: 1,
                    revision: 0,
                    generation: 0,
                    starts_at: self.now - span("365d"),
                    ends_at: self.now + span("365d"),
                    per_user: 1,
                    per_user_daily: 0,
                    daily: 0,
                    quotas: words.plain.contains(&"quotas"),
                };
                let known = Known { id: TemplateId(number), terms, given: 0, zone: Tz::UTC };
                self.templates.insert(name.clone(), known);
                self.put(&name, &words);
            }
            "change" => self.put(&name, &words),
            "pause" | "resume" | "stop" => {
                let state = match words.plain[0] {
                    "pause" => 2,
                    "resume" => 1,
                    _ => 3,
                };
                self.templates.get_mut(&name).expect(place).terms.state = state;
                self.put(&name, &words);
            }
            "restock" => {
                let add = words.plain[2];
                self.put(&name, &Words { plain: Vec::new(), options: BTreeMap::from([("stock", add)]) });
            }
            "at" => self.move_clock(moment(words.plain[1])),
            "clock" => self.move_clock(self.now + span(words.plain[1])),
            "close" => {
                self.epoch += 1;
                let epoch = self.epoch;
                self.each(|stage, _| stage.close(epoch));
            }
            "open" => self.reopen(false),
            "reopen" => self.reopen(true),
            "flush" => self.each(|stage, _| stage.flush_scripts()),
            "starve" => self.each(|stage, _| stage.starve(true)),
            "feed" => self.each(|stage, _| stage.starve(false)),
            "trim" => self.each(|stage, _| {
                let last = stage.meta().last;
                stage.trim(last)
            }),
            "free" => {
                let (id, revision) = (self.templates[&name].id, self.templates[&name].terms.revision + 1);
                let freed = self.each(|stage, _| {
                    let watermark = stage.queue().first().map_or(stage.meta().last, |first| first.id);
                    stage.free(id, revision, watermark)
                });
                return Some(if freed { "freed" } else { "unflushed" }.to_owned());
            }
            "remaining" => {
                let id = self.templates[&name].id;
                return Some(self.each(|stage, _| stage.holding(id, None).remaining).to_string());
            }
            "entries" => return Some(self.each(|stage, _| stage.queue().len()).to_string()),
            "lookup" => return Some(self.lookup(&words, place)),
            _ => panic!("{place}: no such command"),
        }
        None
    }

    fn move_clock(&mut self, now: Millis) {
        self.now = now;
        self.each(|stage, now| stage.set_clock(now));
    }

    /// Brings a template to its next revision, changed by what the words say.
    fn put(&mut self, name: &str, words: &Words) {
        let now = self.now;
        let known = self.templates.get_mut(name).unwrap_or_else(|| panic!("no template {name}"));
        known.terms.revision += 1;
        let mut range = None;
        for (option, value) in &words.options {
            let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{option}={value}"));
            match *option {
                "per_user" => known.terms.per_user = number() as u32,
                "per_user_daily" => known.terms.per_user_daily = number() as u32,
                "daily" => known.terms.daily = number(),
                "tz" => known.zone = value.parse().expect("a time zone"),
                "window" => {
                    let (from, until) = value.split_once("..").expect("from..until");
                    (known.terms.starts_at, known.terms.ends_at) = (now + span(from), now + span(until));
                }
                "stock" => {
                    let last = if *value == "-1" { (1 << 40) - 1 } else { known.given + number() };
                    range = Some((known.given + 1, last));
                    known.given = last;
                    known.terms.generation += 1;
                }
                "range" => {
                    let (first, last) = value.split_once('-').expect("first-last");
                    let last = last.parse().expect("a serial");
                    range = Some((first.parse().expect("a serial"), last));
                    known.given = last;
                    known.terms.generation += 1;
                }
                _ => panic!("no option {option}"),
            }
        }
        let (id, terms) = (known.id, known.terms);
        self.each(|stage, _| stage.put(id, &terms, range.as_slice()));
    }

    fn lookup(&mut self, words: &Words, place: &str) -> String {
        let id = self.template_of(words, place).id;
        let group = LookupGroup {
            keys: CellKeys::new(CellId(0)).template(id),
            claims: vec![(user(words.plain[2]), hash_of(words.plain[1]))],
        };
        let epoch = self.believed;
        let reply = self.each(|stage, _| {
            let identity = Identity { epoch, ..stage.identity() };
            let group = LookupGroup { keys: stage.keys().template(id), ..group.clone() };
            said(stage.lookup(&identity, std::slice::from_ref(&group)))
        });
        match reply {
            Err(fault) => fault,
            Ok(LookupReply::NotExecuted(reason)) => not_executed(reason),
            Ok(LookupReply::Executed { groups, .. }) => match &groups[0] {
                LookupGroupReply::Found(found) => match &found[0] {
                    Some(held) => format!("replayed {}", held.serial),
                    None => "none".to_owned(),
                },
                LookupGroupReply::NotLoaded => "not_loaded".to_owned(),
                LookupGroupReply::Freed => "freed".to_owned(),
            },
        }
    }

    /// Decides the claims of `lines` in one batch with the options of `head`.
    fn batch(&mut self, head: &str, lines: &[&str], place: &str) {
        self.ensure_open();
        let options = Words::of(head).options;
        let option = |name: &str| options.get(name).copied();
        let day_of = self.now + option("day").map_or(0, span);
        let mut groups: Vec<(Group, Vec<usize>)> = Vec::new();
        let mut expected = Vec::new();
        for (position, line) in lines.iter().enumerate() {
            let (command, outcome) = line.split_once("->").unwrap_or_else(|| panic!("{place}: {line}: no outcome"));
            let words = Words::of(command);
            let known = self.template_of(&words, place);
            let (id, quotas, zone) = (known.id, known.terms.quotas, known.zone);
            let hash = |name: &str| words.options.get(name).filter(|_| quotas).map(|text| hash_of(text));
            let claim = Claim {
                user: user(words.plain[2]),
                claim_key_hash: hash_of(words.plain[1]),
                ip: hash("ip"),
                device: hash("device"),
            };
            self.users.push(claim.user.clone());
            expected.push((*line, outcome.split_whitespace().collect::<Vec<_>>().join(" ")));
            match groups.iter_mut().find(|(group, _)| group.template == id) {
                Some((group, positions)) => {
                    group.claims.push(claim);
                    positions.push(position);
                }
                None => {
                    let keys = CellKeys::new(CellId(0)).template(id);
                    let day = Day::of(zone, day_of);
                    groups.push((Group { template: id, keys, quotas, day, claims: vec![claim] }, vec![position]));
                }
            }
        }
        groups.sort_by_key(|(group, _)| !group.quotas);
        let batch = Batch {
            deadline: self.now + option("deadline").map_or(60_000, span),
            backlog_max: option("backlog").map_or(1_000_000, |text| text.parse().expect(place)),
            groups: groups.iter().map(|(group, _)| group.clone()).collect(),
        };
        let epoch = option("epoch").map_or(self.believed, |text| text.parse().expect(place));
        let replid = option("replid");
        let reply = self.each(|stage, _| {
            let mut batch = batch.clone();
            for group in &mut batch.groups {
                group.keys = stage.keys().template(group.template);
            }
            let mut identity = Identity { epoch, ..stage.identity() };
            if let Some(replid) = replid {
                identity.replid = replid.into();
            }
            said(stage.claim(&identity, &batch))
        });
        let mut outcomes = vec![String::new(); lines.len()];
        let positions = || groups.iter().map(|(_, positions)| positions);
        match reply {
            Err(fault) => outcomes.fill(fault),
            Ok(BatchReply::NotExecuted { reason, .. }) => outcomes.fill(not_executed(reason)),
            Ok(BatchReply::Executed { now, groups, .. }) => {
                for (reply, positions) in groups.iter().zip(positions()) {
                    for (claim, position) in positions.iter().enumerate() {
                        outcomes[*position] = match reply {
                            GroupReply::DayMoved => "day_moved".to_owned(),
                            GroupReply::NotLoaded => "not_loaded".to_owned(),
                            GroupReply::Decided { decisions, .. } => outcome(&decisions[claim], now),
                        };
                    }
                }
            }
        }
        for ((line, expected), outcome) in expected.iter().zip(outcomes) {
            assert_eq!(outcome, *expected, "{place}: {line}");
        }
    }

    /// A template that was never declared is one that the cell does not have.
    fn template_of(&self, words: &Words, place: &str) -> Known {
        let name = words.plain.get(3).copied().unwrap_or("t1");
        match self.templates.get(name) {
            Some(Known { id, terms, given, zone }) => Known { id: *id, terms: *terms, given: *given, zone: *zone },
            None => {
                let terms = Terms {
                    state: 1,
                    revision: 0,
                    generation: 0,
                    starts_at: 0,
                    ends_at: 0,
                    per_user: 1,
                    per_user_daily: 0,
                    daily: 0,
                    quotas: false,
                };
                Known {
                    id: TemplateId(name.trim_start_matches('t').parse().expect(place)),
                    terms,
                    given: 0,
                    zone: Tz::UTC,
                }
            }
        }
    }

    /// At the end all stages have kept the same.
    fn compare(&mut self) {
        self.ensure_open();
        self.each(|stage, _| stage.starve(false));
        if self.believed != self.epoch {
            self.reopen(false);
        }
        let users = std::mem::take(&mut self.users);
        let ids: Vec<TemplateId> = self.templates.values().map(|known| known.id).collect();
        self.each(|stage, _| stage.state());
        for id in ids {
            self.each(|stage, _| stage.holding(id, None));
            for user in &users {
                self.each(|stage, _| stage.holding(id, Some(user)));
            }
        }
    }
}
