-- Deletes a rule set. $1 id, $2 revision.
DELETE FROM rule_sets WHERE id = $1 AND revision = $2
