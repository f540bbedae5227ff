"""Regular expressions that mean the same on every engine and take time linear in the text.

Python's `re` backtracks: `(a|a)*$` on 40 characters stops the process for hours, and it holds the
interpreter lock. A filter needs only yes or no, so the pattern is read here and run as an automaton built
on demand.
"""

from functools import lru_cache

from polymem.contracts._filter_regex_parse import (
    Alt,
    Anchor,
    Chars,
    Node,
    PatternError,
    Repeat,
    Seq,
    parse_pattern,
)

MAX_CACHED_MOVES = 10_000


def check_pattern(pattern: str) -> str | None:
    """Say what was expected if the pattern is outside the portable subset."""
    try:
        compiled(pattern)
    except PatternError as error:
        return str(error)
    return None


def regex_search(pattern: str, text: str) -> bool:
    """Whether the pattern is found anywhere in the text; the pattern has passed `check_pattern`."""
    return compiled(pattern).search(text)


class _State:
    """A set of positions in the pattern, and where each character seen so far leads."""

    __slots__ = ("accepts", "accepts_at_end", "moves", "tests")

    def __init__(self, tests: list[tuple[Chars, int]], accepts: bool, accepts_at_end: bool) -> None:
        self.tests = tests
        self.accepts = accepts
        self.accepts_at_end = accepts_at_end
        self.moves: dict[str, _State] = {}


class _Automaton:
    def __init__(self, pattern: Node) -> None:
        # A place is (what to pass, where to go then); no test = free passage.
        self._places: list[tuple[Chars | Anchor | None, list[int]]] = [(None, [])]
        self._first = self._add(pattern, 0)
        self._states: dict[frozenset[int], _State] = {}
        self.cached_moves = 0
        self._start = self._state(frozenset((self._first,)), at_start=True)

    def search(self, text: str) -> bool:
        state = self._start
        for character in text:
            if state.accepts:
                return True
            state = state.moves.get(character) or self._move(state, character)
        return state.accepts_at_end

    def _move(self, state: _State, character: str) -> _State:
        code = ord(character)
        # The pattern may begin anywhere, so its first place is always added.
        reached = frozenset((self._first, *(target for chars, target in state.tests if chars.has(code))))
        if self.cached_moves >= MAX_CACHED_MOVES:
            self._forget()
        following = self._states.get(reached)
        if following is None:
            following = self._states[reached] = self._state(reached, at_start=False)
        state.moves[character] = following
        self.cached_moves += 1
        return following

    def _forget(self) -> None:
        for state in (self._start, *tuple(self._states.values())):
            state.moves = {}
        self._states = {}
        self.cached_moves = 0

    def _state(self, places: frozenset[int], *, at_start: bool) -> _State:
        inside = self._closure(places, at_start=at_start, at_end=False)
        ending = self._closure(places, at_start=at_start, at_end=True)
        tests = [
            (test, target) for place in inside for test, targets in (self._places[place],)
            for target in targets if isinstance(test, Chars)
        ]  # fmt: skip
        return _State(tests, accepts=0 in inside, accepts_at_end=0 in ending)

    def _closure(self, places: frozenset[int], *, at_start: bool, at_end: bool) -> set[int]:
        seen, waiting = set(places), list(places)
        while waiting:
            test, targets = self._places[waiting.pop()]
            if test is None or (isinstance(test, Anchor) and (at_end if test.end else at_start)):
                fresh = [target for target in targets if target not in seen]
                seen.update(fresh)
                waiting.extend(fresh)
        return seen

    def _place(self, test: Chars | Anchor | None, targets: list[int]) -> int:
        self._places.append((test, targets))
        return len(self._places) - 1

    def _add(self, node: Node, following: int) -> int:
        """Add the places of a node that continues at `following`; return its first place."""
        match node:
            case Chars() | Anchor():
                return self._place(node, [following])
            case Seq(items):
                for item in reversed(items):
                    following = self._add(item, following)
                return following
            case Alt(items):
                return self._place(None, [self._add(item, following) for item in items])
            case _:
                return self._add_repeat(node, following)

    def _add_repeat(self, node: Repeat, following: int) -> int:
        start = following
        if node.most is None:
            targets = [following]
            start = self._place(None, targets)
            targets.append(self._add(node.item, start))
        else:
            for _ in range(node.most - node.least):
                start = self._place(None, [self._add(node.item, start), following])
        for _ in range(node.least):
            start = self._add(node.item, start)
        return start


@lru_cache(maxsize=256)
def compiled(pattern: str) -> _Automaton:
    """Build the automaton once per pattern."""
    return _Automaton(parse_pattern(pattern))
