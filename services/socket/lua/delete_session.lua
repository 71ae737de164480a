-- Deletes a session for good, and asks its replica to close the connection.
-- KEYS: gridcast:sequence, gridcast:sid:<sid>, gridcast:sids
-- ARGV: sid, seconds that the mark of a closed session lives
-- Returns 0 if there is no such session.
-- A replica that misses the message now would take the record for one that Redis has lost, and restore it. The mark prevents that
-- for as long as a replica may hold on to the session.
local sid, closed_mark_ttl = ARGV[1], ARGV[2]
local node = redis.call('HGET', KEYS[2], 'node')
if not node then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', 'gridcast:closed:' .. sid, 1, 'EX', closed_mark_ttl)
redis.call('ZREM', KEYS[3], sid)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch then redis.call('DEL', 'gridcast:history:' .. epoch .. ':sid:' .. sid) end
if node ~= '' then redis.call('PUBLISH', 'gridcast:node:' .. node, cjson.encode({type = 'close', sid = sid})) end
return 1
