"""What must happen in one go on the server: Lua scripts, sent by their digest and in full where it is not known.

Each copy of a large record that Lua makes is felt, so it comes as a value of its own (_staging.py): instead of a record the
script is given the byte 0, expires_at and the key of that value.

Instants are compared as Lua numbers, which hold microseconds exactly until the year 2255. Keys of the namespace that
a script finds in its own index are in the slot of those it is given.
"""

from hashlib import sha1
from typing import Final


class Script:
    """A script and the digest by which a server that has seen it knows it."""

    __slots__ = ("body", "digest")

    def __init__(self, *parts: str) -> None:
        self.body = "\n".join(parts).encode()
        self.digest = sha1(self.body, usedforsecurity=False).hexdigest()


KEPT: Final = 10_000
"""About how many changes the log of a namespace keeps."""
_TELL: Final = f"""
-- The log is there while somebody watches: a stream whose ids are a number of its own and a count, so that a reader
-- can tell whether it has missed something.
local epoch, count
local function tell(op, member)
    if epoch == nil then
        local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
        epoch = false
        if last then epoch, count = string.match(last[1], '(%d+)-(%d+)') end
    end
    if not epoch then return end
    count = count + 1
    local id = epoch .. '-' .. string.format('%.0f', count)
    redis.call('XADD', log, 'MAXLEN', '~', {KEPT}, id, 'op', op, 'key', member)
end
"""

_LOG: Final = "local log = KEYS[3]"
_STORE: Final = """
-- A stored record: created_at (8 bytes), format (1), expires_at (8), updated_at (8), version (8), and what scripts need
-- not know. Clients send what follows created_at: `rest`. No instant but "never" begins with the byte 127.
local now, grace, skip = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) + 1
local function alive(old) return old ~= '' and (string.byte(old, 10) == 127 or struct.unpack('>i8', old, 10) > now) end
-- Store a record under its key, for so many ms or for good. One that waits elsewhere is completed and moved there.
local function keep(key, record, life)
    if string.byte(record, 9) ~= 0 then
        if life then redis.call('SET', key, record, 'PX', life) else redis.call('SET', key, record) end
        return
    end
    redis.call('RENAME', string.sub(record, 18), key)
    redis.call('SETRANGE', key, 0, string.sub(record, 1, 8) .. '\\1' .. string.sub(record, 10, 17))
    if life then redis.call('PEXPIRE', key, life) else redis.call('PERSIST', key) end
end
-- Store a record, '' for none, under a key that held one that began with `old`, '' for none. The life of a key is
-- somewhat longer than its record's. Answers for a removal whether the key was listed.
local function store(keys, expiries, key, record, old)
    local lasting = record ~= '' and string.byte(record, 10) == 127
    if lasting then
        keep(key, record)
        if old ~= '' and string.byte(old, 10) == 127 then return end  -- the indexes have it as it is
    end
    local member, expires = string.sub(key, skip), nil
    if record ~= '' and not lasting then expires = struct.unpack('>i8', record, 10) end
    if record == '' or (expires and expires <= now) then
        redis.call('UNLINK', key)
        redis.call('ZREM', expiries, member)
        return redis.call('ZREM', keys, member)
    end
    if lasting then
        redis.call('ZREM', expiries, member)
    else
        keep(key, record, string.format('%.0f', math.ceil((expires - now) / 1000) + grace))
        redis.call('ZADD', expiries, string.format('%.0f', expires), member)
    end
    if old == '' then redis.call('ZADD', keys, 0, member) end
end
"""

WRITE: Final = Script(
    """
-- KEYS keys, expiries, log, one for each write; ARGV now, grace, length of the prefix, created_at of what is new ('' if the
-- records are whole), then for each write what is to be stored ('' deletes). At the end of KEYS is what waits elsewhere.
-- Answers for each whether a live record was there, or nothing where one that waited is lost: then nothing was done.
local KEYS, ARGV, call, byte, sub = KEYS, ARGV, redis.call, string.byte, string.sub  -- looked up once, which is felt
local fresh, answers, at = ARGV[4], {}, 4
-- Most writes replace a record that never expires by another, and nobody watches: the indexes have it as it is.
if fresh ~= '' and #KEYS < #ARGV and call('EXISTS', KEYS[3]) == 0 then
    for i = 4, #KEYS do
        local old = call('GETRANGE', KEYS[i], 0, 9)
        if byte(old, 10) ~= 127 or byte(ARGV[i + 1], 2) ~= 127 then break end
        call('SET', KEYS[i], sub(old, 1, 8) .. ARGV[i + 1])
        answers[i - 3], at = 1, i + 1
    end
end
if at > #KEYS then return answers end
""",
    _LOG,
    _TELL,
    _STORE,
    """
for i = #ARGV, #KEYS do
    if call('EXISTS', KEYS[i]) == 0 then return false end
end
for i = at, #ARGV - 1 do
    local key, record = KEYS[i], ARGV[i + 1]
    local old = call('GETRANGE', key, 0, 16)
    local live = alive(old)
    if record ~= '' and fresh ~= '' then record = (live and sub(old, 1, 8) or fresh) .. record end
    local listed = store(KEYS[1], KEYS[2], key, record, old)
    if record ~= '' then
        tell('put', sub(key, skip))
    elseif listed == 1 then
        tell(live and 'delete' or 'expire', sub(key, skip))
    end
    answers[i - 3] = live and 1 or 0
end
return answers
""",
)

WRITE_IF: Final = Script(
    _LOG,
    _TELL,
    _STORE,
    """
-- KEYS keys, expiries, log, record, what waits elsewhere if it does; ARGV now, grace, length of the prefix, condition,
-- created_at of a new one, rest. The condition is '-' (absent), '+' (present; its expiry stays) or a version.
-- Answers whether it was written, or nothing where what waited is lost.
local key, waiting, condition, rest = KEYS[4], KEYS[5], ARGV[4], ARGV[6]
local old = redis.call('GETRANGE', key, 0, 32)
local live = alive(old)
local agrees = live and (condition == '+' or condition == string.sub(old, 26, 33))
if condition == '-' then agrees = not live end
if not agrees then
    if waiting then redis.call('UNLINK', waiting) end
    return 0
end
if waiting and redis.call('EXISTS', waiting) == 0 then return false end
if condition == '+' then rest = string.sub(rest, 1, 1) .. string.sub(old, 10, 17) .. string.sub(rest, 10) end
store(KEYS[1], KEYS[2], key, (live and string.sub(old, 1, 8) or ARGV[5]) .. rest, old)
tell('put', string.sub(key, skip))
return 1
""",
)

INCREMENT: Final = Script(
    _LOG,
    _TELL,
    _STORE,
    """
-- KEYS keys, expiries, log, record, scratch; ARGV now, grace, length of the prefix, delta, a new record without its body.
-- Lua has no 64-bit integers, so Redis adds: in the scratch key. Answers the sum as text, or in a list
-- why there is none.
local key, head, sum = KEYS[4], ARGV[5], ARGV[4]
local old = redis.call('GET', key) or ''
if alive(old) then
    if string.sub(old, 34, 39) ~= string.sub(head, 34) then return {'not an integer'} end
    redis.call('SET', KEYS[5], string.sub(old, 40))
    local added = redis.pcall('INCRBY', KEYS[5], ARGV[4])
    sum = redis.call('GET', KEYS[5])
    redis.call('UNLINK', KEYS[5])
    if type(added) == 'table' and added.err then
        return {string.find(added.err, 'overflow') and 'overflow' or 'not an integer'}
    end
    redis.call('SET', key, string.sub(old, 1, 17) .. string.sub(head, 18) .. sum, 'KEEPTTL')
else
    store(KEYS[1], KEYS[2], key, head .. sum, old)
end
tell('put', string.sub(key, skip))
return sum
""",
)

TOUCH: Final = Script(
    _LOG,
    _TELL,
    _STORE,
    """
-- KEYS keys, expiries, log, record; ARGV now, grace, length of the prefix, expires_at. Answers whether a live record was
-- there.
local old = redis.call('GETRANGE', KEYS[4], 0, 16)
if not alive(old) then return 0 end
local member, expires = string.sub(KEYS[4], skip), struct.unpack('>i8', ARGV[4])
tell('put', member)
if expires <= now then
    store(KEYS[1], KEYS[2], KEYS[4], '', old)
    tell('expire', member)
    return 1
end
redis.call('SETRANGE', KEYS[4], 9, ARGV[4])
if string.byte(ARGV[4]) == 127 then
    redis.call('PERSIST', KEYS[4])
    redis.call('ZREM', KEYS[2], member)
else
    redis.call('PEXPIRE', KEYS[4], string.format('%.0f', math.ceil((expires - now) / 1000) + grace))
    redis.call('ZADD', KEYS[2], string.format('%.0f', expires), member)
end
return 1
""",
)

COUNT: Final = Script(
    """
-- KEYS keys, expiries; ARGV now, prefix. Answers how many live keys start with it.
local prefix = ARGV[2]
local found = redis.call('ZLEXCOUNT', KEYS[1], '[' .. prefix, prefix == '' and '+' or '(' .. prefix .. '\\255')
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])) do
    if string.sub(member, 1, #prefix) == prefix then found = found - 1 end
end
return found
""",
)

CLEAR: Final = Script(
    _LOG,
    _TELL,
    """
-- KEYS keys, expiries, log; ARGV now, the prefix, how many at most, how many went before.
-- Answers how many were live and how many are left.
local members = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
local live = #members
for _, member in ipairs(members) do
    local expires = redis.call('ZSCORE', KEYS[2], member)
    if expires and tonumber(expires) <= tonumber(ARGV[1]) then live = live - 1 end
    redis.call('UNLINK', ARGV[2] .. member)
    redis.call('ZREM', KEYS[1], member)
    redis.call('ZREM', KEYS[2], member)
end
local left = redis.call('ZCARD', KEYS[1])
if left == 0 and #members + tonumber(ARGV[4]) > 0 then tell('clear', '') end
return {live, left}
""",
)

SWEEP: Final = Script(
    _LOG,
    _TELL,
    """
-- KEYS keys, expiries, log; ARGV now, the prefix, how many at most. Answers how many expired records went.
local members = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, member in ipairs(members) do
    redis.call('UNLINK', ARGV[2] .. member)
    redis.call('ZREM', KEYS[1], member)
    redis.call('ZREM', KEYS[2], member)
    tell('expire', member)
end
return #members
""",
)

NOTE: Final = Script(
    "local log = KEYS[1]",
    _TELL,
    """
-- KEYS log; ARGV for each change what happened and the key.
for i = 1, #ARGV, 2 do tell(ARGV[i], ARGV[i + 1]) end
return 0
""",
)

WATCH: Final = Script(
    """
-- KEYS log; ARGV a number for a new log, how long to keep it without readers, in ms. Answers the last id.
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('XADD', KEYS[1], ARGV[1] .. '-1', 'op', 'begin', 'key', '') end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
""",
)

READ_LOG: Final = Script(
    """
-- KEYS log; ARGV number and count of a position, how many at most, how long to keep the log. Answers the entries, or
-- nothing where the position is lost.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then return false end
local epoch, least = string.match(first[1], '(%d+)-(%d+)')
local greatest = string.match(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1], '-(%d+)')
local at = tonumber(ARGV[2])
if epoch ~= ARGV[1] or at < tonumber(least) - 1 or at > tonumber(greatest) then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return redis.call('XRANGE', KEYS[1], '(' .. epoch .. '-' .. ARGV[2], '+', 'COUNT', ARGV[3])
""",
)

LEASE: Final = Script(
    """
-- KEYS lease; ARGV holder, now, until when, its life in ms. Answers whether it is the holder's now.
local held = redis.call('GET', KEYS[1])
if held then
    local holder, expires = string.match(held, '(.*) ([%d-]+)')
    if holder ~= ARGV[1] and tonumber(expires) > tonumber(ARGV[2]) then return 0 end
end
if tonumber(ARGV[3]) <= tonumber(ARGV[2]) then
    redis.call('UNLINK', KEYS[1])
else
    redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[3], 'PX', ARGV[4])
end
return 1
""",
)
