-- Extends the records of sessions that are connected to one replica, and stores the positions of their clients.
-- ARGV: node, seconds that a record lives; then for each session: sid, hash of the secret, position, claim
-- Returns the sids without a record or with the record of an earlier claim (an old snapshot), and the sids that another connection has
-- resumed.
local node, record_ttl = ARGV[1], ARGV[2]
local missing, moved = {}, {}
for i = 3, #ARGV, 4 do
  local key = 'gridcast:sid:' .. ARGV[i]
  local record = redis.call('HMGET', key, 'resume', 'claim')
  if record[1] == ARGV[i + 1] then
    redis.call('EXPIRE', key, record_ttl) -- first, because a full Redis takes it, and then the rest of the script
    redis.call('HSET', key, 'node', node, 'position', ARGV[i + 2])
  elseif not record[1] or tonumber(record[2] or 0) < tonumber(ARGV[i + 3]) then
    missing[#missing + 1] = ARGV[i]
  else
    moved[#moved + 1] = ARGV[i]
  end
end
return {missing, moved}
