-- Tells gateways that templates have changed. Last in a transaction: the row is everyone's.
UPDATE catalog_versions SET templates = templates + 1
