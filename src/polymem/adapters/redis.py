"""The newest turns of sessions in Redis (ADP-2, RD-1)."""

from polymem.adapters._engine import TurnAdapter
from polymem.adapters._settings import Declaration


class RedisAdapter(TurnAdapter):
    """`config`: `url` (`redis://`, `redis+cluster://`, `redis+sentinel://`, `rediss...`), or `host` (localhost), `port`
    (6379), `db` (0), `password`; `socket_timeout` (5 s), `window_size` (10: how many turns a session keeps; 0 keeps
    none), `ttl_seconds` (86400), `refresh_ttl_on_read` (False), `tenant` ("default"); and the options of the engine.

    A search is about one session and finds as many turns as the window holds unless told otherwise.
    """

    declared = Declaration(
        ("redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"),
        url="redis://",
        options=("host", "port"),
        defaults={"window_size": 10, "ttl_seconds": 86_400},
        renamed={"window_size": "turn_window", "ttl_seconds": "turn_ttl"},
        one_session=True,
    )
