//! `VALID_TIME_SLOTS` `[{start, end}]`: the order is placed within one, by the template's clock.
//!
//! A slot holds from its start to before its end; `24:00` ends a day. One that crosses midnight
//! belongs to the day it starts on.

use std::fmt;

use chrono::{Datelike, Timelike};
use chrono_tz::Tz;
use serde_json::json;

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::{Complaints, Object};
use crate::domain::window::{Millis, utc};
use crate::pricing::reason::{Reason, Refusal};

pub struct ValidTimeSlots;

/// Minutes of a local day, as `[start, end)`; `end` before `start` lies on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub start: u32,
    pub end: u32,
}

#[derive(Debug)]
struct Slots(Vec<Slot>);

const SLOTS_MAX: usize = 24;
const DAY_MINUTES: u32 = 24 * 60;

impl RuleType for ValidTimeSlots {
    fn name(&self) -> &'static str {
        "VALID_TIME_SLOTS"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut slots = Vec::new();
        for (at, item) in reading.list(SLOTS_MAX, wrong).iter().enumerate() {
            let mut object = Object::at(&format!("{}[{at}]", reading.path), item, wrong);
            let start = minutes(&mut object, "start", wrong);
            let end = minutes(&mut object, "end", wrong);
            if start.is_some_and(|start| start == DAY_MINUTES || end == Some(start)) {
                wrong.add(object.path("start"), "out_of_range", "must be before 24:00 and differ from end");
            }
            object.finish(wrong);
            slots.extend(start.zip(end).map(|(start, end)| Slot { start, end }));
        }
        Some(Box::new(Slots(slots)))
    }
}

impl Rule for Slots {
    fn lay_down(&self, shape: &mut Shape) {
        shape.slots = self.0.clone();
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if self.0.iter().any(|slot| slot.day_of(asked.zone, asked.order.placed_at).is_some()) {
            return Ok(());
        }
        let shown: Vec<String> = self.0.iter().map(Slot::to_string).collect();
        Err(Refusal::new(Reason::TimeSlot, self.explain("")).missing("slots", json!(shown)))
    }

    fn explain(&self, _: &str) -> String {
        format!("usable at {}", self.0.iter().map(Slot::to_string).collect::<Vec<_>>().join(", "))
    }
}

/// "11:00-14:00"
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, end) = (self.start, self.end);
        write!(f, "{:02}:{:02}-{:02}:{:02}", start / 60, start % 60, end / 60, end % 60)
    }
}

impl Slot {
    /// The weekday, Monday 1, to which the slot that holds this moment belongs.
    pub fn day_of(&self, zone: Tz, at: Millis) -> Option<u32> {
        let local = utc(at).with_timezone(&zone);
        let minute = local.hour() * 60 + local.minute();
        let today = local.weekday().number_from_monday();
        let crosses = self.end < self.start;
        if minute >= self.start && (crosses || minute < self.end) {
            Some(today)
        } else if crosses && minute < self.end {
            Some(if today == 1 { 7 } else { today - 1 })
        } else {
            None
        }
    }
}

/// "11:00", to the minute.
fn minutes(object: &mut Object, name: &'static str, wrong: &mut Complaints) -> Option<u32> {
    let text = object.need_text(name, wrong)?;
    let digits = |part: &str| (part.len() == 2).then(|| part.parse::<u8>().ok()).flatten().map(u32::from);
    let read = || {
        let (hour, minute) = text.split_once(':')?;
        let all = digits(hour)? * 60 + digits(minute).filter(|minute| *minute < 60)?;
        (all <= DAY_MINUTES && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b':')).then_some(all)
    };
    let found = read();
    if found.is_none() {
        wrong.add(object.path(name), "time_of_day", "must be a time of day as 11:00, up to 24:00");
    }
    found
}
