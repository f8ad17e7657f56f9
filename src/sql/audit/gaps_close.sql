-- Forgets gaps that nothing will come into: every transaction from before they were noticed has ended. The minute is
-- for one that had taken an id and no transaction id yet. $1 the oldest transaction that ran before the gaps were read
DELETE FROM audit_gaps WHERE horizon <= $1::text::xid8 AND noticed_at < now() - interval '1 minute'
