"""QRY-2: the portable pattern language, and that it takes time linear in the text."""

import os
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polymem.contracts._filter_regex import MAX_CACHED_MOVES, compiled
from polymem.contracts.filter import F, parse, regex_search
from polymem.errors import StorageDataError

EXAMPLES = 100_000 if os.environ.get("POLYMEM_NIGHTLY") == "1" else 1_000

BAD_PATTERNS = [
    "", "x" * 201, r"(a)\1", "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"\b", r"\B", r"\A", r"\Z", r"\x41",
    r"\u0041", "(?i)a",
    "(?i:a)", "(?P<n>a)", "(?>a)", "(?#a)", "a**", "a*+", "a+*", "a{2}{3}", "*a", "|*", "(", ")",
    "a)", "(a", "[", "[a", "[]",
    "[^]", "[[:alpha:]]", "[z-a]", r"[a-\d]", r"[\d-z]", "a{", "a}", "]", "a{,3}", "a{3,2}", "a{256}",
    "a{1,256}", "^*", "${2}",
    "\\", "((a{99}){99}){99}", r"\é", "[\\",
]  # fmt: skip


@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_patterns_outside_the_portable_subset_are_refused(pattern: str) -> None:
    """QRY-2: no backreference, lookaround, \\b; at most 200 characters."""
    with pytest.raises(StorageDataError, match="expected") as caught:
        F("a").regex(pattern)
    assert caught.value.field == "where.a"


def python_pattern(pattern: str) -> re.Pattern[str]:
    """The same pattern for `re`: our `$` is the very end, `.` any character."""
    return re.compile(pattern.replace("$", r"\Z"), re.ASCII | re.DOTALL)


ITEMS = st.sampled_from(
    [
        "a",
        "b",
        "c",
        ".",
        "^",
        "$",
        "[ab]",
        "[^a]",
        "[a-c]",
        r"[^\d]",
        r"[\Wa]",
        r"[a\]-]",
        r"\d",
        r"\w",
        r"\S",
        r"\.",
        "é",
        r"\n",
    ]
)
COUNTS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{0}", "{1,}", "{0,2}", "{1,3}?"])
PATTERNS = st.recursive(
    ITEMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner | st.just(""), min_size=2, max_size=3).map("|".join),
        st.builds(lambda item, count: f"({item}){count}", inner, COUNTS),
        st.builds(lambda item, count: f"(?:{item}){count}", inner, COUNTS),
        st.builds(lambda item, count: item + ("" if item in "^$" else count), ITEMS, COUNTS),
    ),
    max_leaves=8,
).filter(lambda pattern: 0 < len(pattern) <= 200)


@pytest.mark.timeout(3_600)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(PATTERNS, st.lists(st.text("abcé.1]-_ \n", max_size=10), min_size=1, max_size=5))
def test_regex_agrees_with_re(pattern: str, texts: list[str]) -> None:
    """QRY-2: the automaton finds exactly what backtracking finds."""
    expected = python_pattern(pattern)
    assert parse({"a": {"regex": pattern}}) is not None
    for text in texts:
        assert regex_search(pattern, text) is (expected.search(text) is not None), text


def test_regex_is_linear_where_backtracking_is_exponential() -> None:
    """With `re` each of these would run for years."""
    text = "a" * 5_000 + "b"
    for pattern in (
        "^(a|a)*$",
        "^(a+)+$",
        "^(a|aa)+$",
        "(.*)*c",
        "a*a*a*a*a*a*a*c",
        "(a?){99}a{99}c",
        "(a|b)*a(a|b){99}c",
    ):
        assert parse({"a": {"regex": pattern}}) is not None
        assert not regex_search(pattern, text)


def test_regex_forgets_states_and_stays_right() -> None:
    """More different characters than the cache of moves may hold: memory stays bounded."""
    text = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 12_000)) + "az"
    assert regex_search("a[x-z]$", text)
    assert not regex_search("a[x-z]$", text + "a")
    assert compiled("a[x-z]$").cached_moves <= MAX_CACHED_MOVES
