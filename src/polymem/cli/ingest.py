"""`ingest`: recorded conversations into memory, so that running it again adds nothing twice."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from polymem.cli import output
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.cli.tenant import memory
from polymem.errors import StorageConflictError
from polymem.jobs.conversations import Conversation, Layout, Utterance, detect, read
from polymem.memory.memory import Memory
from polymem.memory.session import NewTurn

_CHUNK: Final = 500
_HELD: Final = 5000
"""Turns kept back at most while sessions alternate."""
_NUMBERED: Final = (Layout.LOCOMO, Layout.BEAM)
"""Layouts whose sessions are called alike in every conversation."""
LABEL: Final = "turn"
"""The metadata member that holds a turn's label in its file."""


@click.command(cls=Command)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--layout", type=click.Choice([layout.value for layout in Layout]), help="Detected unless given.")
@click.option("--session-prefix", default="", help="Put before the name of every session.")
@pass_invocation
def ingest(invocation: Invocation, path: Path, layout: str | None, session_prefix: str) -> None:
    """Read recorded conversations into memory.

    PATH is JSON Lines (session, role, content, speaker, at, metadata), a message list, a chat export, a LoCoMo file
    or a BEAM folder. The whole file is checked before anything is stored. Running it again adds nothing twice, and
    goes on where it was interrupted.
    """
    source = _Source(path, Layout(layout) if layout else detect(path), session_prefix)

    async def work() -> Ingested:
        total = source.count()
        async with memory(invocation) as opened:
            with output.progress(invocation) as bar:
                task = bar.add_task("turns", total=total)
                return await ingest_turns(opened, source.turns(), lambda: bar.advance(task))

    done = asyncio.run(work())
    result = {"added": done.added, "present": done.present, "sessions": len(done.sessions)}
    output.show(invocation, result, lambda: output.pairs(result))


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    layout: Layout
    prefix: str

    def count(self) -> int:
        """How many turns there are; reads all of it, so that a bad line is found before anything is stored."""
        return sum(1 for conversation in read(self.path, self.layout) for _ in conversation.utterances)

    def turns(self) -> Iterator[tuple[str, Utterance]]:
        for conversation in read(self.path, self.layout):
            for utterance in conversation.utterances:
                yield self._session(conversation, utterance), utterance

    def _session(self, conversation: Conversation, utterance: Utterance) -> str:
        name = f"{conversation.name}/" if self.layout in _NUMBERED else ""
        return f"{self.prefix}{name}{utterance.session}"


@dataclass(slots=True)
class Ingested:
    """What a run did: turns stored, turns that were there before, sessions seen."""

    added: int = 0
    present: int = 0
    sessions: set[str] = field(default_factory=set)


async def ingest_turns(memory: Memory, turns: Iterator[tuple[str, Utterance]], advance: Callable[[], None]) -> Ingested:
    """Store turns, numbered from 1 in each session; those up to the last one a session has are left out.

    Raises StorageConflictError where a session holds other turns.
    """
    done, sessions, held = Ingested(), dict[str, _Session](), 0
    for name, utterance in turns:
        session = sessions.get(name)
        if session is None:
            session = sessions[name] = _Session(memory, name, await _last_turn(memory, name))
        held += session.take(utterance)
        if len(session.waiting) == _CHUNK:
            held -= await session.store()
        elif held >= _HELD:
            held -= sum([await waiting.store() for waiting in sessions.values()])
        advance()
    for session in sessions.values():
        await session.store()
        done.added, done.present = done.added + session.added, done.present + session.present
    done.sessions = set(sessions)
    return done


@dataclass(slots=True)
class _Session:
    """A session on its way in."""

    memory: Memory
    name: str
    last: tuple[int, object]
    """Number and label of the last turn that was there before, (0, None) without one."""
    number: int = 0
    added: int = 0
    present: int = 0
    waiting: list[NewTurn] = field(default_factory=list)

    def take(self, utterance: Utterance) -> int:
        """Number the turn and keep it for `store` unless it is there; how many are kept."""
        self.number += 1
        last, label = self.last
        if self.number == last and label != _label(utterance):
            raise StorageConflictError(
                "a session of this name holds other turns; use --session-prefix", field="session"
            )
        if self.number <= last:
            self.present += 1
            return 0
        self.waiting.append(_new_turn(utterance, self.number))
        return 1

    async def store(self) -> int:
        count = len(self.waiting)
        if count:
            await self.memory.session(self.name).add_many(self.waiting)
            self.added, self.waiting = self.added + count, []
        return count


async def _last_turn(memory: Memory, session: str) -> tuple[int, object]:
    newest = await memory.store.turns.recent(session, limit=1)
    return (newest[0].turn_id, newest[0].metadata.get(LABEL)) if newest else (0, None)


def _label(utterance: Utterance) -> object:
    """What the file itself says wins."""
    return utterance.metadata.get(LABEL, utterance.turn)


def _new_turn(utterance: Utterance, number: int) -> NewTurn:
    return NewTurn(
        utterance.role,
        utterance.text,
        speaker=utterance.speaker,
        at=utterance.at,
        metadata={**utterance.metadata, LABEL: _label(utterance)},
        turn_id=number,
    )
