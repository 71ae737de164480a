-- Reads the records of sessions.
-- ARGV: sid...
-- Returns for each record: sid, 1 if its replica is alive, the fields of the record.
local sessions = {}
for i = 1, #ARGV do
  local fields = redis.call('HGETALL', 'gridcast:sid:' .. ARGV[i])
  if #fields > 0 then
    local node = redis.call('HGET', 'gridcast:sid:' .. ARGV[i], 'node')
    local node_alive = node ~= '' and redis.call('EXISTS', 'gridcast:node:' .. node) or 0
    sessions[#sessions + 1] = {ARGV[i], node_alive, fields}
  end
end
return sessions
