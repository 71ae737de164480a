-- Renews the key of a live replica, and notes the time at which Redis took a heartbeat.
-- KEYS: gridcast:sequence, gridcast:node:<node>
-- ARGV: seconds that the node's key lives, seconds for which sessions may be missing after a time without heartbeats
-- Returns epoch (empty if there is none), number, Unix time, 0 if the key had expired, and the error of a Redis that refuses writes
-- (empty where it takes them).
local known = redis.call('EXISTS', KEYS[2])
local now = redis.call('TIME')[1]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number', 'settles')
local refused = redis.pcall('SET', KEYS[2], now, 'EX', ARGV[1]).err
if refused then
  redis.pcall('EXPIRE', KEYS[2], ARGV[1]) -- a full Redis takes it: it needs no memory
elseif state[1] then
  redis.call('HSET', KEYS[1], 'beat', now)
  -- This replica's sessions may have expired with its key. The push script does not call them unknown until they are restored.
  if known == 0 and tonumber(state[3] or 0) < now + ARGV[2] then redis.call('HSET', KEYS[1], 'settles', now + ARGV[2]) end
end
return {state[1] or '', state[2] or '0', now, known, refused or ''}
