"""The filter language through `where=`: every engine gives the answers of `matches` (QRY-2, QRY-5)."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from polymem.contracts.filter import F, matches, parse
from polymem.contracts.text import Text
from polymem.contracts.vectors import Vectors
from polymem.errors import StorageDataError
from polymem.testing.clause import Run, clause
from polymem.testing.expect import refused
from polymem.testing.kit import Kit

_SCALARS: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2, 1.0, 1.5, -0.0, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 2**70, 1e300,
    "", "0", "1", "true", "null", "a", "A", "ab", "abc", "%", "a%", "_", "a_c", "\u00e9", "e\u0301", "\uffff", "\U0001f600",
    "a\nb", "'", '"', "\\", [], {}, [1], [1, 2], ["a"], [None], [[1]], [True], {"b": 1}, {"b": None}, {"b": {"c": [1, "x"]}},
)  # fmt: skip
DOCUMENTS: Final[tuple[dict[str, Any], ...]] = (
    {}, *({"a": value} for value in _SCALARS), {"a.b": 1}, {"a": {"b": [{"c": 1}, {"c": 2}]}}, {"": 1}, {"0": 1},
    {"a": [10, 20, 30]}, {"a": {"0": 10}}, {"A": 1}, {"or": 1}, {"a": 1, "b": 2}, {"a": 1, "b": None}, {"%": 1, "$": 2},
    {'a"b': 1}, {"a'b": 1}, {"[0]": 1}, {"\U0001f600": 1}, {"a b": 1}, {"b": "a"},
)  # fmt: skip
_OPERANDS: Final = tuple(value for value in _SCALARS if not isinstance(value, int) or abs(value) <= 2**63 - 1)
_ORDERED: Final = (0, 1, 1.5, -1, 2**53, 2**53 + 1, 1e300, "", "a", "ab", "\u00e9", "\uffff")

Ids = Callable[[Any], Awaitable[set[str]]]


def by_operator() -> list[Any]:
    a = F("a")
    found: list[Any] = [f for value in _OPERANDS for f in (a == value, a != value, a.contains(value))]
    found += [f for value in _ORDERED for f in (a < value, a <= value, a > value, a >= value)]
    found += [a.starts_with(text) for text in ("", "a", "A", "%", "_", "\u00e9", "\U0001f600", "\\", "'")]
    found += [a.between(low, high) for low, high in ((0, 1), (1, 0), ("", "b"), ("a", "a"), (-1.5, 2**53))]
    choices: list[list[Any]] = [[], [1], [1, "1"], [None], [True], [[1]], [{}], list(_OPERANDS)]
    found += [a.in_(values) for values in choices]
    found += [a.not_in(values) for values in ([], [1], [None], ["a", None, False])]
    found += [a.exists(), a.exists(False), ~a.exists(), ~(a == 1), ~(a > 0)]
    found += [
        a.regex(p)
        for p in ("a", "^a$", "^.$", "a.b", "[A-C]", "\\d", "^(a|ab)c?$", "\\%", "\u00e9|\U0001f600", "b{1,2}")
    ]
    return found


def _by_path() -> list[Any]:
    paths: list[Any] = [
        "b", "a.b", "a.b.c", "a.b.c.0", "a.b.0.c", "a.b.1.c", "a.0", "a.2", "a.3", "0", "A", "a\\.b", "\\or", ["a.b"], [""],
        ["%"], ["$"], ['a"b'], ["a'b"], ["[0]"], ["\U0001f600"], ["a b"], ["a", 1], ["a", "b", 0], "a.b.0", "missing.b",
    ]  # fmt: skip
    return [
        f
        for path in paths
        for f in (F(path) == 1, F(path).exists(), F(path) != 1, F(path) > 0, F(path).in_([1, 10, None]))
    ]


def _combined() -> list[Any]:
    a, b = F("a"), F("b")
    return [
        None, {}, {"a": 1}, {"a": 1, "b": 2}, {"or": [{"a": 1}, {"b": "a"}]}, {"and": [{"a": {"ge": 1}}, {"not": {"b": 2}}]},
        {"a": {"ge": 0, "lt": 2}}, {"a": None}, {"a": {"exists": False}}, {"not": {"a": {"exists": True}}},
        (a == 1) & (b == 2), (a == 1) | (b == "a"), ~((a == 1) & (b == 2)), ~((a == 1) | (b == 2)), (a == 1) & ~b.exists(),
        ((a > 0) | (a == "a")) & ((b == None) | ~b.exists()), ~~(a == 1),  # noqa: E711 - a filter, not a test
    ]  # fmt: skip


async def _fill(kit: Kit, contract: str) -> tuple[dict[str, Any], Vectors | Text, Ids]:
    documents = {f"{number:03}": document for number, document in enumerate(DOCUMENTS)}
    if contract == "vectors":
        vectors = kit.store.vectors("f", dimensions=1, metric="dot")
        await vectors.put_many([(id, [1], document) for id, document in documents.items()])

        async def near(where: Any) -> set[str]:
            return {hit.id for hit in await vectors.search([1], where=where, limit=10**4)}

        return documents, vectors, near
    text = kit.store.text("f")
    await text.put_many([(id, "word", document) for id, document in documents.items()])

    async def found(where: Any) -> set[str]:
        return {hit.id for hit in await text.search("word", where=where, limit=10**4)}

    return documents, text, found


def _answers(contract: str, filters: Callable[[], list[Any]]) -> Run:
    async def run(kit: Kit) -> None:
        """search, scan and count give exactly the documents that `matches` says."""
        documents, collection, search = await _fill(kit, contract)
        for number, where in enumerate(filters()):
            condition = parse(where)
            wanted = {id for id, document in documents.items() if matches(condition, document)}
            found = {item.id async for item in collection.scan(where=where)}
            assert found == wanted, f"{where}: {sorted(found ^ wanted)}"
            if number % 3 == 0:
                assert await search(where) == wanted, f"{where} in a search"
                assert await collection.count(where=where) == len(wanted), f"{where} in a count"

    return run


def _refusals(contract: str) -> Run:
    async def run(kit: Kit) -> None:
        """What makes no sense is refused naming the place in the filter, and asked of nothing (G-2)."""
        _, collection, search = await _fill(kit, contract)
        senseless: tuple[Any, ...] = (
            {"a": {"like": 1}}, {"a": {"lt": None}}, {"a": {"lt": True}}, {"a": {"in": 1}}, {"a": {"between": [1]}},
            {"a": {"between": [1, "a"]}}, {"a": {"regex": "("}}, {"a": {"regex": "(?=a)"}}, {"a": {"regex": "a" * 201}},
            {"a": {"starts_with": 1}}, {"a": {"exists": 1}}, {"a": 2**64}, {"a": float("nan")}, {"a": "\x00"},
            {"and": []}, {"or": {}}, {"not": []}, {"a..b": 1}, {"a.": 1}, "a", 1, ["a"],
        )  # fmt: skip
        for where in senseless:
            with refused(StorageDataError, field="where"):
                await search(where)
            with refused(StorageDataError, field="where"):
                await collection.count(where=where)

    return run


for _contract in ("vectors", "text"):
    for _id, _filters in (("operators", by_operator), ("paths", _by_path), ("combinations", _combined)):
        clause(_contract, id=f"filter-{_id}")(_answers(_contract, _filters))
    clause(_contract, id="filter-refusals")(_refusals(_contract))
