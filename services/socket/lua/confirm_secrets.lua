-- Revokes the previous secrets of clients that have proved that they hold their new ones.
-- ARGV: for each session: sid, hash of the new secret
for i = 1, #ARGV, 2 do
  local key = 'gridcast:sid:' .. ARGV[i]
  if redis.call('HGET', key, 'resume') == ARGV[i + 1] then redis.call('HDEL', key, 'previous') end
end
return 1
