-- A refund that was made before. $1 its id
SELECT request_sha256, outcome FROM refunds WHERE refund_id = $1
