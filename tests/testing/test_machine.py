"""The comparison of two engines: what counts as the same, how much is tried, what is said without Hypothesis."""

import asyncio
import subprocess
import sys

import pytest

from polymem.testing import UrlHarness
from polymem.testing.harness import capabilities
from polymem.testing.machine import MODELS, _alike, model_clauses


@pytest.mark.parametrize(
    ("left", "right", "alike"),
    [
        (1, 1, True), (1, 1.0, False), (True, 1, False), (0.1 + 0.2, 0.3, True), (0.3, 0.31, False), ([1], (1,), True),
        ([1], [1, 2], False), ({"a": [0.1]}, {"a": [0.1 + 1e-9]}, True), ({"a": 1}, {"b": 1}, False), ("a", None, False),
        ((1, "x"), (1, "y"), False),
    ],
)  # fmt: skip
def test_alike(left: object, right: object, alike: bool) -> None:
    assert _alike(left, right) is alike


def test_one_model_per_contract_the_engine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYMEM_NIGHTLY", raising=False)
    engine = asyncio.run(capabilities(UrlHarness("memory:")))
    assert [c.id for c in model_clauses(engine, 1)] == [f"{model.contract}.model" for model in MODELS]
    assert [c.id for c in model_clauses(engine, 1, ["kv", "sql"])] == ["kv.model"]
    del engine.features["kv"]
    assert [c.id for c in model_clauses(engine, 1, ["kv"])] == []


def test_nightly_tries_more(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = asyncio.run(capabilities(UrlHarness("memory:")))
    monkeypatch.delenv("POLYMEM_NIGHTLY", raising=False)
    few = model_clauses(engine, 100)[0].patience
    monkeypatch.setenv("POLYMEM_NIGHTLY", "1")
    assert model_clauses(engine, 100)[0].patience == 10 * few


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import polymem.testing.suite, polymem.testing.machine"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'polymem[test]'" in done.stderr
