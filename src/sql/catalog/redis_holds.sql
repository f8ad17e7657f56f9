-- Records the revision that Redis was seen to hold. $1 id, $2 revision.
UPDATE coupon_templates SET redis_revision = $2 WHERE id = $1 AND redis_revision < $2
