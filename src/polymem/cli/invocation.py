"""What every command has: the options --url, --tenant, --config, --json and --debug, before or after its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import click


@dataclass(slots=True)
class Invocation:
    """The shared options of this run, None where not given, and what became of them."""

    url: str | None = None
    tenant: str | None = None
    config: Path | None = None
    json: bool = False
    debug: bool = False
    engine: str = ""
    """The URL that the configuration came to, masked; empty until it was read."""


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


class Command(click.Command):
    """A command that takes the shared options too, since people type them last."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(shared_options())


class Failure(click.ClickException):
    """The operation failed: one line on standard error, exit code 1."""

    exit_code = 1

    def show(self, file: TextIO | None = None) -> None:  # type: ignore[override]
        click.echo(f"polymem: {' '.join(self.message.split())}", file=file, err=True)


def shared_options() -> list[click.Parameter]:
    """Fresh ones each time; their values go to the `Invocation`, not to the command's arguments."""
    return [
        _option("--url", help="The engine, such as sqlite:///agent.db; wins over the configuration."),
        _option("--tenant", help="Whose memories; wins over the configuration."),
        _option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            help="The file instead of ./polymem.toml.",
        ),
        _option("--json", is_flag=True, default=None, help="Print JSON."),
        _option("--debug", is_flag=True, default=None, help="Show tracebacks, which may quote stored values."),
    ]


def _option(name: str, **attributes: Any) -> click.Option:
    return click.Option([name], expose_value=False, callback=_keep, **attributes)


def _keep(ctx: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None and parameter.name is not None:
        setattr(ctx.ensure_object(Invocation), parameter.name, value)
