-- Remembers that an order was cancelled before its lock came; nothing where the order has a redemption. $1 order
INSERT INTO redemptions (order_id, status, released_at) VALUES ($1, 'cancelled', now()) ON CONFLICT (order_id) DO NOTHING
