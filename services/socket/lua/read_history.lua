-- Reads the events after a number from the histories of several targets.
-- KEYS: gridcast:sequence
-- ARGV: epoch, bytes of events at most, number of the last event to read (empty: the newest); then for each target: kind (sid,
--       topic, all), name (empty for all), number after which to read
-- Returns the number of the last event, and for each target 1 if an event after its number is lost, and its entries: number, ack
-- channel, event.
-- Each entry names its predecessor: one that is newer than the number asked for, but absent, is lost.
-- A target for which there is no room gets no entry at all: a resync must be sent where the gap is.
local max_entries = 1000 -- more than a history has: the push script trims it to about 256
local epoch, bytes_left = ARGV[1], tonumber(ARGV[2])
local last = ARGV[3] ~= '' and ARGV[3] or redis.call('HGET', KEYS[1], 'number') or '0'
local targets = {}
for i = 4, #ARGV, 3 do
  local key = 'gridcast:history:' .. epoch .. ':' .. ARGV[i] .. ':' .. ARGV[i + 1]
  local entries = redis.call('XRANGE', key, '(' .. ARGV[i + 2] .. '-0', '+', 'COUNT', bytes_left < 0 and 1 or max_entries)
  local lost, found = 0, {}
  for j = 1, #entries do
    local fields = entries[j][2] -- previous, its value, reply, its value, event, its value
    local number = string.match(entries[j][1], '^%d+')
    if j == 1 and tonumber(fields[2]) > tonumber(ARGV[i + 2]) then lost = 1 end
    if tonumber(number) > tonumber(last) then break end
    bytes_left = bytes_left - #fields[6]
    if bytes_left < 0 then
      lost, found = 1, {}
      break
    end
    found[j] = {number, fields[4], fields[6]}
  end
  targets[#targets + 1] = {lost, found}
end
return {last, targets}
