"""Clauses are selected by contract and features, and never skipped."""

import pytest

from polymem.contracts.kv import KVFeatures
from polymem.testing import Kit
from polymem.testing import clause as module
from polymem.testing.clause import Capabilities, Clause, clause, clauses


async def nothing(kit: Kit) -> None:
    """Nothing is asked."""


def test_applies_by_contract_features_and_uses() -> None:
    engine = Capabilities("x", {"engine": None, "kv": KVFeatures(ordered=False)}, shared=False)
    assert Clause("kv.a", "kv", nothing).applies(engine)
    assert Clause("engine.a", "engine", nothing).applies(engine)
    assert not Clause("text.a", "text", nothing).applies(engine)
    assert not Clause("kv.a", "kv", nothing, needs=lambda f: f.ordered).applies(engine)
    assert Clause("kv.a", "kv", nothing, needs=lambda f: f.durable).applies(engine)
    assert not Clause("kv.a", "kv", nothing, uses=("shared",)).applies(engine)
    assert not Clause("kv.a", "kv", nothing, uses=("text",)).applies(engine)


def test_registering(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is the function's name unless given, and is there once."""
    clauses(Capabilities("x", {}, shared=False))  # everything is loaded
    monkeypatch.setattr(module, "_clauses", {})
    clause("kv")(nothing)
    clause("kv", id="other-name")(nothing)
    with pytest.raises(ValueError, match="kv.nothing"):
        clause("kv")(nothing)
    engine = Capabilities("x", {"kv": KVFeatures(), "text": None}, shared=True)
    assert [c.id for c in clauses(engine)] == ["kv.nothing", "kv.other-name"]
    assert clauses(engine, ["text"]) == []
    assert clauses(engine)[0].says == "Nothing is asked."


def test_every_clause_says_what_must_hold() -> None:
    """The report shows it; a clause without words cannot be judged."""
    everything = dict.fromkeys(
        ("engine", "kv", "turns", "vectors", "text", "graph", "blobs", "sql", "transactions", "query", "events")
    )
    clauses(Capabilities("x", {}, shared=False))
    known = module._clauses.values()
    assert {c.contract for c in known} == set(everything)
    assert len(known) > 300
    assert [c.id for c in known if c.says == c.id] == []
