"""Random sequences of operations, done to an engine and to the memory engine: every answer must be the same.

The memory engine is the executable specification. Hypothesis shrinks what differs to the shortest sequence.
"""

import asyncio
import itertools
import math
import os
from collections.abc import Collection, Mapping
from typing import Any, Final

try:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "the comparison with the memory engine needs Hypothesis: pip install 'polymem[test]', or set examples to 0"
    ) from missing

from polymem.core.clock import ManualClock
from polymem.core.registry import create_engine
from polymem.errors import StorageError
from polymem.opened import Session
from polymem.store import Store
from polymem.testing.clause import Capabilities, Clause, Run
from polymem.testing.kit import Kit
from polymem.testing.models.blobs import BLOBS
from polymem.testing.models.graph import GRAPH
from polymem.testing.models.kv import KV
from polymem.testing.models.model import ROOMS, Memo, Model, drawn
from polymem.testing.models.query import QUERY
from polymem.testing.models.text import TEXT
from polymem.testing.models.turns import TURNS
from polymem.testing.models.vectors import VECTORS

MODELS: Final = (KV, QUERY, TURNS, VECTORS, TEXT, GRAPH, BLOBS)
NIGHTLY: Final = 1000
_STEPS: Final = 15
_SECONDS: Final = st.sampled_from([0.5, 1, 3, 10])
Step = tuple[Any, ...]


def model_clauses(engine: Capabilities, examples: int, contracts: Collection[str] | None = None) -> list[Clause]:
    """One clause for each contract with a model; POLYMEM_NIGHTLY=1 makes it at least 1,000 examples."""
    nightly = os.environ.get("POLYMEM_NIGHTLY") == "1"
    count = max(examples, NIGHTLY) if nightly else examples
    patience = max(count / 50, 1)
    return [
        Clause(f"{model.contract}.model", model.contract, _comparison(model, engine, count, nightly), patience=patience)
        for model in MODELS
        if model.contract in engine.features and (contracts is None or model.contract in contracts)
    ]


def _comparison(model: Model, engine: Capabilities, examples: int, nightly: bool) -> Run:
    steps = _sequence(_step(model, transactions="transactions" in engine.features))

    async def run(kit: Kit) -> None:
        """Any sequence of operations has the same answers as on the memory engine."""
        memory = await Store(Session(create_engine("memory:", clock=kit.clock), sweep_every=None))
        loop, numbers = asyncio.get_running_loop(), itertools.count()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=not nightly,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
            phases=[Phase.generate, Phase.shrink],
        )
        @given(steps)
        def compare(steps: list[Step]) -> None:
            pair = _Pair(model, kit.clock, kit.store, memory, f"{next(numbers)}")
            asyncio.run_coroutine_threadsafe(pair.play(steps), loop).result()

        try:
            await asyncio.to_thread(compare)
        finally:
            await memory.close()

    return run


def _sequence(step: st.SearchStrategy[Step]) -> st.SearchStrategy[list[Step]]:
    """Mostly long: left alone, Hypothesis draws about five items. The short ones are what failures shrink to."""
    long = st.lists(step, min_size=_STEPS, max_size=2 * _STEPS)
    return drawn([st.lists(step, max_size=_STEPS), long, long])


def _step(model: Model, *, transactions: bool) -> st.SearchStrategy[Step]:
    """A call, the passing of time, a sweep, or several calls in a transaction."""
    call = st.tuples(st.just("call"), model.steps())
    kinds: list[st.SearchStrategy[Step]] = [call] * 12
    kinds += [st.tuples(st.just("advance"), _SECONDS), st.tuples(st.just("sweep"))]
    if transactions:
        block = st.lists(model.steps(), max_size=6)
        kinds.append(st.tuples(st.just("transaction"), st.booleans(), block))
    return drawn(kinds)


class _Pair:
    """The engine under test and the memory engine, each in a namespace of this example."""

    def __init__(self, model: Model, clock: ManualClock, tested: Store, memory: Store, name: str) -> None:
        self._model, self._clock, self._name = model, clock, name
        self._parents = (tested, memory)
        self._stores = tuple(store.namespace(name) for store in self._parents)
        self._memos: tuple[Memo, Memo] = ({}, {})

    async def play(self, steps: list[Step]) -> None:
        try:
            for number, step in enumerate(steps):
                await self._play(number, step)
            await self._compare_states(len(steps))
        finally:
            for parent in self._parents:
                await parent.drop_namespace(self._name)

    async def _play(self, number: int, step: Step) -> None:
        match step:
            case ("advance", seconds):
                self._clock.advance(seconds)
            case ("sweep",):
                for store in self._stores:
                    await store.delete_expired()
            case ("transaction", commit, calls):
                sides = zip(self._stores, self._memos, strict=True)
                tested, memory = [await self._transaction(store, memo, commit, calls) for store, memo in sides]
                _agree(tested, memory, number, step)
            case ("call", call):
                tested, memory = [await self._call(s, m, call) for s, m in zip(self._stores, self._memos, strict=True)]
                _agree(tested, memory, number, step)

    async def _call(self, store: Store, memo: Memo, call: Step) -> Any:
        room, name, arguments = call
        action, _ = self._model.actions[name]
        try:
            return await action(store.namespace(*room) if room else store, memo, *arguments)
        except StorageError as error:
            return type(error).__name__

    async def _transaction(self, store: Store, memo: Memo, commit: bool, calls: list[Step]) -> list[Any]:
        answers: list[Any] = []
        try:
            async with store.transaction() as tx:
                answers += [await self._call(tx, memo, call) for call in calls]
                answers.append(await self._model.state(tx))
                if not commit:
                    raise _RollBack
        except _RollBack:
            pass
        return answers

    async def _compare_states(self, number: int) -> None:
        for room in ROOMS:
            stores = [store.namespace(*room) if room else store for store in self._stores]
            tested, memory = [await self._model.state(store) for store in stores]
            _agree(tested, memory, number, ("state", room))


class _RollBack(Exception):  # noqa: N818 - not an error
    pass


def _agree(tested: Any, memory: Any, number: int, step: Step) -> None:
    assert _alike(tested, memory), f"step {number}, {step}: {tested!r}, where the memory engine has {memory!r}"


def _alike(left: Any, right: Any) -> bool:
    """Equal, but for the last digits of computed numbers; true is not 1 and 1 is not 1.0."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_alike, left, right))
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-6)
    return bool(left == right)
