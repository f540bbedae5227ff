"""What to look for in texts, and how a typed query is read (TXT-1)."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Final

from polymem.contracts._input import several
from polymem.core.text import check_name, check_text
from polymem.errors import StorageDataError

_QUERY_PARTS: Final = re.compile(r'"([^"]+)"|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class TextQuery:
    """What to look for: any of `words`, of words that start with one of `prefixes`, and each of `phrases`.

    `words`, `prefixes` and `phrases` are as the user typed them; the cell analyses them in the language of
    the collection, and one of which nothing is left is ignored. `weights` multiply a field's term counts (1
    for a field not named). `common` drops words found in more than that share of the documents, as long as a
    rarer one is left.
    """

    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    common: float = 1.0


def parse_query(text: str) -> TextQuery:
    """What a user typed as a query; never a syntax error.

    "Words in double quotes" are a phrase, a word that ends with * is a prefix, all else are words: AND,
    -word, an unbalanced quote and the like mean nothing of their own. Characters that cannot be stored count
    as spaces.
    """
    if not isinstance(text, str):
        raise StorageDataError(f"expected a string or a TextQuery, got {type(text).__name__}", field="query")
    found = [match.groups() for match in _QUERY_PARTS.finditer(_storable(text))]
    words = [word for _, word in found if word]
    prefixes = [stem for word in words if (stem := word.rstrip("*")) != word and stem]
    return TextQuery(
        words=tuple(word for word in words if not word.endswith("*")),
        phrases=tuple(phrase for phrase, _ in found if phrase and not phrase.isspace()),
        prefixes=tuple(prefixes),
    )


def _storable(text: str) -> str:
    """Typographic quotes made plain; U+0000 and unpaired surrogates made spaces."""
    plain = text.translate({0x201C: '"', 0x201D: '"', 0: " "})
    return plain if plain.isascii() else re.sub("[\ud800-\udfff]", " ", plain)


def check_query(query: TextQuery) -> TextQuery:
    """A query made by a program, checked."""
    for name in ("words", "phrases", "prefixes"):
        for item in several(getattr(query, name), field=f"query.{name}"):
            check_text(item, field=f"query.{name}")
    if not _is_number(query.common) or not 0 < query.common <= 1:
        raise StorageDataError("expected a share above 0 and at most 1", field="query.common")
    return replace(query, weights=check_weights(query.weights))


def check_weights(weights: object) -> tuple[tuple[str, float], ...]:
    """Field names with finite numbers from 0, given as a mapping or as pairs."""
    try:
        named: dict[Any, Any] = dict(weights)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise StorageDataError("expected a mapping of field names to numbers", field="weights") from error
    for name, weight in named.items():
        if not _is_number(weight) or not 0 <= weight < math.inf:
            raise StorageDataError("expected a finite number of at least 0", field=f"weights.{name}")
    return tuple((check_name(name, field="weights"), weight) for name, weight in named.items())


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_highlight(highlight: object) -> None:
    """None, or what to put before and after a match."""
    if highlight is None:
        return
    if not isinstance(highlight, tuple) or len(highlight) != 2:  # noqa: PLR2004 - before and after
        raise StorageDataError("expected the pair (before, after)", field="highlight")
    for mark in highlight:
        check_text(mark, field="highlight")
