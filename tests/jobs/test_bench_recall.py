"""`polymem bench recall` (CLI-1): figures worked out by hand on data made for it."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polymem.config import open as open_store
from polymem.errors import StorageDataError
from polymem.jobs.bench_recall import COLUMNS, bench_recall, judge


def test_hits_are_judged_by_place() -> None:
    found = [f"t{n}" for n in range(10)]
    r5, r10, reciprocal, ndcg = judge(found, {"t1", "t6", "elsewhere"})
    assert (r5, r10, reciprocal) == (1 / 3, 2 / 3, 1 / 2)
    gained = 1 / math.log2(3) + 1 / math.log2(8)
    assert ndcg == pytest.approx(gained / (1 + 1 / math.log2(3) + 1 / 2))


def test_a_hit_beyond_the_tenth_counts_for_its_rank_alone() -> None:
    assert judge([f"t{n}" for n in range(12)], {"t10"}) == (0.0, 0.0, 1 / 11, 0.0)


def test_nothing_found_is_zero_and_everything_first_is_one() -> None:
    assert judge([], {"t1"}) == (0.0, 0.0, 0.0, 0.0)
    assert judge(["t2", "t1", "x"], {"t1", "t2"}) == (1.0, 1.0, 1.0, 1.0)


def conversation(name: str, texts: list[str], questions: list[dict[str, Any]]) -> dict[str, Any]:
    turns = [{"speaker": "Ada", "dia_id": f"D1:{n}", "text": text} for n, text in enumerate(texts, 1)]
    talk = {"session_1_date_time": "1:56 pm on 8 May, 2023", "session_1": turns}
    return {"sample_id": name, "conversation": talk, "qa": questions}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Words that are found by one turn each. What only the other conversation says must not be found."""
    fruit = ["apple", "bread", "cherry", "dough", "elder", "flour", "grape", "honey"]
    asked = [
        {"question": "apple?", "evidence": ["D1:1"], "category": 1},
        {"question": "cherry?", "evidence": ["D1:3", "D1:7"], "category": 1},
        {"question": "zebra?", "evidence": ["D1:2"], "category": 2},
        {"question": "honey?", "evidence": [], "category": 2},
        {"question": "grape?", "evidence": ["D1:7", "D9:9"], "category": 2},
    ]
    path = tmp_path / "set.json"
    path.write_text(json.dumps([conversation("one", fruit, asked), conversation("two", ["zebra", "apple"], [])]))
    return path


def test_figures_of_a_small_set(dataset: Path) -> None:
    """apple: 1st of 1. cherry: 1st of 2, the other one is no neighbour. zebra: nothing. grape: 1st of 1."""
    report = asyncio.run(bench_recall(dataset, embed=None))
    assert (report.conversations, report.turns) == (2, 10)
    assert (report.dropped_evidence, report.without_evidence, report.embedder) == (1, 1, None)
    overall = report.overall
    assert overall.questions == 4
    assert overall.r5.value == overall.r10.value == pytest.approx((1 + 1 / 2 + 0 + 1) / 4)
    assert overall.mrr.value == pytest.approx(3 / 4)
    half = 1 / (1 + 1 / math.log2(3))
    assert overall.ndcg10.value == pytest.approx((1 + half + 0 + 1) / 4)
    assert {name: quality.questions for name, quality in report.categories.items()} == {"1": 2, "2": 2}
    assert report.categories["1"].r10.value == pytest.approx(0.75)
    assert report.categories["2"].mrr.value == pytest.approx(0.5)
    assert overall.r10.low <= overall.r10.value <= overall.r10.high
    assert report.latency.calls == 4
    assert report.ingest_rate > 0


def test_the_report_is_a_table_and_json(dataset: Path) -> None:
    report = asyncio.run(bench_recall(dataset, embed=None))
    rows = report.rows()
    assert [row[0] for row in rows] == ["all", "1", "2"]
    assert all(len(row) == len(COLUMNS) for row in rows)
    assert rows[1][3].startswith("0.750 (")
    assert msgspec.json.decode(msgspec.json.encode(report))["overall"]["r10"]["value"] == report.overall.r10.value


def test_another_engine_is_used_and_left_as_it_was(dataset: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    seen: list[str] = []

    async def scenario() -> list[tuple[str, ...]]:
        await bench_recall(dataset, url=url, embed=None, on_conversation=seen.append)
        async with open_store(url) as store:
            return [name async for name in store.namespaces()]

    assert asyncio.run(scenario()) == []
    assert seen == ["one", "two"]


def test_a_set_without_questions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps([conversation("one", ["apple"], [])]))
    with pytest.raises(StorageDataError, match="no question with evidence") as raised:
        asyncio.run(bench_recall(path, embed=None))
    assert raised.value.field == "path"


def test_too_few_hits_to_judge_are_refused(dataset: Path) -> None:
    with pytest.raises(StorageDataError) as raised:
        asyncio.run(bench_recall(dataset, limit=9, embed=None))
    assert raised.value.field == "limit"
