r"""The filter language (`where=`): what a condition on a JSON document means, on every engine.

Two equal forms::

    (F("age") >= 18) & (F("profile.address.city") == "Lisbon") & ~F("tags").contains("old")
    {"age": {"ge": 18}, "profile.address.city": "Lisbon", "not": {"tags": {"contains": "old"}}}

Operators of the mapping form: `eq ne lt le gt ge in not_in exists contains starts_with between regex`; a
plain value means `eq`; several keys mean `and`; `{"and": [...]}`, `{"or": [...]}` and `{"not": {...}}`
nest. `None` and `{}` are no filter; an empty list under `and`/`or` is refused.

Paths. `"a.b"` goes from key to key. A segment of digits (`0`, `12`; no leading zero, at most 9 digits) also
indexes an array, from 0; in an object it is a key. A backslash takes the next character literally: `"a\.b"`
is one key, `"\or"` is the key `or`. A list path takes keys as they are: `F(["a.b"])`, `F("a", "b.c", 0)`.
At most 32 segments, 3 of digits.

Null and missing. `exists` = the path is present, null counts; `== None` = present and null (also within
`in` and `contains`); every other comparison is false for null and missing. `ne` is exactly `not eq`,
`not_in` exactly `not in`, and `not` is plain Boolean: all three are true where the path is missing.

Types. Different types never match: `1` is not `"1"`, `True` is not `1`. Integers and floats compare by
their exact numeric value (`2**53 + 1` is not `2.0**53`, `1 == 1.0`, `-0.0 == 0`). Documents may hold
integers beyond 64 bits: they compare as their nearest float; as an operand they are refused, give a float.
Arrays and objects know `eq`, `ne`, `in`, `not_in` (equal in depth, numbers as above, order of keys ignored)
and no less or greater.

- `lt le gt ge between`: numbers or strings; strings by code point; `between` includes both ends.
- `contains`: on a string, a substring; on an array, a member equal to the value; on anything else false.
- `starts_with`, `contains`, `regex` are case-sensitive.
- `regex` searches. The portable subset: literals, `.` (any character, newline too), `[...]` with ranges and
  `^`, `\d \w \s \D \W \S` (ASCII), `\n \t \r \f \v`, backslash with punctuation, `( )`, `(?: )`, `|`, `* +
  ? {m} {m,} {m,n}` (at most 255, lazy forms too), `^` and `$` (start and very end of the text). At most 200
  characters; no backreference, lookaround, `\b`, flags. Time is linear in the text.

Order. number < string < bool < array or object (ties among themselves), turned round by `desc`; then null,
then missing, last in both directions; the id ends every order, ascending.

Documents are JSON without duplicate keys, NaN, infinities, U+0000 and unpaired surrogates, as the codec
writes them. What makes no sense is a StorageDataError whose `field` is `where`, or `where.` and the path. A
filter has at most 256 comparisons, 32 levels deep. Filters are immutable and hashable; `bool(filter)`
raises, because `a and b` drops `a`.
"""

from polymem.contracts._filter_ast import And, Compare, F, Filter, Not, Or, paths_in
from polymem.contracts._filter_match import Direction, OrderBy, matches, parse_order, sort_key
from polymem.contracts._filter_parse import fingerprint, parse
from polymem.contracts._filter_regex import regex_search
from polymem.contracts._filter_values import Json, Operand, Path, Scalar, canonical, is_index

__all__ = [
    "And",
    "Compare",
    "Direction",
    "F",
    "Filter",
    "Json",
    "Not",
    "Operand",
    "Or",
    "OrderBy",
    "Path",
    "Scalar",
    "canonical",
    "fingerprint",
    "is_index",
    "matches",
    "parse",
    "parse_order",
    "paths_in",
    "regex_search",
    "sort_key",
]
