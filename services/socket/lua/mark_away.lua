-- Marks sessions as away after their connections have ended. A session that another connection has resumed is left as it is.
-- ARGV: seconds of the resume window; then for each session: sid, hash of the secret, position (empty: keep the stored one)
local resume_window = ARGV[1]
local now = redis.call('TIME')[1]
for i = 2, #ARGV, 3 do
  local key = 'gridcast:sid:' .. ARGV[i]
  if redis.call('HGET', key, 'resume') == ARGV[i + 1] then
    -- First, because a full Redis takes it, and then the rest of the script.
    redis.call('EXPIRE', key, resume_window)
    redis.call('HSET', key, 'node', '', 'left', now)
    if ARGV[i + 2] ~= '' then redis.call('HSET', key, 'position', ARGV[i + 2]) end
  end
end
return 1
