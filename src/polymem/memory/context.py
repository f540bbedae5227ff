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
    block = _Block(budget, count)
    block.take_turns(turns[:1])
    block.take_memories(hits, room=int(budget * MEMORY_SHARE))
    block.take_turns(turns[1:])
    block.take_memories(hits, room=budget)
    return ContextBlock(block.text(), block.tokens(), tuple(reversed(block.turns)), tuple(block.memories), tuple(notes))


class _Block:
    """Grows item by item and never beyond the budget; the whole text is counted, since tokens don't add up."""

    def __init__(self, budget: int, count: CountTokens) -> None:
        self._budget, self._count = budget, count
        self.turns: list[MemoryRecord] = []
        self.memories: list[Hit] = []

    def text(self) -> str:
        known = [_line(memory) for memory in self.memories]
        said = [_line(turn) for turn in reversed(self.turns)]
        parts = [["Relevant memories:", *known] if known else [], ["Conversation:", *said] if said else []]
        return "\n\n".join("\n".join(part) for part in parts if part)

    def tokens(self) -> int:
        return self._count(self.text())

    def take_turns(self, turns: Sequence[MemoryRecord]) -> None:
        """Newest first, and none after the first that does not fit: a conversation has no holes."""
        for turn in turns:
            self.turns.append(turn)
            if self.tokens() > self._budget:
                self.turns.pop()
                return
            self.memories = [memory for memory in self.memories if memory.id != turn.id]

    def take_memories(self, hits: Sequence[Hit], *, room: int) -> None:
        for hit in hits:
            if any(hit.id == known.id for known in (*self.memories, *self.turns)):
                continue
            self.memories.append(hit)
            if self._count("\n".join(map(_line, self.memories))) > room or self.tokens() > self._budget:
                self.memories.pop()


def _line(memory: MemoryRecord) -> str:
    who = memory.speaker or memory.role or memory.subject or memory.kind
    return f"[{memory.at:%Y-%m-%d}] {who}: {memory.text}"
