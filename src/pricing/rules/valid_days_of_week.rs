//! `VALID_DAYS_OF_WEEK` `[1..7]`, Monday 1: the order is placed on one of them, by the template's
//! calendar. Within a time slot that crosses midnight, the day is the one on which the slot started.

use chrono::Datelike;
use serde_json::json;

use super::{Asked, Reading, Rule, RuleType};
use crate::domain::fields::Complaints;
use crate::domain::window::utc;
use crate::pricing::reason::{Reason, Refusal};

pub struct ValidDaysOfWeek;

#[derive(Debug)]
struct Days(Vec<u32>);

impl RuleType for ValidDaysOfWeek {
    fn name(&self) -> &'static str {
        "VALID_DAYS_OF_WEEK"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut days = Vec::new();
        for (at, item) in reading.list(7, wrong).iter().enumerate() {
            match item.as_u64() {
                Some(day @ 1..=7) if !days.contains(&(day as u32)) => days.push(day as u32),
                Some(1..=7) => wrong.add(format!("{}[{at}]", reading.path), "repeated", "is listed already"),
                _ => wrong.add(format!("{}[{at}]", reading.path), "out_of_range", "must be 1 (Monday) to 7"),
            }
        }
        days.sort_unstable();
        Some(Box::new(Days(days)))
    }
}

impl Rule for Days {
    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        let at = asked.order.placed_at;
        let today = utc(at).with_timezone(&asked.zone).weekday().number_from_monday();
        let mut days: Vec<u32> = asked.shape.slots.iter().filter_map(|slot| slot.day_of(asked.zone, at)).collect();
        if days.is_empty() {
            days.push(today);
        }
        if days.iter().any(|day| self.0.contains(day)) {
            return Ok(());
        }
        Err(Refusal::new(Reason::DayOfWeek, self.explain("")).missing("days", json!(self.0)))
    }

    fn explain(&self, _: &str) -> String {
        let shown = self.0.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!("usable on weekdays {shown} (Monday is 1)")
    }
}
