"""The main job, end to end: a conversation goes in, the right memories come out, from one SQLite file.

Run with `make demo`, or `python examples/demo.py [conversation.jsonl]`.
"""

import asyncio
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

import polymem
from polymem.jobs.conversations import Utterance, read

QUESTIONS = (
    "Where will the bakery be?",
    "Who checked the burners of the oven?",
    "How much did the oven cost in the end?",
    "What is Mara allergic to?",
    "When may I phone Mara?",
    "Which grain did the guests like best?",
    "What happened when the payment machine stopped working?",
)
console = Console(width=120)


async def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "agent.db")
        async with polymem.Memory.open(f"sqlite:///{file}", tenant="demo") as memory:
            await store(memory, path)
            await show_recall(memory)
            await show_context(memory)
        console.print(f"\nEverything lived in one file of {file.stat().st_size / 1024:.0f} kB.")  # noqa: ASYNC240 - a demo


async def store(memory: polymem.Memory, path: Path) -> None:
    utterances = [u for conversation in read(path) for u in conversation.utterances]
    started = time.perf_counter()
    for session, turns in groupby(utterances, key=lambda u: u.session):
        await memory.session(session).add_many([as_turn(turn) for turn in turns])
    took = time.perf_counter() - started
    await memory.remember("Mara prefers short answers without emoji", kind="preference", subject="Mara")
    model = memory.embedder.name if memory.embedder else "none (words alone)"
    console.print(f"[bold]Stored[/] {len(utterances)} turns of {path.name} in {took * 1000:.0f} ms, embedder {model}")
    for name, figure in (await memory.stats()).items():
        console.print(f"  {name}: {figure}")


def as_turn(turn: Utterance) -> dict[str, object]:
    return {"role": turn.role, "content": turn.text, "speaker": turn.speaker, "at": turn.at}


async def show_recall(memory: polymem.Memory) -> None:
    for question in QUESTIONS:
        started = time.perf_counter()
        hits = await memory.recall(question, limit=3)
        took = (time.perf_counter() - started) * 1000
        table = Table(title=f"{question}  [dim]{took:.1f} ms", title_justify="left", expand=True)
        for column in ("score", "because of", "said", "memory"):
            table.add_column(column, overflow="fold", no_wrap=column == "score")
        for hit in hits:
            parts = "  ".join(f"{name} {part:.2f}" for name, part in hit.scores.items() if part)
            table.add_row(f"{hit.score:.2f}", parts, f"{hit.at:%d %b} {hit.speaker or hit.subject}", hit.text)
        console.print(table)
        for note in hits.notes:
            console.print(f"[yellow]note:[/] {note}")


async def show_context(memory: polymem.Memory) -> None:
    session = memory.session("2025-06-15-after-opening")
    block = await session.context(token_budget=300, query="Which flour do we use and when is it delivered?")
    console.rule(f"A prompt block of at most 300 tokens ({block.tokens} used)")
    console.print(block.text, markup=False)


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("conversation.jsonl")
    asyncio.run(main(given))
