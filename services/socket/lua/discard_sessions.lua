-- Deletes sessions that no client is going to resume. A session that another connection has resumed is left as it is.
-- KEYS: gridcast:sequence, gridcast:sids
-- ARGV: for each session: sid, hash of the secret
local epoch = redis.call('HGET', KEYS[1], 'epoch')
for i = 1, #ARGV, 2 do
  local key = 'gridcast:sid:' .. ARGV[i]
  if redis.call('HGET', key, 'resume') == ARGV[i + 1] then
    redis.call('DEL', key)
    redis.call('ZREM', KEYS[2], ARGV[i])
    if epoch then redis.call('DEL', 'gridcast:history:' .. epoch .. ':sid:' .. ARGV[i]) end
  end
end
return 1
