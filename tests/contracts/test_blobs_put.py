"""Nothing is left behind by a put of a blob that fails or is cancelled (BLO-1, G-8)."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from contracts.shelf import CLOCK, Shelf, in_chunks

from polymem.contracts.blobs import Blobs
from polymem.errors import StorageConnectionError, StorageDataError

pytestmark = pytest.mark.anyio


class OwnError(Exception):
    """Raised by a caller's own source."""


async def breaks_off() -> AsyncIterator[bytes]:
    yield b"0123456789"
    raise OwnError


async def test_an_error_of_the_source_passes_untouched_and_leaves_nothing(blobs: Blobs, shelf: Shelf) -> None:
    await blobs.put("k", b"old")
    with pytest.raises(OwnError):
        await blobs.put("k", breaks_off())
    assert await blobs.get("k") == b"old"
    assert shelf.uploads == {}
    assert len(shelf.contents) == 1


@pytest.mark.parametrize("source", [in_chunks(b"0123456789", "text"), io.StringIO("text"), "text", 3, [b"1"]])
async def test_a_source_of_anything_but_bytes_is_refused_and_leaves_nothing(
    blobs: Blobs, shelf: Shelf, source: Any
) -> None:
    with pytest.raises(StorageDataError) as refused:
        await blobs.put("k", source)
    assert refused.value.field == "source"
    assert not shelf.uploads
    assert not shelf.blobs


@pytest.mark.parametrize("where", ["begin", "write_part", "commit"])
async def test_a_failing_driver_leaves_nothing_and_its_error_is_what_is_raised(where: str) -> None:
    async def fail(name: str) -> None:
        if name in (where, "abort"):
            raise StorageConnectionError(name)

    shelf = Shelf(fail)
    with pytest.raises(StorageConnectionError, match=where):
        await Blobs(shelf, CLOCK).put("k", b"0123456789")
    assert shelf.blobs == {}
    assert shelf.calls[-1] == ("begin" if where == "begin" else "abort")


@pytest.mark.parametrize("where", ["begin", "write_part", "commit", "abort"])
async def test_a_put_cancelled_within_a_call_lets_it_finish_then_undoes_it(where: str) -> None:
    """No part may arrive after the abort; a commit that is under way stands."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def stop_there(name: str) -> None:
        if name == where:
            reached.set()
            await go_on.wait()

    shelf = Shelf(stop_there)
    source = breaks_off() if where == "abort" else in_chunks(b"0123456789")
    put = asyncio.create_task(Blobs(shelf, CLOCK).put("k", source))
    await reached.wait()
    put.cancel()
    await asyncio.sleep(0)
    assert not put.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert shelf.uploads == {}
    assert list(shelf.blobs) == (["k"] if where == "commit" else [])
    assert shelf.calls[-1] == ("commit" if where == "commit" else "abort")


async def test_a_put_cancelled_while_it_waits_for_its_source_leaves_nothing(shelf: Shelf, blobs: Blobs) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"0123456789"
        await asyncio.Event().wait()

    put = asyncio.create_task(blobs.put("k", endless()))
    while "write_part" not in shelf.calls:
        await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert not shelf.uploads
    assert not shelf.blobs


async def test_a_call_that_fails_after_the_cancellation_is_still_a_cancellation() -> None:
    reached = asyncio.Event()

    async def fail_late(name: str) -> None:
        if name == "write_part":
            reached.set()
            await asyncio.sleep(0)
            raise StorageConnectionError("late")

    put = asyncio.create_task(Blobs(Shelf(fail_late), CLOCK).put("k", b"0123456789"))
    await reached.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
