-- Creates or resumes sessions for connections of one replica.
-- KEYS: gridcast:sequence, gridcast:sids
-- ARGV: node, topics per session at most, seconds that a record lives; then for each session: sid, hash of the presented secret
--       (empty: a new session), hash of the new secret, meta, number of topics, topic...
-- Returns epoch, number, Unix time, and for each session 0 if the presented secret is not valid, 1 for too many topics, or
-- {stored position, meta, claim, topic, its number, ...}. A session's claim counts its acquisitions: of two connections the one with the
-- higher claim holds it.
-- The presented secret stays valid until the client has proved that it holds the new one (confirm_secrets).
local node, max_topics, record_ttl = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local state = redis.call('HMGET', KEYS[1], 'epoch', 'number')
local epoch, number = state[1] or '', state[2] or '0'
local now = redis.call('TIME')[1]
local function acquire(sid, presented, secret, meta, requested_topics)
  local key = 'gridcast:sid:' .. sid
  local topics, count, previous_node, position = {}, 0, '', ''
  if presented ~= '' then
    local record = redis.call('HMGET', key, 'resume', 'previous', 'node', 'position', 'meta')
    if not record[1] or (record[1] ~= presented and record[2] ~= presented) then return 0 end
    previous_node, position = record[3] or '', record[4] or ''
    if meta == '' then meta = record[5] or '' end
    local same_epoch = string.match(position, '^!?(.*)%-') == epoch
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      if string.sub(fields[i], 1, 2) == 't:' then
        topics[string.sub(fields[i], 3)] = same_epoch and fields[i + 1] or number
        count = count + 1
      end
    end
  end
  for i = 1, #requested_topics do
    if not topics[requested_topics[i]] then
      topics[requested_topics[i]] = number
      count = count + 1
    end
  end
  if count > max_topics then return 1 end
  redis.call('HSET', key, 'node', node, 'resume', secret, 'previous', presented, 'since', now, 'meta', meta,
    'position', position ~= '' and position or epoch .. '-' .. number)
  local claim = redis.call('HINCRBY', key, 'claim', 1)
  if presented ~= '' then redis.call('HDEL', key, 'left') end
  local session = {position, meta, claim}
  for topic, since in pairs(topics) do
    redis.call('HSET', key, 't:' .. topic, since)
    session[#session + 1] = topic
    session[#session + 1] = since
  end
  redis.call('EXPIRE', key, record_ttl)
  redis.call('ZADD', KEYS[2], 0, sid)
  if previous_node ~= '' and previous_node ~= node then
    redis.call('PUBLISH', 'gridcast:node:' .. previous_node,
      cjson.encode({type = 'moved', sid = sid, secret = secret, claim = claim}))
  end
  return session
end
local sessions = {}
local i = 4
while i <= #ARGV do
  local requested_topics = {unpack(ARGV, i + 5, i + 4 + ARGV[i + 4])}
  sessions[#sessions + 1] = acquire(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], requested_topics)
  i = i + 5 + #requested_topics
end
return {epoch, number, now, sessions}
