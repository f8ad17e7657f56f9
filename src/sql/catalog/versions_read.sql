-- The counters by which a gateway notices a change.
SELECT templates, blacklist, api_keys FROM catalog_versions
