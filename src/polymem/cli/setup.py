"""`init` and `config`: writing settings down and showing them."""

from pathlib import Path
from typing import Final

import click

from polymem.cli import output
from polymem.cli.connection import configuration
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.config.loading import FILE_NAME
from polymem.core.registry import scheme_of
from polymem.core.text import check_key
from polymem.errors import StorageConflictError

_TEMPLATE: Final = """\
# Settings of Polymem. Later wins: this file, .env (command line only), POLYMEM_* variables, arguments.
# `polymem config` shows the result and where each value comes from.

engine = "local"                # serves everything that no line below gives to another engine

[engines.local]
url = {url}
# durability = "full"           # sqlite: full: every write is synced; normal: faster, a power cut may take the last ones
# cache_mb = 16                 # sqlite: page cache of each connection
# sweep_every = 60.0            # seconds between removals of expired records, 0 for never
# retry_writes = true           # repeat an idempotent write whose outcome is unknown

# cache = 10000                 # records kept in this process; or a table: kind, max_entries, max_bytes, mode, ...
# compression = true            # of large values, by zstd; or a table: level, threshold

# [engines.local.encryption]    # keys are never written here: env:NAME or file:PATH, 32 bytes as hexadecimal or base64
# current = "2026-11"
# keys = {{ 2026-11 = "env:AGENT_KEY" }}

# [contracts]                   # which engine serves kv, turns, vectors, text, graph, blobs, sql, transactions
# [tiers]                       # ... active, working, episodic, semantic, archival
# [stores]                      # ... config, memory, audit, profile, session, document, ...

[memory]
tenant = {tenant}
language = "english"            # of the words searched
embed = "static"                # the offline model of polymem[embeddings]; none: words alone

# [logging]
# level = "INFO"                # DEBUG INFO WARNING ERROR, to standard error
# json = false
"""


@click.command(cls=Command)
@click.option("--force", is_flag=True, help="Overwrite the file if there is one.")
@pass_invocation
def init(invocation: Invocation, force: bool) -> None:
    """Write a polymem.toml to start from.

    --url and --tenant go into it, --config says where it is written.
    """
    path = invocation.config or Path(FILE_NAME)
    url, tenant = (
        invocation.url or "sqlite:///agent.db",
        check_key(invocation.tenant or "default", field="tenant"),
    )
    scheme_of(url)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(_TEMPLATE.format(url=_quoted(url), tenant=_quoted(tenant)))
    except FileExistsError:
        raise StorageConflictError(f"{path} exists already; --force overwrites it", field="config") from None
    output.show(invocation, {"path": str(path)}, lambda: click.echo(f"wrote {path}"))


@click.command(cls=Command)
@pass_invocation
def config(invocation: Invocation) -> None:
    """Show every setting, masked, and where it comes from."""
    found = configuration(invocation)
    rows = found.describe()
    settings = [row._asdict() for row in rows]
    output.show(
        invocation,
        {"settings": settings, "ignored": found.ignored},
        lambda: output.table(("key", "value", "from"), rows),
    )
    if found.ignored:
        output.remark(f"not ours, ignored: {', '.join(found.ignored)}")


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
