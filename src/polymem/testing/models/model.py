"""What a model is: operations with arguments to draw, and what the state is afterwards."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from polymem.store import Store

Memo = dict[str, Any]
"""What the operations of one side remember between them, such as versions."""
Action = Callable[..., Awaitable[Any]]
"""Takes the store, the memo and the drawn arguments; gives what both sides must have in common."""

_FILLING = 8
ROOMS = ((), ("n",), ("n", "m"))
"""The namespaces in which operations happen."""
NAMES = ("a", "A", "ab", "%", "\u00e9")
WHERE = st.sampled_from([None, {"n": 1}, {"n": {"ge": 1}}, {"not": {"n": 1}}, {"n": {"exists": False}}])
PAYLOAD = st.sampled_from([None, {"n": 0}, {"n": 1}, {"n": 2.5}, {"n": None}, {"n": "1"}])
TTL = st.sampled_from([None, None, None, None, 5, 1, 0.5, 0, -1])


def drawn(strategies: list[st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """One of these; unlike in `one_of`, what is there several times is drawn more often."""
    return st.sampled_from(range(len(strategies))).flatmap(strategies.__getitem__)


@dataclass(frozen=True, slots=True)
class Model:
    """The operations of one contract and how to draw their arguments."""

    contract: str
    actions: dict[str, tuple[Action, tuple[st.SearchStrategy[Any], ...]]]
    fills: tuple[str, ...]
    """Operations that are drawn more often, so that there is something to work on."""
    state: Callable[[Store], Awaitable[Any]]
    """Everything there is, in a form that can be compared."""

    def steps(self) -> st.SearchStrategy[Any]:
        """(namespace, operation, arguments)."""
        rooms = st.sampled_from([(), (), (), (), *ROOMS])
        calls = {name: st.tuples(rooms, st.just(name), st.tuples(*given)) for name, (_, given) in self.actions.items()}
        usual = [calls[name] for name in calls if name != "clear"]
        return drawn([*calls.values(), *usual * 2, *[calls[name] for name in self.fills] * _FILLING])
