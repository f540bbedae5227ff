"""`remember`, `recall`, `context`, `forget`, `stats` and `sweep`: one tenant's memories."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from polymem.cli import output
from polymem.cli.connection import configuration, store
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.cli.parameters import COUNT, INSTANT, JSON_OBJECT, SHARE
from polymem.cli.tenant import memory, memory_on
from polymem.memory.context import ContextBlock
from polymem.memory.forget import ForgetReport
from polymem.memory.recall import Recalled
from polymem.memory.records import Hit


@click.command(cls=Command)
@click.argument("text")
@click.option("--kind", default="fact", show_default=True, help="fact, preference, event or a word of your own.")
@click.option("--subject", help="Whom it is about.")
@click.option("--session", help="The conversation it comes from.")
@click.option("--source", help="Where it comes from.")
@click.option("--confidence", type=SHARE, default=1.0, show_default=True)
@click.option("--importance", type=SHARE, default=0.5, show_default=True)
@click.option("--at", type=INSTANT, help="When it was learnt; now if not given.")
@click.option("--valid-from", type=INSTANT)
@click.option("--valid-to", type=INSTANT)
@click.option("--ttl", type=float, help="Seconds until it disappears.")
@click.option("--metadata", type=JSON_OBJECT, help="A JSON object.")
@click.option("--idempotency-key", help="A repeated call with the same key stores nothing.")
@pass_invocation
def remember(invocation: Invocation, /, **given: Any) -> None:
    """Keep a fact, a preference, an event ..."""

    async def work() -> str:
        async with memory(invocation) as opened:
            return await opened.remember(given.pop("text"), **given)

    memory_id = asyncio.run(work())
    output.show(invocation, {"id": memory_id}, lambda: click.echo(memory_id))


@click.command(cls=Command)
@click.argument("query")
@click.option("--limit", type=COUNT, default=10, show_default=True)
@click.option("--session", help="Only what belongs to this conversation.")
@click.option("--subject", help="Only what is about, or was said by, this person.")
@click.option("--kind", "kinds", multiple=True, help="Only this kind; may be given several times.")
@click.option("--where", type=JSON_OBJECT, help='A filter, such as {"metadata.turn": "D1:3"}.')
@click.option("--as-of", type=INSTANT, help="What held at that moment.")
@pass_invocation
def recall(invocation: Invocation, /, query: str, kinds: tuple[str, ...], **given: Any) -> None:
    """Find what answers a question, with the reason for each score."""

    async def work() -> Recalled:
        async with memory(invocation, must_exist=True) as opened:
            return await opened.recall(query, kinds=kinds or None, **given)

    found = asyncio.run(work())
    result = {"hits": [asdict(hit) for hit in found], "notes": found.notes}
    output.show(invocation, result, lambda: _show_hits(found))


@click.command(cls=Command)
@click.argument("session")
@click.option("--token-budget", type=COUNT, default=2000, show_default=True)
@click.option("--query", help="What to recall memories for; the newest user turn if not given.")
@pass_invocation
def context(invocation: Invocation, session: str, token_budget: int, query: str | None) -> None:
    """Print the prompt block of a session."""

    async def work() -> ContextBlock:
        async with memory(invocation, must_exist=True) as opened:
            return await opened.session(session).context(token_budget, query=query)

    block = asyncio.run(work())
    output.show(invocation, asdict(block), lambda: click.echo(block.text))
    _remarks(invocation, block.notes if block.turns else ("the session has no turns", *block.notes))


@click.command(cls=Command)
@click.argument("subject")
@click.option("--yes", is_flag=True, help="Don't ask.")
@pass_invocation
def forget(invocation: Invocation, subject: str, yes: bool) -> None:
    """Erase everything about a subject or said by them, so that no byte of it is left in the database."""
    if not yes:
        click.confirm(f"Erase everything about {subject}, or said by them, for good?", abort=True, err=True)

    async def work() -> ForgetReport:
        async with memory(invocation, must_exist=True) as opened:
            return await opened.forget(subject)

    report = asdict(asyncio.run(work()))
    output.show(invocation, report, lambda: output.pairs(report))


@click.command(cls=Command)
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Show how much is remembered."""

    async def work() -> dict[str, Any]:
        async with memory(invocation, must_exist=True) as opened:
            engine = opened.store.engine
            found = {"engine": engine.name, **await opened.stats()}
            path = getattr(engine, "path", None)
            return {**found, "file_bytes": path.stat().st_size} if isinstance(path, Path) else found

    found = asyncio.run(work())
    output.show(invocation, found, lambda: output.pairs(found))


@click.command(cls=Command)
@pass_invocation
def sweep(invocation: Invocation) -> None:
    """Remove what has expired: records of every namespace, and the tenant's memories."""

    async def work() -> dict[str, int]:
        config = configuration(invocation)
        async with store(config, must_exist=True) as opened:
            if not opened.supports("text"):  # nothing can be remembered there, but records expire
                return {"memories": 0, "records": await opened.delete_expired()}
            async with memory_on(opened, config.memory) as remembered:
                return {"memories": await remembered.sweep(), "records": await opened.delete_expired()}

    removed = asyncio.run(work())
    output.show(invocation, removed, lambda: output.pairs(removed))


def _show_hits(found: Recalled) -> None:
    rows = [(n, f"{hit.score:.3f}", _reason(hit), _day(hit.at), _who(hit), hit.text) for n, hit in enumerate(found, 1)]
    if rows:
        output.table(("", "score", "because", "when", "who", "memory"), rows)
    else:
        click.echo("nothing found")
    for note in found.notes:
        output.remark(note)


def _remarks(invocation: Invocation, notes: tuple[str, ...]) -> None:
    for note in () if invocation.json else notes:
        output.remark(note)


def _reason(hit: Hit) -> str:
    parts = sorted(hit.scores.items(), key=lambda part: -abs(part[1]))
    return "\n".join(f"{name} {value:+.3f}" for name, value in parts if value)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _who(hit: Hit) -> str:
    told = hit.speaker or hit.subject or hit.role or ""
    return "\n".join(part for part in (told, hit.kind, hit.session) if part)
