-- Books entries, each with its counter-entry. $1 order, $2 refund or null, $3 currency; lists of the same length:
-- $4 templates, $5 serials, $6 bearers' kinds, $7 bearers' ids, $8 beneficiaries' kinds, $9 beneficiaries' ids,
-- $10 subjects, $11 subjects' ids, $12 amounts that the beneficiary is owed (negative: taken back)
INSERT INTO settlement_entries
    (entry, side, party, party_id, currency, amount, order_id, refund_id, template_id, serial, subject, subject_id)
SELECT e.entry, s.side, s.party, s.party_id, $3, s.amount, $1, $2, e.template_id, e.serial, e.subject, e.subject_id
FROM (SELECT gen_random_uuid() AS entry, b.*
    FROM unnest($4::int4[], $5::int8[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
        $12::numeric[])
        AS b (template_id, serial, bearer, bearer_id, beneficiary, beneficiary_id, subject, subject_id, amount)
    WHERE b.amount <> 0) AS e
CROSS JOIN LATERAL (VALUES
    ('bearer', e.bearer, e.bearer_id, -e.amount),
    ('beneficiary', e.beneficiary, e.beneficiary_id, e.amount)) AS s (side, party, party_id, amount)
