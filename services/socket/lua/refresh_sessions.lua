-- Extends the records of sessions that are connected to one replica, and stores the positions of their clients.
-- ARGV: node, seconds that a record lives; then for each session: sid, hash of the secret, position
-- Returns the sids without a record, and the sids that another connection has resumed.
local node, record_ttl = ARGV[1], ARGV[2]
local missing, moved = {}, {}
for i = 3, #ARGV, 3 do
  local key = 'gridcast:sid:' .. ARGV[i]
  local secret = redis.call('HGET', key, 'resume')
  if not secret then
    missing[#missing + 1] = ARGV[i]
  elseif secret ~= ARGV[i + 1] then
    moved[#moved + 1] = ARGV[i]
  else
    redis.call('HSET', key, 'node', node, 'position', ARGV[i + 2])
    redis.call('EXPIRE', key, record_ttl)
  end
end
return {missing, moved}
