"""The JSON codec (KV-3): what is refused is found by a quick look at types and at the encoded text."""

import enum
import math

import pytest

from polymem.core.codec import check_json, decode_json, encode_json
from polymem.errors import StorageDataError


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


REFUSED = [
    ("a\0b", "value"),
    ({"a": ["fine", "\0"]}, "value.a[1]"),
    ({"a": {"b\0": 1}}, "value.a key"),
    (["\ud800"], "value[0]"),
    ({"a": "é\udfff"}, "value.a"),
    ({"\ud800": 1}, "value key"),
    ([1.5, math.nan], "value[1]"),
    ({"a": -math.inf}, "value.a"),
    ({"a": [Colour.RED]}, "value.a[0]"),
    ([b"bytes"], "value[0]"),
    ({"a": {1: 2}}, "value.a"),
    ([{Text("a"): 2}], "value[0]"),
]


@pytest.mark.parametrize(("value", "field"), REFUSED, ids=lambda case: ascii(case)[:30])
def test_what_json_or_an_engine_cannot_hold_is_refused_with_its_path(value, field):
    for check in (encode_json, check_json):
        with pytest.raises(StorageDataError) as caught:
            check(value)
        assert caught.value.field == field


@pytest.mark.parametrize("text", ["\\u0000", "a\\", "\\\\u0000", '"\\u0000"', "line\nbreak\t", "\x01", "é😀", "\x7f"])
def test_text_that_only_looks_like_it_is_kept(text):
    value = {text: [text, {"a": text}]}
    assert decode_json(encode_json(value)) == value


def test_an_integer_python_refuses_to_print_says_so():
    with pytest.raises(StorageDataError, match="too many digits"):
        encode_json([10**5000])
