-- Renews the key of a live replica.
-- KEYS: gridcast:sequence, gridcast:node:<node>
-- ARGV: seconds that the node's key lives
-- Returns epoch (empty if there is none), number, Unix time, and 0 if the key had expired.
local known = redis.call('EXISTS', KEYS[2])
local now = redis.call('TIME')[1]
redis.call('SET', KEYS[2], now, 'EX', ARGV[1])
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
return {state[1] or '', state[2] or '0', now, known}
