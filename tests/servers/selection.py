"""Which tests of servers run: hooks of pytest, named in `tests/conftest.py`."""

from typing import Any

import pytest

import servers

_reasons: dict[str, str] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "server(name): needs that server; deselected, and the reason said, without it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs a server that this machine cannot have."""
    if not wanted(config):
        return  # and start nothing
    without = [item for item in items if _absent(item)]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, reason in _reasons.items():
        terminalreporter.write_line(f"without {name}: its tests are deselected, since {reason}")


def wanted(config: pytest.Config) -> bool:
    """Whether tests marked `integration` run at all."""
    return "not integration" not in config.option.markexpr


def _absent(item: pytest.Item) -> bool:
    names = [name for mark in item.iter_markers("server") for name in mark.args]
    try:
        found = {name: reason for name in names if (reason := servers.absence(name))}
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from error
    _reasons.update(found)
    return bool(found)
