-- Tells gateways that API keys have changed. Last in a transaction: the row is everyone's.
UPDATE catalog_versions SET api_keys = api_keys + 1
