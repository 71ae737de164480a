-- Reads the records of sessions, and removes sids without a record from the list of all.
-- KEYS: gridcast:sids
-- ARGV: sid...
-- Returns for each record: sid, 1 if its replica is alive, the fields of the record.
local sessions = {}
for i = 1, #ARGV do
  local fields = redis.call('HGETALL', 'gridcast:sid:' .. ARGV[i])
  if #fields == 0 then
    redis.pcall('ZREM', KEYS[1], ARGV[i]) -- a Redis that refuses writes is read nevertheless
  else
    local node = redis.call('HGET', 'gridcast:sid:' .. ARGV[i], 'node')
    local node_alive = node ~= '' and redis.call('EXISTS', 'gridcast:node:' .. node) or 0
    sessions[#sessions + 1] = {ARGV[i], node_alive, fields}
  end
end
return sessions
