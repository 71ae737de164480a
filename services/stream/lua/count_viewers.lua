-- Counts the viewers of a live stream over all replicas, and says whether the caller shall publish the number.
-- KEYS: the number that was published last, the turn to publish, then the sets of the last while, the newest first
-- ARGV: seconds for which a set is kept, seconds for which the number is kept, milliseconds of a turn, then hashes of viewers
-- Returns the number of viewers; 1 where the caller has the turn to publish it, because it is another one than the published one; and
-- 1 where it is published then.
local keys = {}
for index = 3, #KEYS do
  keys[#keys + 1] = KEYS[index]
end
for first = 4, #ARGV, 1000 do
  redis.call('PFADD', keys[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
if #ARGV > 3 then
  redis.call('EXPIRE', keys[1], ARGV[1])
end
local viewers = redis.call('PFCOUNT', unpack(keys))
local published = tonumber(redis.call('GET', KEYS[1]) or '0')
if viewers == published then
  if viewers > 0 then
    redis.call('EXPIRE', KEYS[1], ARGV[2])
  end
  return {viewers, 0, 1}
end
if not redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[3]) then
  return {viewers, 0, 0}
end
redis.call('SET', KEYS[1], viewers, 'EX', ARGV[2])
return {viewers, 1, 1}
