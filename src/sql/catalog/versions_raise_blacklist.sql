-- Tells gateways that the blacklist has changed. Last in a transaction: the row is everyone's.
UPDATE catalog_versions SET blacklist = blacklist + 1
