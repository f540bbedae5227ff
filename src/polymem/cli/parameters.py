"""Types of command line values."""

from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec


class _Instant(click.ParamType):  # type: ignore[type-arg]  # generic only in newer versions of click
    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is None or found.tzinfo is None:
            self.fail("expected ISO 8601 with an offset, such as 2026-01-31T12:00:00Z", param, ctx)
        return found.astimezone(UTC)


class _JsonObject(click.ParamType):  # type: ignore[type-arg]
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        try:
            found = value if isinstance(value, dict) else msgspec.json.decode(value)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict):
            self.fail('expected a JSON object, such as {"room": "kitchen"}', param, ctx)
        return found


INSTANT: Final = _Instant()
JSON_OBJECT: Final = _JsonObject()
SHARE: Final = click.FloatRange(0, 1)
COUNT: Final = click.IntRange(min=1)
