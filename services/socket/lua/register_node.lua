-- Registers a replica after it has connected to Redis, and starts a new epoch where the data of Redis may have been lost.
-- KEYS: gridcast:sequence, gridcast:node:<node>
-- ARGV: run id of the Redis process, seconds that the node's key lives, seconds for which sessions may be missing after a loss
-- Returns epoch, number, Unix time.
-- A run id other than the stored one means other data (a restart from a snapshot, a failover): numbers may be issued twice.
-- A first start looks the same as a loss of all data. Sessions of other replicas may be missing in both, so they get time to
-- restore them: until `settles` the push script answers `settling` instead of `unknown`. It starts an epoch by the same rule.
local run_id, node_ttl, settling_seconds = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'number')
local epoch = state[1]
if not epoch or (state[2] and state[2] ~= run_id) then
  epoch = string.format('%x%05x', time[1], time[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'settles', time[1] + settling_seconds)
end
redis.call('HSETNX', KEYS[1], 'number', 0)
redis.call('HSET', KEYS[1], 'run', run_id)
redis.call('SET', KEYS[2], time[1], 'EX', node_ttl)
return {epoch, redis.call('HGET', KEYS[1], 'number'), time[1]}
