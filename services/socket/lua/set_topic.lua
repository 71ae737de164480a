-- Adds a topic to a session's record, or removes it, if the connection still holds the session.
-- KEYS: gridcast:sequence, gridcast:sid:<sid>
-- ARGV: hash of the secret, topic, 1 to subscribe or 0 to unsubscribe
-- Returns epoch (empty if there is none) and number.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
if redis.call('HGET', KEYS[2], 'resume') == ARGV[1] then
  if ARGV[3] == '1' then
    redis.call('HSET', KEYS[2], 't:' .. ARGV[2], state[2] or '0')
  else
    redis.call('HDEL', KEYS[2], 't:' .. ARGV[2])
  end
end
return {state[1] or '', state[2] or '0'}
