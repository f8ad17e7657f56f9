//! The queue is drained and trimmed, its marks are cleared, and nothing was set aside unreadable.

use floodgate::redis::cell::Identity;

use super::{Difference, Equation, World};

pub fn check(world: &World<'_>, found: &mut Vec<Difference>) {
    let mut say = |kind, detail: String| found.push(Difference::new(Equation::Queue, kind, detail));
    let (cell, meta) = (&world.stores.cell, &world.stores.meta);
    if Identity::of(meta).is_none() {
        say("cell_not_open", format!("role {}, open {}, epoch {}", meta.role, meta.open, meta.epoch));
    } else if cell.epoch != meta.epoch {
        say("epochs_differ", format!("PostgreSQL has {}, Redis {}", cell.epoch, meta.epoch));
    }
    if cell.watermark < meta.last {
        say("queue_not_drained", format!("stored up to {}, the last entry is {}", cell.watermark, meta.last));
    }
    if meta.backlog > 0 {
        say("queue_not_trimmed", format!("{} entries, stored up to {}", meta.backlog, cell.watermark));
    }
    for (template, entry) in &meta.marks {
        say("mark_left", format!("template {template} is marked as unflushed since entry {entry}"));
    }
    for entry in &world.stores.unreadable {
        say("entry_unreadable", format!("entry {entry} on the queue"));
    }
    for aside in world.stores.aside.iter().filter(|aside| aside.grant.is_none()) {
        say("entry_unreadable", format!("entry {} was set aside: {}", aside.entry, aside.reason));
    }
    let (counter, table) = cell.set_aside;
    if counter != table {
        say("set_aside_miscounted", format!("{table} rows are set aside, {counter} were counted"));
    }
}
