"""LOG-1: what is logged, where, and what never is."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

import polymem
from polymem.errors import StorageConflictError, StorageDataError
from polymem.logs import FIELDS, configure_logging

SECRET = "hunter2-very-secret"


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    logger = logging.getLogger("polymem")
    before, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_the_fields_that_are_known() -> None:
    stream = io.StringIO()
    configure_logging(json=True, stream=stream)
    fields = dict.fromkeys(FIELDS, "x") | {"duration_ms": 1.5, "attempt": 2}
    logging.getLogger("polymem.calls").info("put %s", "done", extra=fields)
    logging.getLogger("polymem").warning("bare")
    first, second = lines(stream)
    assert {name: first[name] for name in FIELDS} == fields
    assert (first["level"], first["logger"], first["message"]) == ("INFO", "polymem.calls", "put done")
    assert datetime.fromisoformat(first["at"]).utcoffset() == timedelta(0)  # G-5
    assert set(second) == {"at", "level", "logger", "message"}


def test_text_is_one_line_with_the_fields() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("polymem.store").error("two\nlines", extra={"engine": "sqlite", "attempt": 3})
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(r"ERROR polymem.store: two\nlines engine=sqlite attempt=3")
    assert datetime.fromisoformat(line.split()[0]).utcoffset() == timedelta(0)


@pytest.mark.parametrize("as_json", [False, True])
def test_tracebacks_are_not_written(as_json: bool) -> None:
    """A driver's exception may quote a value."""
    stream = io.StringIO()
    configure_logging(json=as_json, stream=stream)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("polymem").exception("failed")
    assert SECRET not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_levels() -> None:
    stream = io.StringIO()
    configure_logging("warning", stream=stream)
    logging.getLogger("polymem").info("quiet")
    assert stream.getvalue() == ""
    for bad in ("LOUD", "", 20):
        with pytest.raises(StorageDataError) as caught:
            configure_logging(bad)  # type: ignore[arg-type]
        assert caught.value.field == "level"


def test_calling_again_replaces_its_own_handler_and_no_other() -> None:
    logger, foreign = logging.getLogger("polymem"), logging.NullHandler()
    logger.addHandler(foreign)
    before = len(logger.handlers)
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    handler = configure_logging(stream=second)
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert foreign in logger.handlers
    assert handler in logger.handlers
    assert len(logger.handlers) == before + 1


def test_real_calls_at_debug_name_what_happened_and_no_value() -> None:
    stream = io.StringIO()
    configure_logging("DEBUG", json=True, stream=stream)

    async def work() -> None:
        async with polymem.open("memory:") as store:
            await store.kv.put(SECRET, {"password": SECRET})
            with pytest.raises(StorageConflictError):
                await store.kv.create(SECRET, SECRET)
            with pytest.raises(StorageDataError):
                await store.kv.increment(SECRET)

    asyncio.run(work())
    assert SECRET not in stream.getvalue()
    records = lines(stream)
    by_operation = {record.get("operation"): record for record in records}
    put, failed = by_operation["kv.put"], by_operation["kv.increment"]
    assert put["engine"] == "memory"
    assert put["outcome"] == "applied"
    assert put["duration_ms"] >= 0
    assert (failed["level"], failed["error_type"], failed["attempt"]) == ("ERROR", "StorageDataError", 1)
    assert {"connect", "disconnect"} <= by_operation.keys()


def test_the_module_needs_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import polymem.logs\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names) - {'polymem'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
