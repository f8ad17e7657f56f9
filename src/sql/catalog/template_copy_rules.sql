-- Gives a template the rules of its set as they are now. $1 id, $2 revision it was made from, $3 definition.
UPDATE coupon_templates SET definition = $3 WHERE id = $1 AND revision = $2
