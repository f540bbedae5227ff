"""Health and the state of the connection, as every engine tells them (RES-4, MET-4)."""

from polymem.testing.clause import clause
from polymem.testing.kit import Kit


@clause("engine")
async def tells_its_health(kit: Kit) -> None:
    """It answers while it is open, says so of its connection, and a check of a closed store says what is wrong."""
    found = await kit.store.health()
    assert (found.status != "unhealthy", found.engine, found.error) == (True, kit.root.engine.name, None)
    assert found.latency_ms is not None
    assert kit.root.metrics()["connection"]["current_state"] == "connected"
    await kit.root.close()
    closed = await kit.root.health()
    assert (closed.status, closed.latency_ms) == ("unhealthy", None)
    assert closed.error
    assert kit.root.metrics()["connection"]["current_state"] == "disconnected"


@clause("engine")
async def tells_of_its_pool(kit: Kit) -> None:
    """Where there is a pool its figures have the names that monitoring relies on (RES-3)."""
    pool = kit.root.metrics()["connection"]["pool"]
    if pool is not None:
        assert {"size", "used", "waiting"} <= set(pool)
        assert all(type(count) is int and count >= 0 for count in pool.values())
