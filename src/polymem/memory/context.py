"""A prompt block from a session: its newest turns and the memories that bear on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from polymem.memory.records import Hit, MemoryRecord

CountTokens = Callable[[str], int]
MEMORY_SHARE: Final = 0.4
"""The part of the budget kept for memories; what they leave goes to turns."""


@dataclass(frozen=True, slots=True)
class ContextBlock:
    """What to put into a prompt: `tokens` never exceeds the budget asked for."""

    text: str
    tokens: int
    turns: tuple[MemoryRecord, ...]
    """Oldest first."""
    memories: tuple[Hit, ...]
    """Best first; none of them is among the turns."""
    notes: tuple[str, ...] = ()


def approximate_tokens(text: str) -> int:
    """About four characters of English a token (OpenAI's rule of thumb), never less than one for any text."""
    return -(-len(text) // 4)


def assemble(
    turns: Sequence[MemoryRecord],
    hits: Sequence[Hit],
    *,
    budget: int,
    count: CountTokens,
    notes: Sequence[str] = (),
) -> ContextBlock:
    """Fill the budget: the newest turn first, then memories up to their share, then older turns, then memories.

    `turns` are newest first, `hits` best first. The block lists memories before turns.
    """
    block = _Block(turns, budget, count)
    block.take_turns(1)
    block.take_memories(hits, room=int(budget * MEMORY_SHARE))
    block.take_turns(len(turns))
    block.take_memories(hits, room=budget)
    shown = tuple(reversed(turns[: block.newest]))
    return ContextBlock(block.text(), block.tokens(), shown, tuple(block.memories), tuple(notes))


class _Block:
    """Grows and never beyond the budget; the whole text is counted, since tokens don't add up."""

    def __init__(self, turns: Sequence[MemoryRecord], budget: int, count: CountTokens) -> None:
        self._turns, self._budget, self._count = turns, budget, count
        self.newest = 0
        """How many of the turns are in it: a conversation has no holes."""
        self.memories: list[Hit] = []

    def text(self) -> str:
        known = [_line(memory) for memory in self.memories]
        said = [_line(turn) for turn in reversed(self._turns[: self.newest])]
        parts = [["Relevant memories:", *known] if known else [], ["Conversation:", *said] if said else []]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def tokens(self) -> int:
        text = self.text()
        return self._count(text) if text else 0

    def take_turns(self, most: int) -> None:
        """As many of the newest as fit, found by halving, since counting a long text takes time."""
        fitting, too_many = (self.newest, self.memories), most + 1
        while too_many - fitting[0] > 1:
            self.newest = (fitting[0] + too_many) // 2
            shown = {turn.id for turn in self._turns[: self.newest]}
            self.memories = [memory for memory in fitting[1] if memory.id not in shown]
            if self.tokens() <= self._budget:
                fitting = (self.newest, self.memories)
            else:
                too_many = self.newest
        self.newest, self.memories = fitting

    def take_memories(self, hits: Sequence[Hit], *, room: int) -> None:
        """The best that fit, a shorter one where a longer does not."""
        present = {record.id for record in (*self.memories, *self._turns[: self.newest])}
        for hit in hits:
            if hit.id in present:
                continue
            self.memories = [*self.memories, hit]
            if self._count("\n".join(map(_line, self.memories))) > room or self.tokens() > self._budget:
                self.memories = self.memories[:-1]


def _line(memory: MemoryRecord) -> str:
    who = memory.speaker or memory.role or memory.subject or memory.kind
    return f"[{memory.at:%Y-%m-%d}] {who}: {memory.text}"
