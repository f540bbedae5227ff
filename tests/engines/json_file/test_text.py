"""KV-6: a file that people can read, and that says exactly what was stored (KV-3, G-5)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts.kv import Record
from polymem.core.namespace import encode
from polymem.engines.json_file._errors import DamagedError
from polymem.engines.json_file._text import Renderer, State, parse
from polymem.errors import StorageCorruptError

NOW = 1_700_000_000_000_000
HEAD = '{"format": "polymem json file", "format_version": 1, "namespaces": '


def record(body: bytes, codec: str = "json", version: int = 7, expires_at: int | None = None) -> Record:
    return Record(body, codec, version, NOW, NOW + 1, expires_at)


def rendered(state: State) -> bytes:
    return Renderer().render(state)


def test_reads_well() -> None:
    """Indented, in order, values as JSON, instants in ISO 8601, what is usual left out."""
    state = {
        "acme/": {"b": record(b'"\xc3\xa4"', "model:app.Word"), "a": record(b'{"dark":true,"sizes":[1,2]}')},
        "": {"n": record(b"-1", expires_at=NOW + 1_500_000)},
        "empty/": {},
    }
    assert (
        rendered(state).decode()
        == """\
{
  "format": "polymem json file",
  "format_version": 1,
  "namespaces": {
    "/": {
      "n": {
        "value": -1,
        "version": 7,
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:20.000001Z",
        "expires_at": "2023-11-14T22:13:21.500000Z"
      }
    },
    "/acme/": {
      "a": {
        "value": {
          "dark": true,
          "sizes": [
            1,
            2
          ]
        },
        "version": 7,
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:20.000001Z"
      },
      "b": {
        "value": "ä",
        "codec": "model:app.Word",
        "version": 7,
        "created_at": "2023-11-14T22:13:20Z",
        "updated_at": "2023-11-14T22:13:20.000001Z"
      }
    }
  }
}
"""
    )


def test_nothing_is_a_file_too() -> None:
    assert parse(rendered({}), NOW) == {}
    assert json.loads(rendered({}))["namespaces"] == {}


BODIES = [
    b"{}", b"[]", b'""', b"null", b"0", b"1e23", b"-0.0", b"1.0", b"123456789012345678901234567890", b'"\\n\\u2028"',
    b'{"b":1,"a":{"":[[],{}]}}', b'"  spaces  \\" and : , [ ] { } "',
    b'{ "spaced" : 1}', b"not json", b"", b"\x00\xff", b'"\xff"', b"[" * 5000 + b"]" * 5000, b'"open', b"1 2",
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_every_byte_comes_back(body: bytes) -> None:
    """Bodies that are compact JSON stand there as JSON, any other bytes (compressed, encrypted) in base64."""
    state = {"": {"k": record(body)}}
    text = rendered(state)
    assert parse(text, 0) == state
    stored = json.loads(text)["namespaces"]["/"]["k"]
    assert ("value" in stored) != ("base64" in stored)
    if body in BODIES[:12]:
        assert stored["value"] == json.loads(body)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
instants = st.integers(-(10**15), 10**16)
records = st.builds(
    Record,
    body=values.map(lambda v: json.dumps(v, separators=(",", ":"), ensure_ascii=False).encode()) | st.binary(),
    codec=st.sampled_from(["json", "model:a.B", "sealed"]),
    version=st.integers(0, 2**63 - 1),
    created_at=instants,
    updated_at=instants,
    expires_at=st.none() | instants,
)
namespaces = st.lists(texts, max_size=3).map(lambda segments: encode(tuple(segments)))


@given(st.dictionaries(namespaces, st.dictionaries(texts, records, min_size=1, max_size=3), max_size=3))
def test_what_is_written_is_read(state: State) -> None:
    text = rendered(state)
    assert parse(text, 0) == state
    assert list(json.loads(text)["namespaces"]) == sorted(f"/{name}" for name in state)


def test_only_what_changed_is_written_anew() -> None:
    """A save costs encoding for the changed records only; the outcome is that of writing everything."""
    renderer = Renderer()
    first = {"": {"a": record(b"1"), "b": record(b"2")}}
    renderer.render(first)
    kept = renderer._known[""]["a"][1]
    second = {"": {"a": first[""]["a"], "b": record(b"3")}, "x/": {"a": record(b"4")}}
    assert renderer.render(second) == rendered(second)
    assert renderer._known[""]["a"][1] is kept
    renderer.render({})
    assert not renderer._known


def test_a_person_may_write_it() -> None:
    """Only `value` is needed; what is left out is made up. A byte order mark and other time zones do no harm."""
    text = (
        HEAD + '{"/": {"a": {"value": {"x": [1, 2]}}, "b": {"value": 1, "expires_at": "2030-01-01T02:00:00+02:00"}}}}'
    )
    found = parse(b"\xef\xbb\xbf" + text.encode(), NOW)[""]
    assert found["a"].body == b'{"x":[1,2]}'
    assert found["a"][1:2] + found["a"][3:] == ("json", NOW, NOW, None)
    assert found["a"].version != found["b"].version
    assert found["b"].expires_at == 1_893_456_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "null garbage", "\x00" * 100, "%PNG",
        HEAD, HEAD + "{}", HEAD + "{}}}", HEAD + "[]}", HEAD + '{}, "more": 1}',
        HEAD + '{"/": {"a": 1}}}', HEAD + '{"/": {"a": {}}}}', HEAD + '{"/": {"a": {"value": 1, "base64": ""}}}}',
        HEAD + '{"/": {"a": {"value": 1, "expire_at": null}}}}', HEAD + '{"/": {"a": {"value": 1, "version": "x"}}}}',
        HEAD + '{"/": {"a": {"value": 1, "created_at": "2030-01-01T00:00:00"}}}}',
        HEAD + '{"/": {"a": {"base64": "?"}}}}', HEAD + '{"/": {"": {"value": 1}}}}',
        HEAD + '{"/": {"a": {"value": "\\u0000"}}}}', HEAD + '{"/": {"\\u0000": {"value": 1}}}}',
        HEAD + '{"acme": {}}}', HEAD + '{"/acme": {}}}', HEAD + '{"//": {}}}', HEAD + '{"/' + "x/" * 300 + '": {}}}', HEAD + '{"/%/": {}}}',
        HEAD.replace("1", '"1"') + "{}}",
    ],
)  # fmt: skip
def test_damage(text: str) -> None:
    with pytest.raises(DamagedError):
        parse(text.encode(), NOW)


def test_not_utf_8() -> None:
    with pytest.raises(DamagedError, match="UTF-8"):
        parse(HEAD.encode() + b'{"/": {"a": {"value": "\xff"}}}}', NOW)


@pytest.mark.parametrize("text", ["[]", "1", '"text"', "{}", '{"format": 1}', '{"name": "x", "version": "1.0.0"}'])
def test_json_of_others(text: str) -> None:
    with pytest.raises(StorageCorruptError, match="another application"):
        parse(text.encode(), NOW)


def test_newer_versions() -> None:
    with pytest.raises(StorageCorruptError, match="format 2.*upgrade"):
        parse(HEAD.replace("1", "2").encode() + b'"whatever it will be"}', NOW)


def test_errors_hold_no_values() -> None:
    with pytest.raises(DamagedError) as caught:
        parse((HEAD + '{"/": {"secret key": {"value": 1, "version": "secret value"}}}}').encode(), NOW)
    assert "secret" not in str(caught.value)
    assert "namespaces" in str(caught.value)  # but they say where
