"""The scripts of conversation turns."""

from typing import Final

from polymem.engines.redis._scripts import Script

_TURNS: Final = """
-- a session is a sorted set of members: turn id in 16 digits, expires_at in 8 bytes, the rest of the turn
local function alive(member, now) return struct.unpack('>i8', member, 17) > now end
local function held(key, id) return redis.call('ZRANGEBYLEX', key, '[' .. id, '(' .. id .. '\\255')[1] end
-- whether some turn may have expired: the index knows the first instant at which one does
local function ripe(expiring, session, now)
    local first = redis.call('ZSCORE', expiring, session)
    return first and tonumber(first) <= now
end
-- forget a session that has no turns left
local function settle(key, sessions, expiring, session)
    if redis.call('EXISTS', key) == 0 then
        redis.call('ZREM', sessions, session)
        redis.call('ZREM', expiring, session)
    end
end
local function living(key, now)
    local live = 0
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
        if alive(member, now) then live = live + 1 end
    end
    return live
end
"""

APPEND: Final = Script(
    _TURNS,
    """
-- KEYS turns, sessions, expiring; ARGV now, window ('' for none), whether to replace, session, life of the longest
-- ('' for ever), then for each turn its id ('' for the next) and what follows the id.
-- Answers the ids, or nothing where one is taken.
local key, now, window, session, life = KEYS[1], tonumber(ARGV[1]), ARGV[2], ARGV[4], ARGV[5]
local last = redis.call('ZREVRANGE', key, 0, 0)[1]
local highest = last and string.sub(last, 1, 16) or string.rep('0', 16)
local stored, ids, staged, first = highest, {}, {}, nil
local function after(id)  -- beyond 2^53 a Lua number is not exact, so the halves are counted apart
    local low, high = tonumber(string.sub(id, 9)) + 1, tonumber(string.sub(id, 1, 8))
    if low == 100000000 then low, high = 0, high + 1 end
    return string.format('%08d%08d', high, low)
end
for i = 6, #ARGV, 2 do
    local id, rest = ARGV[i], ARGV[i + 1]
    if id == '' then
        id = after(highest)
    elseif ARGV[3] == '0' then
        local present = staged[id] or held(key, id)
        if present and alive(present, now) then return false end
    end
    staged[id] = id .. rest
    ids[#ids + 1] = id
    if id > highest then highest = id end
    local expires = struct.unpack('>i8', rest, 1)
    if expires < 9e18 and (not first or expires < first) then first = expires end
end
local left = redis.call('PTTL', key)
for id, member in pairs(staged) do
    if id <= stored then
        local old = held(key, id)
        if old then redis.call('ZREM', key, old) end
    end
    redis.call('ZADD', key, 0, member)
end
if window ~= '' then redis.call('ZREMRANGEBYRANK', key, 0, -tonumber(window) - 1) end
if redis.call('EXISTS', key) == 0 then
    settle(key, KEYS[2], KEYS[3], session)
    return ids
end
if life == '' or left == -1 then
    redis.call('PERSIST', key)
elseif left < tonumber(life) then
    redis.call('PEXPIRE', key, life)
else
    redis.call('PEXPIRE', key, left)
end
redis.call('ZADD', KEYS[2], 0, session)
if left == -2 then redis.call('ZREM', KEYS[3], session) end
if first then redis.call('ZADD', KEYS[3], 'LT', string.format('%.0f', first), session) end
return ids
""",
)

LIST: Final = Script(
    _TURNS,
    """
-- KEYS turns, expiring; ARGV now ('' shows the expired too), session, whether the newest come first, the least and the
-- greatest member, limit, offset, until when to keep what is found ('' to leave that as it is), its life.
-- Answers the members.
local key, now, limit, offset = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[6]), tonumber(ARGV[7])
local function some(skip, count)
    if ARGV[3] == '1' then return redis.call('ZREVRANGEBYLEX', key, ARGV[5], ARGV[4], 'LIMIT', skip, count) end
    return redis.call('ZRANGEBYLEX', key, ARGV[4], ARGV[5], 'LIMIT', skip, count)
end
local function some_alive()
    local found, at, skip = {}, 0, offset
    repeat
        local chunk = some(at, 200)
        for _, member in ipairs(chunk) do
            if alive(member, now) then
                if skip > 0 then skip = skip - 1 else found[#found + 1] = member end
                if #found == limit then return found end
            end
        end
        at = at + 200
    until #chunk < 200
    return found
end
local found = now and ripe(KEYS[2], ARGV[2], now) and some_alive() or some(offset, limit)
if ARGV[8] ~= '' and #found > 0 then
    local left = redis.call('PTTL', key)
    for i, member in ipairs(found) do
        redis.call('ZREM', key, member)
        found[i] = string.sub(member, 1, 16) .. ARGV[8] .. string.sub(member, 25)
        redis.call('ZADD', key, 0, found[i])
    end
    if left >= 0 then redis.call('PEXPIRE', key, math.max(left, tonumber(ARGV[9]))) end
end
return found
""",
)

DELETE_TURNS: Final = Script(
    _TURNS,
    """
-- KEYS turns, sessions, expiring; ARGV now, session, turn ids. Answers how many live turns went.
local gone = 0
for i = 3, #ARGV do
    local member = held(KEYS[1], ARGV[i])
    if member then
        if alive(member, tonumber(ARGV[1])) then gone = gone + 1 end
        redis.call('ZREM', KEYS[1], member)
    end
end
settle(KEYS[1], KEYS[2], KEYS[3], ARGV[2])
return gone
""",
)

TOUCH_SESSION: Final = Script(
    _TURNS,
    """
-- KEYS turns, expiring; ARGV now, session, until when its turns live, its life ('' for ever).
-- Answers how many live turns there were.
local key, now, first, live = KEYS[1], tonumber(ARGV[1]), nil, 0
for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    local expires = struct.unpack('>i8', member, 17)
    if expires > now then
        live = live + 1
        expires = struct.unpack('>i8', ARGV[3])
        redis.call('ZREM', key, member)
        redis.call('ZADD', key, 0, string.sub(member, 1, 16) .. ARGV[3] .. string.sub(member, 25))
    end
    if expires < 9e18 and (not first or expires < first) then first = expires end
end
if live == 0 then return 0 end
if ARGV[4] == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[4]) end
redis.call('ZREM', KEYS[2], ARGV[2])
if first then redis.call('ZADD', KEYS[2], string.format('%.0f', first), ARGV[2]) end
return live
""",
)

CLEAR_SESSION: Final = Script(
    _TURNS,
    """
-- KEYS turns, sessions, expiring; ARGV now, session. Answers how many live turns there were.
local gone = living(KEYS[1], tonumber(ARGV[1]))
redis.call('UNLINK', KEYS[1])
settle(KEYS[1], KEYS[2], KEYS[3], ARGV[2])
return gone
""",
)

COUNT_TURNS: Final = Script(
    _TURNS,
    """
-- KEYS expiring; ARGV now ('' counts the expired too), prefix of a session's key, sessions. Answers how many turns.
local total = 0
for i = 3, #ARGV do
    local key = ARGV[2] .. ARGV[i]
    if ARGV[1] == '' or not ripe(KEYS[1], ARGV[i], tonumber(ARGV[1])) then
        total = total + redis.call('ZCARD', key)
    else
        total = total + living(key, tonumber(ARGV[1]))
    end
end
return total
""",
)

LIVE_SESSIONS: Final = Script(
    _TURNS,
    """
-- KEYS sessions, expiring; ARGV now, prefix of a session's key, where to start, how many.
-- Answers the sessions that have a live turn, and the last one looked at (nothing at the end).
local listed = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[3], '+', 'LIMIT', 0, ARGV[4])
local found, now = {}, tonumber(ARGV[1])
for _, session in ipairs(listed) do
    local key = ARGV[2] .. session
    local live = redis.call('EXISTS', key) == 1
    if live and ripe(KEYS[2], session, now) then live = living(key, now) > 0 end
    if live then found[#found + 1] = session end
end
return {found, #listed == tonumber(ARGV[4]) and listed[#listed] or false}
""",
)

SWEEP_TURNS: Final = Script(
    _TURNS,
    """
-- KEYS sessions, expiring; ARGV now, prefix of a session's key, how many at most. Answers how many expired turns went.
local now, gone = tonumber(ARGV[1]), 0
for _, session in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])) do
    local key, first = ARGV[2] .. session, nil
    if redis.call('EXISTS', key) == 0 then gone = gone + 1 end  -- Redis was first
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
        local expires = struct.unpack('>i8', member, 17)
        if expires <= now then
            if gone == tonumber(ARGV[3]) then return gone end
            redis.call('ZREM', key, member)
            gone = gone + 1
        elseif expires < 9e18 and (not first or expires < first) then
            first = expires
        end
    end
    if first then
        redis.call('ZADD', KEYS[2], string.format('%.0f', first), session)
    else
        redis.call('ZREM', KEYS[2], session)
    end
    settle(key, KEYS[1], KEYS[2], session)
end
return gone
""",
)

STORE_SESSION: Final = Script(
    _TURNS,
    """
-- KEYS turns, sessions, expiring; ARGV session, life, first expiry ('' for none), how many members go, those, and
-- the members that come.
local key, goes = KEYS[1], tonumber(ARGV[4])
for i = 5, #ARGV do
    if i < 5 + goes then redis.call('ZREM', key, ARGV[i]) else redis.call('ZADD', key, 0, ARGV[i]) end
end
if redis.call('EXISTS', key) == 0 then
    settle(key, KEYS[2], KEYS[3], ARGV[1])
    return 0
end
if ARGV[2] == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ARGV[2]) end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if ARGV[3] == '' then
    redis.call('ZREM', KEYS[3], ARGV[1])
else
    redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
end
return 1
""",
)
