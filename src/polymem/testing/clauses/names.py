"""Names and values that break careless engines (G-4, KV-3)."""

from typing import Any, Final

HOSTILE: Final = (
    "%", "%%", "%25", "%2F", "_", "__", ".", "..", "./a", "a.b", ":", "a:b", "/", "//", "a/", "/a", "a/b", "a/b/c",
    "*", "a*", "?", "{}", "{a}", "{a}b", "[a]", "(a)", "<a>", "'", "''", '"', "`", "\\", "\\\\", "\\0", ";", "--", "#",
    "$", "$1", "@a", "&", "|", "!", "^", "~", "=", "+", ",", " ", "  ", " a", "a ", "a b", "\t", "\n", "\r\n", "\x01",
    "\x7f", "a", "A", "aa", "ab", "aB", "a\u0301", "\u00e1", "\u00c1", "\u00df", "ss", "SS", "\u0130", "i\u0307", "I",
    "\u0131", "\u03c3", "\u03c2", "\u5b57", "\U0001f600", "\U0001f600\ufe0f", "\u200d", "\ufeff", "\u2028", "\ud7ff",
    "\ue000", "\uffff", "\U0010ffff", "0", "00", "1", "1e3", "-1", "null", "None", "true", "id", "rowid", "__proto__",
    "' or 1=1 --", "a'); drop table pm_kv; --", "x" * 512, "\u00e9" * 256, "\U0001f600" * 128,
)  # fmt: skip

TOO_LONG: Final = ("x" * 513, "\u00e9" * 257, "\U0001f600" * 129)
NOT_TEXT: Final[tuple[Any, ...]] = ("", "a\x00b", "\ud800", "a\udfffb", None, 1, b"a", ["a"])

VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 0.0, 1.0, 0.1, 1e308, 5e-324, -1.5e-7, 1e23, 2**53 + 1, 2**63 - 1, -(2**63), 2**63,
    2**64, 10**40, "", " ", "null", "0", "a\tb\nc\\d\"e'f", "\u2028\u2029", "\U0001f600", "\u00e1", "a\u0301", "\x01",
    [], {}, [[]], [{}], {"": ""}, {"a": None}, {"a": {"b": [1, 1.0, True, "1", None]}}, {"%": 1, ".": 2, "$a": 3},
    [None, [None, [None]]], {"b": 1, "a": 2}, list(range(1000)), "long " * 1000,
)  # fmt: skip
