"""The `polymem` command. Each command is loaded when it is used, so that `polymem --help` is quick."""

import errno
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

import polymem
from polymem.cli.invocation import Failure, Invocation, shared_options
from polymem.errors import PolymemError, StorageConnectionError

COMMANDS: Final = {
    "init": ("polymem.cli.setup:init", "Write a polymem.toml to start from."),
    "config": ("polymem.cli.setup:config", "Show every setting, masked, and where it comes from."),
    "ingest": ("polymem.cli.ingest:ingest", "Read recorded conversations into memory."),
    "load": ("polymem.cli.bulk:load", "Put the key-value records of a file."),
    "export": ("polymem.cli.bulk:export", "Write key-value records to a file."),
    "remember": ("polymem.cli.memories:remember", "Keep a fact, a preference, an event ..."),
    "recall": (
        "polymem.cli.memories:recall",
        "Find what answers a question, with the reason for each score.",
    ),
    "context": ("polymem.cli.memories:context", "Print the prompt block of a session."),
    "forget": ("polymem.cli.memories:forget", "Erase everything about a subject or said by them."),
    "stats": ("polymem.cli.memories:stats", "Show how much is remembered."),
    "sweep": ("polymem.cli.memories:sweep", "Remove what has expired."),
    "doctor": ("polymem.cli.doctor:doctor", "Check versions, engines, capabilities and integrity."),
    "db": ("polymem.cli.db:db", "Print the privileges that a role of the database needs."),
    "conformance": ("polymem.cli.conformance:conformance", "Run the conformance suite against an engine."),
    "bench": ("polymem.cli.bench:bench", "Measure recall quality and key-value speed."),
}
_EPILOG: Final = """\b
Exit codes: 0 done, 1 the operation failed, 2 wrong usage.
Settings: polymem.toml, then .env, then POLYMEM_* variables, then options; see `polymem config`.
Completion: eval "$(_POLYMEM_COMPLETE=bash_source polymem)"   (or zsh_source, fish_source)
"""


class LazyGroup(click.Group):
    """Commands by name as "module:attribute" and the line that `--help` shows of each."""

    def __init__(self, *args: Any, commands_in: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._where = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls it
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self._where:
            return None
        module, _, name = self._where[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._where.items()])


class _Main(LazyGroup):
    """Turns errors into one line on standard error and exit code 1; `--debug` shows the traceback instead."""

    def invoke(self, ctx: click.Context) -> Any:
        invocation = ctx.ensure_object(Invocation)  # made here, so that the command shares it
        try:
            return super().invoke(ctx)
        except Exception as error:
            if invocation.debug or _is_clicks_own(error):
                raise
            raise Failure(_line(error, invocation.engine)) from error


def _is_clicks_own(error: Exception) -> bool:
    own = (click.exceptions.Exit, click.ClickException, click.Abort)
    return isinstance(error, own) or (isinstance(error, OSError) and error.errno == errno.EPIPE)


def _line(error: Exception, engine: str) -> str:
    if isinstance(error, PolymemError):
        field = getattr(error, "field", None)
        text = str(error)
        if isinstance(error, StorageConnectionError) and engine:
            return f"{engine}: {text}"
        return f"{field}: {text}" if field and field not in text else text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ImportError):  # names what is missing, and nothing that is stored
        return str(error)
    return f"unexpected {type(error).__name__}; --debug shows where"


@click.command(cls=_Main, commands_in=COMMANDS, epilog=_EPILOG, params=shared_options())
@click.version_option(polymem.__version__, prog_name="polymem")
def main() -> None:
    """Memory and storage for AI agents, from one file to a cluster of databases."""
