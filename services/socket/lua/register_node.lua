-- Registers a replica after it has connected to Redis, and starts a new epoch where the data of Redis may have been lost.
-- KEYS: gridcast:sequence, gridcast:node:<node>
-- ARGV: run id of the Redis process, seconds that the node's key lives, seconds for which sessions may be missing after a loss,
--       1 if this replica was registered before, else 0
-- Returns epoch, number, Unix time.
-- A run id other than the stored one means other data (a restart from a snapshot, a failover): numbers may be issued twice.
-- A first start looks the same as a loss of all data. Sessions of other replicas may be missing in both, so they get time to
-- restore them: until `settles` the push script answers `settling` instead of `unknown`. It starts an epoch by the same rule.
-- Where nothing has changed, nothing has to be written: a replica reads on from a Redis that refuses writes.
local run_id, node_ttl, settling_seconds, registered = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'number')
local epoch = state[1]
local expired = registered == '1' and redis.call('EXISTS', KEYS[2]) == 0
if not epoch or (state[2] and state[2] ~= run_id) then
  epoch = string.format('%x%05x', time[1], time[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'settles', time[1] + settling_seconds)
end
if not state[3] then redis.call('HSET', KEYS[1], 'number', 0) end
if state[2] ~= run_id then redis.call('HSET', KEYS[1], 'run', run_id) end
if redis.pcall('SET', KEYS[2], time[1], 'EX', node_ttl).err then
  redis.pcall('EXPIRE', KEYS[2], node_ttl)
elseif expired then
  redis.call('HSET', KEYS[1], 'settles', time[1] + settling_seconds)
end
return {epoch, state[3] or '0', time[1]}
