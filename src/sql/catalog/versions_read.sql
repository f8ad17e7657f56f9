-- The counters by which a gateway notices a change, and the epoch before which a cell's histories have ended: grants had
-- stopped when its opening recorded that. $1 cell
SELECT templates, blacklist, api_keys,
    (SELECT coalesce(max(o.epoch), 0) FROM cell_openings o WHERE o.cell = $1) AS epoch
FROM catalog_versions
