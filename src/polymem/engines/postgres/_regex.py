"""The portable pattern language as a regular expression of PostgreSQL, written without anything locale can change."""

from functools import lru_cache
from typing import Final

from polymem.contracts._filter_regex_parse import MAX_CODE, Alt, Anchor, Chars, Node, Repeat, Seq, parse_pattern

_ASTRAL: Final = 0xFFFF


@lru_cache(maxsize=256)
def to_server(pattern: str) -> str:
    """An "advanced" expression; the pattern has been checked."""
    return "***:" + _write(parse_pattern(pattern))


def _write(node: Node) -> str:
    match node:
        case Chars():
            return _write_chars(node)
        case Anchor(end):
            return r"\Z" if end else r"\A"
        case Seq(items):
            return "".join(_group(item) for item in items) or "(?:)"
        case Alt(items):
            return "|".join(_write(item) for item in items)
        case Repeat(item, least, most):
            return f"{_group(item)}{{{least},{'' if most is None else most}}}"


def _group(node: Node) -> str:
    written = _write(node)
    return written if isinstance(node, Chars | Anchor) else f"(?:{written})"


def _write_chars(chars: Chars) -> str:
    if chars.ranges == ((0, MAX_CODE),) and not chars.negated:
        return "."
    inside = "".join(_range(max(low, 1), high) for low, high in chars.ranges if high)  # no text holds U+0000
    if not inside:
        return "." if chars.negated else "(?!.)."
    return f"[{'^' if chars.negated else ''}{inside}]"


def _range(low: int, high: int) -> str:
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _code(code: int) -> str:
    return f"\\U{code:08X}" if code > _ASTRAL else f"\\u{code:04X}"
