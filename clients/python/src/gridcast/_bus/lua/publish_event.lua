-- Publishes one event. KEYS[1]: gridcast:sequence
-- ARGV: kind (sid, topic, all), name (empty for all), event (a JSON object without `sequence`), source, id,
--       last (empty, or a key: the event is not stored, and the next one with that key may replace it),
--       reply (empty, or a channel on which the client's ack is published)
-- Returns {status, sequence, 1 if this id was published before, else 0}, or {'invalid', reason, 0}.
local kind, name, event, source, id, last, reply = unpack(ARGV)
if kind ~= 'sid' and kind ~= 'topic' and kind ~= 'all' then return {'invalid', 'unknown kind', 0} end
if string.find(name .. source .. id .. last .. reply, '%c') then return {'invalid', 'control character in an argument', 0} end
if string.sub(event, 1, 1) ~= '{' or #event > 65536 then return {'invalid', 'not a JSON object of at most 64 KiB', 0} end
local time = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'epoch', 'settles', 'beat')
local epoch = state[1]
if not epoch then
  epoch = string.format('%x%05x', time[1], time[2])
  state[2] = tostring(time[1] + 5)
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'number', 0, 'settles', state[2])
end
local channel, status = 'gridcast:all', 'sent'
if kind == 'topic' then
  channel = 'gridcast:topic:' .. name
elseif kind == 'sid' then
  local node = redis.call('HGET', 'gridcast:sid:' .. name, 'node')
  if not node then
    -- Only a Redis that takes writes can say `unknown`: this write fails otherwise. After 15 s without a heartbeat of any replica
    -- sessions may have expired, and the replicas get 5 s, once, to restore them.
    local now, settles, beat = tonumber(time[1]), tonumber(state[2] or 0), tonumber(state[3] or time[1])
    if now - beat > 15 and settles < beat + 15 then settles = now + 5 end
    redis.call('HSET', KEYS[1], 'settles', settles)
    return {settles > now and 'settling' or 'unknown', '', 0}
  end
  channel = node ~= '' and 'gridcast:node:' .. node
  if not channel or redis.call('EXISTS', channel) == 0 then status = last == '' and 'queued' or 'dropped' end
end
local dedup_key = 'gridcast:once:' .. kind .. ':' .. name .. ' ' .. source .. ' ' .. id
if last == '' then
  local first = redis.call('GET', dedup_key)
  if first then return {status, first, 1} end
end
local number = redis.call('HINCRBY', KEYS[1], 'number', 1)
local sequence = epoch .. '-' .. number
if last == '' then
  local history = 'gridcast:history:' .. epoch .. ':' .. kind .. ':' .. name
  local latest = redis.call('XREVRANGE', history, '+', '-', 'COUNT', 1)[1]
  local previous = latest and string.match(latest[1], '^%d+') or '0'
  redis.call('XADD', history, 'MAXLEN', '~', 256, number .. '-0', 'previous', previous, 'reply', reply, 'event', event)
  redis.call('EXPIRE', history, 240)
  redis.call('SET', dedup_key, sequence, 'EX', 240)
end
if channel then
  local head = table.concat({sequence, kind, name, last, reply}, '\t')
  local receivers = redis.call('PUBLISH', channel, head .. '\n' .. event)
  if kind == 'sid' and receivers == 0 then status = last == '' and 'queued' or 'dropped' end
end
return {status, sequence, 0}
