"""Marking the words a search matched."""

from collections.abc import Iterable, Sequence

Phrase = tuple[str, ...]


def mark(
    spans: Sequence[tuple[str, int, int]], text: str, wanted: Iterable[Phrase], marks: tuple[str, str]
) -> str | None:
    """`text` with `marks` around the words of every occurrence of a wanted phrase; None where there is none.

    `spans` are the text's terms with their places.
    """
    terms = [term for term, _, _ in spans]
    by_first: dict[str, list[Phrase]] = {}
    for phrase in wanted:
        by_first.setdefault(phrase[0], []).append(phrase)
    hit: set[int] = set()
    for at, term in enumerate(terms):
        for phrase in by_first.get(term, ()):
            if tuple(terms[at : at + len(phrase)]) == phrase:
                hit.update(range(at, at + len(phrase)))
    return _marked(text, _merged([spans[at][1:] for at in sorted(hit)]), marks) if hit else None


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without overlaps: the pairs of characters of an unspaced script share some."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _marked(text: str, ranges: list[tuple[int, int]], marks: tuple[str, str]) -> str:
    pieces, at = [], 0
    for start, end in ranges:
        pieces += [text[at:start], marks[0], text[start:end], marks[1]]
        at = end
    return "".join([*pieces, text[at:]])
