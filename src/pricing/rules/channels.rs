//! `CHANNELS` `["app", ...]`: the order came through one of them.

use serde_json::json;

use super::{Asked, Reading, Rule, RuleType, Shape};
use crate::domain::fields::{Complaints, is_plain};
use crate::limits::CHANNEL_MAX;
use crate::pricing::reason::{Reason, Refusal};

pub struct Channels;

#[derive(Debug)]
struct OneOf(Vec<String>);

const CHANNELS_MAX: usize = 20;

impl RuleType for Channels {
    fn name(&self) -> &'static str {
        "CHANNELS"
    }

    fn read(&self, reading: &Reading, wrong: &mut Complaints) -> Option<Box<dyn Rule>> {
        let mut channels = Vec::new();
        for (at, item) in reading.list(CHANNELS_MAX, wrong).iter().enumerate() {
            match item.as_str() {
                Some(text) if is_plain(text) && (1..=CHANNEL_MAX).contains(&text.chars().count()) => {
                    channels.push(text.to_owned());
                }
                _ => {
                    let detail = format!("must be a string of 1 to {CHANNEL_MAX} characters");
                    wrong.add(format!("{}[{at}]", reading.path), "length", detail);
                }
            }
        }
        Some(Box::new(OneOf(channels)))
    }
}

impl Rule for OneOf {
    fn lay_down(&self, shape: &mut Shape) {
        shape.is_channel_limited = true;
    }

    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        if asked.order.channel.as_ref().is_some_and(|channel| self.0.contains(channel)) {
            return Ok(());
        }
        Err(Refusal::new(Reason::Channel, self.explain("")).missing("channels", json!(self.0)))
    }

    fn explain(&self, _: &str) -> String {
        format!("usable through {}", self.0.join(", "))
    }
}
