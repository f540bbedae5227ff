"""`db`: the database behind the configured engine, as its administrator sees it."""

import asyncio

import click

from polymem.adapters._facts_schema import create_facts_table
from polymem.cli import output
from polymem.cli.connection import configuration, store
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.config import Config
from polymem.engines.postgres.grants import grants as grants_of
from polymem.errors import StorageUnsupportedError


@click.group()
def db() -> None:
    """Look after the database."""


@db.command(cls=Command)
@click.option("--role", required=True, help="Who is to use the tables.")
@pass_invocation
def grants(invocation: Invocation, role: str) -> None:
    """Print the least privileges of a role that uses the tables, as SQL for their owner to run (PostgreSQL).

    The tables are made if they are not there, those of the adapters too.
    """
    statements = asyncio.run(_grants(configuration(invocation), role))
    output.show(
        invocation, statements, lambda: click.echo("".join(f"{statement};\n" for statement in statements), nl=False)
    )


async def _grants(config: Config, role: str) -> list[str]:
    async with store(config) as opened:
        if not opened.supports("sql") or opened.sql.features.dialect != "postgresql":
            raise StorageUnsupportedError("only a PostgreSQL database has roles", field="url")
        await create_facts_table(opened)
        return await grants_of(opened.sql, role)
