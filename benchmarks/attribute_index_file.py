"""The attribute index on a JSON file beside one written by hand: lookups, the save of one change, indexing many.

By hand: dicts of attribute -> value -> ids in RAM, and the entities in one JSON file that a thread replaces after each change:
temporary file, fsync, rename, fsync of the folder. So both are durable when the call returns, and both keep the event loop free.
"same promises" is the quickest way to keep what Polymem's file keeps too: it can be read, and the version before stays as a copy.
The others keep less: "json, indented" is what the standard library makes of it, "msgspec, one line" the least there can be.
No form by hand checks what it is given, nor knows versions, instants or other writers. Its lookups are plain calls of a dict.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Final

import msgspec
from attribute_index import entity
from durable import replaced
from report import Figure, arguments, finish

import polymem
from polymem.attribute_index import AttributeIndex
from polymem.jobs.measure import interleaved, ratios, spread

BAR = 1.05
Entity = tuple[str, dict[str, Any]]
NEAREST = "same promises"
FORMS: Final[dict[str, Callable[[Any], bytes]]] = {
    NEAREST: lambda entities: msgspec.json.format(msgspec.json.encode(entities)),
    "json, indented": lambda entities: json.dumps(entities, indent=2).encode(),
    "msgspec, one line": msgspec.json.encode,
}
LOOKUPS: Final = {"author": "author 7", "team": "team 5", "tags": "tag 7", "status": "status 1", "flag": True}
"""From few found to half of all."""


class ByHand:
    """An index as one writes it for a program of one's own."""

    def __init__(self, path: Path, encode: Callable[[Any], bytes], *, copy: bool) -> None:
        self.path, self._encode, self._copy = path, encode, copy
        self.entities: dict[str, dict[str, list[Any]]] = {}
        self.ids: dict[str, dict[Any, set[str]]] = {}

    def find(self, name: str, value: Any) -> set[str]:
        return set(self.ids.get(name, {}).get(value, ()))

    async def index(self, entities: list[Entity]) -> None:
        for entity_id, attributes in entities:
            self._put(entity_id, {name: v if isinstance(v, list) else [v] for name, v in attributes.items()})
        await asyncio.to_thread(self._save)

    def _put(self, entity_id: str, attributes: dict[str, list[Any]]) -> None:
        for name, values in self.entities.get(entity_id, {}).items():
            for value in values:
                self.ids[name][value].discard(entity_id)
        self.entities[entity_id] = attributes
        for name, values in attributes.items():
            for value in values:
                self.ids.setdefault(name, {}).setdefault(value, set()).add(entity_id)

    def _save(self) -> None:
        with replaced(self.path, "wb", copy=self._copy) as file:
            file.write(self._encode(self.entities))


async def seconds(work: Callable[[], Awaitable[Any]], times: int) -> float:
    """Per call."""
    started = perf_counter()
    for _ in range(times):
        await work()
    return (perf_counter() - started) / times


async def beside(
    what: str, ours: Callable[[], Awaitable[float]], theirs: Mapping[str, Callable[[], Awaitable[float]]], options: Any
) -> list[Figure]:
    """Microseconds of each side, and the ratios of ours to theirs."""
    found = await interleaved({"polymem": ours, **theirs}, options.rounds)
    times = [Figure(f"{what}: {side}", spread(s * 1e6 for s in some), "us") for side, some in found.items()]
    bars = dict.fromkeys(theirs) | {next(iter(theirs)): BAR}
    shares = {side: ratios(found["polymem"], found[side]) for side in theirs}
    return [*times, *(Figure(f"{what}: polymem / {side}", shares[side], "x", at_most=bars[side]) for side in theirs)]


async def many(index: AttributeIndex, hands: dict[str, ByHand], rows: list[Entity], options: Any) -> list[Figure]:
    """All entities, where there are none."""

    async def ours() -> float:
        await index.clear()
        return await seconds(lambda: index.index_entities(rows), 1)

    async def theirs(hand: ByHand) -> float:
        hand.entities, hand.ids = {}, {}
        return await seconds(lambda: hand.index(rows), 1)

    others = {name: partial(theirs, hand) for name, hand in hands.items()}
    return await beside(f"{len(rows):,} indexed", ours, others, options)


async def one(index: AttributeIndex, hands: dict[str, ByHand], entities: int, options: Any) -> list[Figure]:
    """Another set of attributes for one entity after the other, each saved."""
    chance = random.Random(11)

    def by(change: Callable[[list[Entity]], Awaitable[Any]]) -> Callable[[], Awaitable[float]]:
        return lambda: seconds(lambda: change([entity(chance.randrange(entities), chance)]), options.saves)

    others = {name: by(hand.index) for name, hand in hands.items()}
    return await beside(f"one of {entities:,} saved", by(index.index_entities), others, options)


async def lookups(index: AttributeIndex, hand: ByHand, options: Any) -> list[Figure]:
    figures: list[Figure] = []
    for name, value in LOOKUPS.items():

        async def by_hand(name: str = name, value: Any = value) -> float:
            started = perf_counter()
            for _ in range(options.lookups):
                hand.find(name, value)
            return (perf_counter() - started) / float(options.lookups)

        async def ours(name: str = name, value: Any = value) -> float:
            return await seconds(lambda: index.find_by_attribute(name, value), options.lookups)

        figures += await beside(f"{len(hand.find(name, value)):,} found", ours, {"by hand": by_hand}, options)
    return figures


async def compare(folder: Path, entities: int, options: Any) -> list[Figure]:
    chance = random.Random(7)
    rows = [entity(number, chance) for number in range(entities)]
    hands = {name: ByHand(folder / f"{name}.json", form, copy=name == NEAREST) for name, form in FORMS.items()}
    async with polymem.open(f"file://{folder / 'polymem.json'}", sweep_every=None) as store:
        index = AttributeIndex(store, "documents")
        figures = await many(index, hands, rows, options)
        files = {"polymem": folder / "polymem.json", **{name: hand.path for name, hand in hands.items()}}
        figures += [
            Figure(f"{entities:,} in a file: {side}", file.stat().st_size / 1e6, "MB") for side, file in files.items()
        ]
        if entities == max(options.entities):
            figures += await lookups(index, hands[NEAREST], options)
        return figures + await one(index, hands, entities, options)


async def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--entities", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--saves", type=int, default=20, help="of each side in each round (%(default)s)")
    parser.add_argument("--lookups", type=int, default=2000, help="of each side in each round (%(default)s)")
    options = parser.parse_args()
    figures: list[Figure] = []
    for entities in options.entities:
        with TemporaryDirectory(dir=options.folder) as name:
            figures += await compare(Path(name), entities, options)
    finish("Attribute index on a JSON file", figures, options)


if __name__ == "__main__":
    asyncio.run(main())
