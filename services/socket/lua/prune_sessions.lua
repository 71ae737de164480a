-- Removes sids whose record has expired from the list of all.
-- KEYS: gridcast:sids
-- ARGV: the sid after which to start (empty: from the start), number of sids to examine
-- Returns the sid after which the next call starts, or an empty string at the end of the list.
local sids = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
for i = 1, #sids do
  if redis.call('EXISTS', 'gridcast:sid:' .. sids[i]) == 0 then redis.call('ZREM', KEYS[1], sids[i]) end
end
return #sids == tonumber(ARGV[2]) and sids[#sids] or ''
