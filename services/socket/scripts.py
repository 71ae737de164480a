"""The Lua by which replicas share their sids. Each script is one step that no other client of Redis can come between.

Keys: `gridcast:sequence` {epoch, number, run, settles}; `gridcast:node:<node>` while a replica lives; `gridcast:sids`, the
sorted set of all; `gridcast:sid:<sid>` {node, resume, previous, position, since, left, meta, t:<topic>}; `gridcast:closed:<sid>`.
A record lives ONLINE seconds past its last refresh or, once its socket is gone, AWAY seconds: that is the resume window.
"""

from gridcast._bus.lua_script import LuaScript

NODE_TTL_SECONDS = 15
"""A replica that has not renewed its key for so long is dead; P11 wants its sids gone within 20 s."""
RESUME_WINDOW_SECONDS = 120
"""The resume window. Histories live twice as long: a loss that is noticed only after two missed pings (40 s) is covered."""
ONLINE_TTL_SECONDS = 150
CLOSED_MARK_TTL_SECONDS = 600
"""How long it is known of a sid that it was closed: longer than a replica is cut off from Redis without being restarted."""
REFRESH_INTERVAL_SECONDS = 30
"""Every record is refreshed so often, so that a killed replica's sids keep at least AWAY_SECONDS."""

# What adopt and beat have in common with the push script: who finds no epoch makes one.
REGISTER_NODE = LuaScript(f"""\
-- A replica has (again) a connection to Redis. KEYS: sequence, node. ARGV: run id of the server.
-- Another run id than the noted one is another memory (a restart from a snapshot, a failover): numbers may come twice.
-- A first start looks the same as a memory that was lost: who finds it cannot know whom others hold, so they have time to say so.
-- Returns epoch, number and time.
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'run', 'number')
local epoch = state[1]
if not epoch or (state[2] and state[2] ~= ARGV[1]) then
  epoch = string.format('%x%05x', time[1], time[2])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'settles', time[1] + 5)
end
redis.call('HSETNX', KEYS[1], 'number', 0)
redis.call('HSET', KEYS[1], 'run', ARGV[1])
redis.call('SET', KEYS[2], time[1], 'EX', {NODE_TTL_SECONDS})
return {{epoch, redis.call('HGET', KEYS[1], 'number'), time[1]}}
""")

HEARTBEAT = LuaScript(f"""\
-- A replica lives. KEYS: sequence, node. Returns epoch, number and time, and 0 where the replica was taken for dead meanwhile.
local known = redis.call('EXISTS', KEYS[2])
local now = redis.call('TIME')[1]
redis.call('SET', KEYS[2], now, 'EX', {NODE_TTL_SECONDS})
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
return {{state[1] or '', state[2] or '0', now, known}}
""")

ACQUIRE_SESSIONS = LuaScript(f"""\
-- Sockets take sids. KEYS: sequence, sids.
-- ARGV: node, most topics; then for each claim: sid, presented secret (empty: a new sid), new secret, meta, topics, topic...
-- Returns epoch, number, time, and for each claim 0 where the secret opens nothing, 1 for too many topics, or
-- {{noted position, meta, topic, its number, ...}}.
-- The presented secret stays good until the client has proved that it has the new one (CONFIRM).
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
local epoch, number = state[1] or '', state[2] or '0'
local now = redis.call('TIME')[1]
local function claim(sid, presented, secret, meta, wanted)
  local key = 'gridcast:sid:' .. sid
  local topics, count, before, noted = {{}}, 0, '', ''
  if presented ~= '' then
    local record = redis.call('HMGET', key, 'resume', 'previous', 'node', 'position', 'meta')
    if not record[1] or (record[1] ~= presented and record[2] ~= presented) then return 0 end
    before, noted = record[3] or '', record[4] or ''
    if meta == '' then meta = record[5] or '' end
    local same = string.match(noted, '^!?(.*)%-') == epoch
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 2) == 't:' then
        topics[string.sub(fields[i], 3)] = same and fields[i + 1] or number
        count = count + 1
      end
    end
  end
  for i = 1, #wanted do
    if not topics[wanted[i]] then
      topics[wanted[i]] = number
      count = count + 1
    end
  end
  if count > tonumber(ARGV[2]) then return 1 end
  redis.call('HSET', key, 'node', ARGV[1], 'resume', secret, 'previous', presented, 'since', now, 'meta', meta,
    'position', noted ~= '' and noted or epoch .. '-' .. number)
  if presented ~= '' then redis.call('HDEL', key, 'left') end
  local answer = {{noted, meta}}
  for topic, since in pairs(topics) do
    redis.call('HSET', key, 't:' .. topic, since)
    answer[#answer + 1] = topic
    answer[#answer + 1] = since
  end
  redis.call('EXPIRE', key, {ONLINE_TTL_SECONDS})
  redis.call('ZADD', KEYS[2], 0, sid)
  if before ~= '' and before ~= ARGV[1] then
    redis.call('PUBLISH', 'gridcast:node:' .. before, cjson.encode({{type = 'moved', sid = sid, secret = secret}}))
  end
  return answer
end
local answers = {{}}
local i = 3
while i <= #ARGV do
  local wanted = {{unpack(ARGV, i + 5, i + 4 + ARGV[i + 4])}}
  answers[#answers + 1] = claim(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], wanted)
  i = i + 5 + #wanted
end
return {{epoch, number, now, answers}}
""")

CONFIRM_SECRETS = LuaScript("""\
-- Clients have their new secrets: those before open nothing any more. ARGV: sid, secret for each.
for i = 1, #ARGV, 2 do
  local key = 'gridcast:sid:' .. ARGV[i]
  if redis.call('HGET', key, 'resume') == ARGV[i + 1] then redis.call('HDEL', key, 'previous') end
end
return 1
""")

SET_TOPIC = LuaScript("""\
-- KEYS: sequence, record. ARGV: secret, topic, 1 to join or 0 to part. Returns epoch and number.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
if redis.call('HGET', KEYS[2], 'resume') == ARGV[1] then
  if ARGV[3] == '1' then
    redis.call('HSET', KEYS[2], 't:' .. ARGV[2], state[2] or '0')
  else
    redis.call('HDEL', KEYS[2], 't:' .. ARGV[2])
  end
end
return {state[1] or '', state[2] or '0'}
""")

REFRESH_SESSIONS = LuaScript(f"""\
-- These sids are still here. ARGV: node, then sid, secret, position for each.
-- Returns the sids that have no record, and those that have gone to another connection.
local missing, moved = {{}}, {{}}
for i = 2, #ARGV, 3 do
  local key = 'gridcast:sid:' .. ARGV[i]
  local resume = redis.call('HGET', key, 'resume')
  if not resume then
    missing[#missing + 1] = ARGV[i]
  elseif resume ~= ARGV[i + 1] then
    moved[#moved + 1] = ARGV[i]
  else
    redis.call('HSET', key, 'node', ARGV[1], 'position', ARGV[i + 2])
    redis.call('EXPIRE', key, {ONLINE_TTL_SECONDS})
  end
end
return {{missing, moved}}
""")

RESTORE_SESSIONS = LuaScript(f"""\
-- Redis has forgotten these sids. KEYS: sids.
-- ARGV: node, then for each a JSON object {{sid, resume, position, since, meta, topics}}.
-- Returns those that were not forgotten but closed.
local closed = {{}}
for i = 2, #ARGV do
  local peer = cjson.decode(ARGV[i])
  local key = 'gridcast:sid:' .. peer.sid
  if redis.call('EXISTS', 'gridcast:closed:' .. peer.sid) == 1 then
    closed[#closed + 1] = peer.sid
  elseif redis.call('EXISTS', key) == 0 then
    redis.call('HSET', key, 'node', ARGV[1], 'resume', peer.resume, 'position', peer.position, 'since', peer.since)
    if peer.meta ~= '' then redis.call('HSET', key, 'meta', peer.meta) end
    for topic, since in pairs(peer.topics) do redis.call('HSET', key, 't:' .. topic, since) end
    redis.call('EXPIRE', key, {ONLINE_TTL_SECONDS})
    redis.call('ZADD', KEYS[1], 0, peer.sid)
  end
end
return closed
""")

MARK_AWAY = LuaScript(f"""\
-- These connections are gone; their sids are away. ARGV: sid, secret, position (empty: as it is) for each.
local now = redis.call('TIME')[1]
for i = 1, #ARGV, 3 do
  local key = 'gridcast:sid:' .. ARGV[i]
  if redis.call('HGET', key, 'resume') == ARGV[i + 1] then
    redis.call('HSET', key, 'node', '', 'left', now)
    if ARGV[i + 2] ~= '' then redis.call('HSET', key, 'position', ARGV[i + 2]) end
    redis.call('EXPIRE', key, {RESUME_WINDOW_SECONDS})
  end
end
return 1
""")

DELETE_SESSION = LuaScript(f"""\
-- Close a socket for good. KEYS: sequence, record, sids. ARGV: sid. Returns 0 where there is no such sid.
-- A replica that does not hear of it now would take the sid for one that Redis has forgotten: a mark tells it, for as long as it
-- may hold on to the record.
local node = redis.call('HGET', KEYS[2], 'node')
if not node then return 0 end
redis.call('DEL', KEYS[2])
redis.call('SET', 'gridcast:closed:' .. ARGV[1], 1, 'EX', {CLOSED_MARK_TTL_SECONDS})
redis.call('ZREM', KEYS[3], ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if epoch then redis.call('DEL', 'gridcast:history:' .. epoch .. ':sid:' .. ARGV[1]) end
if node ~= '' then redis.call('PUBLISH', 'gridcast:node:' .. node, cjson.encode({{type = 'close', sid = ARGV[1]}})) end
return 1
""")

GET_SESSIONS = LuaScript("""\
-- The records of these sids. KEYS: sids. ARGV: sid... Returns for each its fields, and whether its replica lives.
local answer = {}
for i = 1, #ARGV do
  local fields = redis.call('HGETALL', 'gridcast:sid:' .. ARGV[i])
  if #fields == 0 then
    redis.call('ZREM', KEYS[1], ARGV[i])
  else
    local node = redis.call('HGET', 'gridcast:sid:' .. ARGV[i], 'node')
    local lives = node ~= '' and redis.call('EXISTS', 'gridcast:node:' .. node) or 0
    answer[#answer + 1] = {ARGV[i], lives, fields}
  end
end
return answer
""")

PRUNE_SESSIONS = LuaScript("""\
-- Take sids whose record has ended from the list. KEYS: sids. ARGV: after, most.
-- Returns the sid at which the next sweep goes on, or nothing where this was the end of the list.
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
for i = 1, #names do
  if redis.call('EXISTS', 'gridcast:sid:' .. names[i]) == 0 then redis.call('ZREM', KEYS[1], names[i]) end
end
return #names == tonumber(ARGV[2]) and names[#names] or ''
""")

READ_HISTORY = LuaScript("""\
-- What came after a number. KEYS: sequence. ARGV: epoch, most bytes, the number up to which is asked (empty: all there is now),
-- then kind, name, number for each target.
-- Returns that number, and for each target 1 where something after its number is lost, and its entries: number, reply, event.
-- The first entry after the number tells: had there been another between, it would be named as the previous one.
-- Of a target for which there is no room nothing is given: the gap shall stand where it is told of.
local answer = {}
local room = tonumber(ARGV[2])
local last = ARGV[3] ~= '' and ARGV[3] or redis.call('HGET', KEYS[1], 'number') or '0'
for i = 4, #ARGV, 3 do
  local key = 'gridcast:history:' .. ARGV[1] .. ':' .. ARGV[i] .. ':' .. ARGV[i + 1]
  local entries = redis.call('XRANGE', key, '(' .. ARGV[i + 2] .. '-0', '+', 'COUNT', room < 0 and 1 or 1000)
  local lost, found = 0, {}
  for j = 1, #entries do
    local fields = entries[j][2]
    local number = string.match(entries[j][1], '^%d+')
    if j == 1 and tonumber(fields[2]) > tonumber(ARGV[i + 2]) then lost = 1 end
    if tonumber(number) > tonumber(last) then break end
    room = room - #fields[6]
    if room < 0 then
      lost, found = 1, {}
      break
    end
    found[j] = {number, fields[4], fields[6]}
  end
  answer[#answer + 1] = {lost, found}
end
return {last, answer}
""")
