//! The only place where a key's name is made. `lua/README.md` says what each key holds.

use crate::domain::ids::{CellId, TemplateId};

/// The keys of one cell: they share a hash tag, so that one script may touch all of them.
#[derive(Clone, Debug)]
pub struct CellKeys {
    prefix: Box<str>,
    meta: Box<str>,
    queue: Box<str>,
    quotas: [Box<str>; 6],
}

/// The keys of one template within a cell.
#[derive(Clone, Debug)]
pub struct TemplateKeys {
    template: Box<str>,
    receipts: Box<str>,
    mark: Box<str>,
}

// === impl CellKeys ===

impl CellKeys {
    pub fn new(cell: CellId) -> Self {
        let prefix = format!("fg:{{c{cell}}}:");
        let quota = |scope: &str, parity: u8| format!("{prefix}q{scope}:{parity}").into();
        CellKeys {
            meta: format!("{prefix}meta").into(),
            queue: format!("{prefix}q").into(),
            quotas: [quota("u", 0), quota("u", 1), quota("i", 0), quota("i", 1), quota("d", 0), quota("d", 1)],
            prefix: prefix.into(),
        }
    }

    /// `fg:{c0}:meta`, hash: identity, clock, quota settings, marks of unflushed templates.
    pub fn meta(&self) -> &str {
        &self.meta
    }

    /// `fg:{c0}:q`, stream: the grant queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// `fg:{c0}:qu:0` `qu:1` `qi:0` `qi:1` `qd:0` `qd:1`, hashes: quota stamps of user, IP and
    /// device in even and odd periods.
    pub fn quotas(&self) -> &[Box<str>; 6] {
        &self.quotas
    }

    /// `fg:{c0}:*`, a pattern for SCAN: every key of the cell.
    pub fn pattern(&self) -> String {
        format!("{}*", self.prefix)
    }

    pub fn template(&self, id: TemplateId) -> TemplateKeys {
        TemplateKeys {
            template: format!("{}t:{id}", self.prefix).into(),
            receipts: format!("{}t:{id}:u", self.prefix).into(),
            mark: format!("{MARK_PREFIX}{id}").into(),
        }
    }
}

// === impl TemplateKeys ===

impl TemplateKeys {
    /// `fg:{c0}:t:7`, hash: state, limits and stock of template 7.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// `fg:{c0}:t:7:u`, hash: user -> receipts of template 7.
    pub fn receipts(&self) -> &str {
        &self.receipts
    }

    /// `d:7`, field of meta: the last entry that granted template 7, while it may be unflushed.
    pub fn mark(&self) -> &str {
        &self.mark
    }
}

const MARK_PREFIX: &str = "d:";

/// The template that a field of meta marks, if it is a mark.
pub fn marked_template(field: &str) -> Option<TemplateId> {
    TemplateId::parse(field.strip_prefix(MARK_PREFIX)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_cell_has_its_hash_tag() {
        let keys = CellKeys::new(CellId(3));
        let template = keys.template(TemplateId(7));
        for key in [keys.meta(), keys.queue(), template.template(), template.receipts()]
            .into_iter()
            .chain(keys.quotas().iter().map(|key| &**key))
        {
            assert!(key.starts_with("fg:{c3}:"), "{key}");
        }
        assert_eq!(template.receipts(), "fg:{c3}:t:7:u");
        assert_eq!(marked_template(template.mark()), Some(TemplateId(7)));
        assert_eq!(marked_template("epoch"), None);
    }
}
