-- Restores the records of connected sessions that Redis has lost, or of which it has an earlier claim.
-- KEYS: gridcast:sids
-- ARGV: node, seconds that a record lives; then for each session a JSON object {sid, resume, claim, position, since, meta, topics}
-- Returns the sids that are not lost but were closed by an operator.
local node, record_ttl = ARGV[1], ARGV[2]
local closed = {}
for i = 3, #ARGV do
  local record = cjson.decode(ARGV[i])
  local key = 'gridcast:sid:' .. record.sid
  if redis.call('EXISTS', 'gridcast:closed:' .. record.sid) == 1 then
    closed[#closed + 1] = record.sid
  elseif redis.call('EXISTS', key) == 0 or tonumber(redis.call('HGET', key, 'claim') or 1) < record.claim then
    redis.call('DEL', key)
    redis.call('HSET', key, 'node', node, 'resume', record.resume, 'claim', record.claim, 'position', record.position,
      'since', record.since)
    if record.meta ~= '' then redis.call('HSET', key, 'meta', record.meta) end
    for topic, since in pairs(record.topics) do redis.call('HSET', key, 't:' .. topic, since) end
    redis.call('EXPIRE', key, record_ttl)
    redis.call('ZADD', KEYS[1], 0, record.sid)
  end
end
return closed
