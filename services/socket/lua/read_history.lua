-- Reads one page of the events after a number from the histories of several targets, in the order of their numbers.
-- KEYS: gridcast:sequence
-- ARGV: epoch, bytes of events at most, number of the last event to read (empty: the newest); then for each target: kind (sid,
--       topic, all), name (empty for all), number after which to read
-- Returns the number of the last event, the number up to which this page is complete, for each target the predecessor of its next event
-- (0 where it has none), and the events: index of the target, number, ack channel, event.
-- An event names its predecessor: one that is newer than the number asked for, but absent, is lost.
-- There is at least one event in a page, if there is any, whatever its size.
local max_events, max_read_ahead = 128, 64
local epoch, bytes_left = ARGV[1], tonumber(ARGV[2])
local last = tonumber(ARGV[3] ~= '' and ARGV[3] or redis.call('HGET', KEYS[1], 'number') or 0)
-- The entries that are in memory at the same time are bounded over all targets.
local count = math.max(1, math.floor(max_read_ahead / ((#ARGV - 3) / 3)))
local function read(target)
  target.entries = redis.call('XRANGE', target.key, '(' .. target.after .. '-0', '+', 'COUNT', count)
  target.next = 1
end
local function number_of(entry) return tonumber((string.match(entry[1], '^%d+'))) end
local predecessors, waiting = {}, {}
for i = 4, #ARGV, 3 do
  local key = 'gridcast:history:' .. epoch .. ':' .. ARGV[i] .. ':' .. ARGV[i + 1]
  local target = {key = key, index = (i - 4) / 3, after = ARGV[i + 2]}
  read(target)
  local first = target.entries[1]
  predecessors[#predecessors + 1] = first and tonumber(first[2][2]) or 0 -- fields: previous, its value, reply, its value, event, its value
  if first and number_of(first) <= last then waiting[#waiting + 1] = target end
end
local found, complete_to = {}, 0
while #waiting > 0 do
  local lowest, position = nil, nil
  for i = 1, #waiting do
    local number = number_of(waiting[i].entries[waiting[i].next])
    if not lowest or number < lowest then lowest, position = number, i end
  end
  local target = waiting[position]
  local entry = target.entries[target.next]
  bytes_left = bytes_left - #entry[2][6]
  if #found == max_events or (bytes_left < 0 and #found > 0) then break end
  found[#found + 1] = {target.index, lowest, entry[2][4], entry[2][6]}
  complete_to = lowest
  target.after, target.next = string.match(entry[1], '^%d+'), target.next + 1
  if target.next > #target.entries and #target.entries == count then read(target) end
  local following = target.entries[target.next]
  if not following or number_of(following) > last then table.remove(waiting, position) end
end
return {last, #waiting == 0 and last or complete_to, predecessors, found}
