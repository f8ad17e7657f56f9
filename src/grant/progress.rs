//! How far a cell has been given back, told once a second.

use std::time::{Duration, Instant};

use crate::domain::ids::TemplateId;

/// Counts rows and tells a person who waits.
pub struct Progress<'a> {
    tell: &'a (dyn Fn(&str) + Sync),
    /// Rows that there are in all, where it was asked: the highest serials of the templates, added up.
    in_all: Option<u64>,
    /// Rows that Redis had already when their template's turn came.
    there: u64,
    given_back: u64,
    begun: Instant,
    next: Instant,
}

const PAUSE: Duration = Duration::from_secs(1);

// === impl Progress ===

impl<'a> Progress<'a> {
    pub fn new(tell: &'a (dyn Fn(&str) + Sync), in_all: Option<u64>) -> Self {
        let begun = Instant::now();
        Progress { tell, in_all, there: 0, given_back: 0, begun, next: begun + PAUSE }
    }

    /// A template's rows before the cursor are in Redis.
    pub fn passed_over(&mut self, rows: u64) {
        self.there += rows;
    }

    pub fn given_back(&mut self, template: TemplateId, rows: u64) {
        self.given_back += rows;
        let now = Instant::now();
        if now >= self.next {
            self.next = now + PAUSE;
            (self.tell)(&self.sentence(template, (now - self.begun).as_secs_f64()));
        }
    }

    fn sentence(&self, template: TemplateId, seconds: f64) -> String {
        let rate = self.given_back as f64 / seconds.max(0.001);
        let mut text = format!("template {template}: {} rows given back, {rate:.0} rows/s", self.given_back);
        if let Some(in_all) = self.in_all {
            let left = in_all.saturating_sub(self.there + self.given_back);
            text += &format!(", about {left} left: {:.0} s", left as f64 / rate.max(1.0));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_is_neither_there_nor_given_back() {
        let mut progress = Progress::new(&|_| {}, Some(1_000));
        progress.passed_over(100);
        progress.given_back(TemplateId(7), 500);
        let told = progress.sentence(TemplateId(7), 2.0);
        assert_eq!(told, "template 7: 500 rows given back, 250 rows/s, about 400 left: 2 s");
    }
}
