"""Loads the Lua scripts in `lua/` by which replicas share sessions in Redis. Redis runs each script atomically.

Keys: `gridcast:sequence` is a hash {epoch, number, run, settles, beat}; `gridcast:node:<node>` exists while a replica is alive;
`gridcast:sids` is the sorted set of all sids; `gridcast:sid:<sid>` is the record of a session: a hash {node, resume, previous,
claim, position, since, left, meta, t:<topic>}, where `resume` and `previous` are hashes of secrets; `gridcast:closed:<sid>` marks a
session that an operator has closed. Each file documents its KEYS, its ARGV and its reply.
"""

from gridcast._bus.lua_script import LuaScript


def _load(name: str) -> LuaScript:
    return LuaScript.load("services.socket", name)


REGISTER_NODE = _load("register_node")
HEARTBEAT = _load("heartbeat")
ACQUIRE_SESSIONS = _load("acquire_sessions")
CONFIRM_SECRETS = _load("confirm_secrets")
SET_TOPIC = _load("set_topic")
REFRESH_SESSIONS = _load("refresh_sessions")
RESTORE_SESSIONS = _load("restore_sessions")
MARK_AWAY = _load("mark_away")
DISCARD_SESSIONS = _load("discard_sessions")
DELETE_SESSION = _load("delete_session")
GET_SESSIONS = _load("get_sessions")
PRUNE_SESSIONS = _load("prune_sessions")
READ_HISTORY = _load("read_history")
