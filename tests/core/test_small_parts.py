"""Clock, codec, namespaces, text checks, registry (G-2, G-5, G-6, KV-2, KV-3, KV-4)."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasPath, BaseModel, ConfigDict, Field, Json, computed_field

from polymem.core import namespace, registry
from polymem.core.clock import ManualClock, SystemClock, expiry, to_datetime, to_instant
from polymem.core.codec import JsonCodec, ModelCodec, decode_json, encode_json
from polymem.core.text import check_key, check_limit, check_name, check_text
from polymem.errors import StorageCorruptError, StorageDataError, StorageTimeoutError, StorageUnsupportedError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_any_json_value_comes_back_equal(value):
    again = decode_json(encode_json(value))
    assert again == value
    assert repr(again) == repr(value)  # 1 is not 1.0 and not True


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "value"),
        ([1, math.inf], "value[1]"),
        ({"a": {"b": b"x"}}, "value.a.b"),
        ({"a": [{"b": "\x00"}]}, "value.a[0].b"),
        ({"a": "\ud800"}, "value.a"),
        ({1: 2}, "value"),
        ({"\x00": 1}, "value key"),
        (datetime.now(UTC), "value"),
        ({1, 2}, "value"),
        (Colour.RED, "value"),
        pytest.param(10**5000, "value", id="too many digits"),
        pytest.param({"a": [1, -(10**5000)]}, "value.a[1]", id="too many digits inside"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_path(value, path):
    with pytest.raises(StorageDataError) as caught:
        encode_json(value)
    assert caught.value.field == path


def test_nesting_is_bounded():
    deep = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(StorageDataError, match="nested deeper"):
        encode_json(deep)


def test_damage_is_corruption_not_absence():
    with pytest.raises(StorageCorruptError):
        decode_json(b"{")


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Struct(msgspec.Struct):
    when: datetime
    data: bytes


class Model(BaseModel):
    name: str


class Inner(BaseModel):
    z: int = Field(alias="zed")


class Aliased(BaseModel):
    """Each name is the other one's alias, one field is read and written by different ones, one is computed."""

    model_config = ConfigDict(serialize_by_alias=True, extra="forbid")
    a: int = Field(alias="b")
    b: int = Field(alias="a")
    inner: Inner = Field(validation_alias=AliasPath("x", 0), serialization_alias="y")
    numbers: Json[list[int]]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def both(self) -> int:
        return self.a + self.b


class Options(TypedDict):
    dark: bool


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Point, Point(1, 2)),
        (Struct, Struct(datetime(2025, 1, 1, tzinfo=UTC), b"\x00\xff")),
        (Model, Model(name="Ada")),
        (Aliased, Aliased.model_validate({"a": 2, "b": 1, "x": [{"zed": 3}], "numbers": "[1]"})),
        (Options, {"dark": True}),
        (int | None, 3),
        (None, None),
    ],
)
def test_typed_values_come_back_equal(model, value):
    codec = ModelCodec(model)
    assert codec.decode(codec.encode(value)) == value
    assert codec.tag.startswith("model:")


@pytest.mark.parametrize("model", [Point, Model])
def test_a_typed_codec_refuses_other_types(model):
    with pytest.raises(StorageDataError) as caught:
        ModelCodec(model).encode({"x": 1})
    assert caught.value.field == "value"
    with pytest.raises(StorageDataError, match="does not fit"):
        ModelCodec(model).decode(b'{"x": "no"}')


def test_fields_with_aliases_are_stored_by_name():
    """KV-3, QRY-2: a filter names the fields as the program does."""
    value = Aliased.model_validate({"a": 2, "b": 1, "x": [{"zed": 3}], "numbers": "[1]"})
    stored = decode_json(ModelCodec(Aliased).encode(value))
    assert stored == {"a": 1, "b": 2, "inner": {"z": 3}, "numbers": "[1]"}


def test_aliases_that_an_old_pydantic_cannot_read_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr("polymem.core.codec._by_name", lambda _: {})
    with pytest.raises(StorageDataError, match="need pydantic 2.11 or populate_by_name"):
        ModelCodec(Inner).encode(Inner(zed=1))


def test_a_subclass_that_would_come_back_as_its_parent_is_refused():
    """KV-3: what goes in comes out equal."""

    @dataclasses.dataclass
    class Further(Point):
        z: int = 0

    class Longer(Model):
        age: int = 0

    class Wider(Struct):
        more: int = 0

    wider = Wider(datetime(2025, 1, 1, tzinfo=UTC), b"")
    for model, value in ((Point, Further(1, 2)), (Model, Longer(name="Ada")), (Struct, wider)):
        with pytest.raises(StorageDataError, match="what it adds would be lost") as caught:
            ModelCodec(model).encode(value)
        assert caught.value.field == "value"
        codec = ModelCodec(type(value))
        assert codec.decode(codec.encode(value)) == value


def test_a_typed_codec_refuses_what_json_cannot_hold():
    @dataclasses.dataclass
    class Odd:
        value: object

    with pytest.raises(StorageDataError, match="cannot be encoded"):
        ModelCodec(Odd).encode(Odd(object()))


@dataclasses.dataclass
class Loose:
    value: Any
    more: dict[int, Any] = dataclasses.field(default_factory=dict)


class LooseModel(BaseModel):
    value: Any


@pytest.mark.parametrize("make", [Loose, lambda value: LooseModel(value=value), lambda value: Loose(None, {1: value})])
@pytest.mark.parametrize("bad", [float("nan"), -float("inf"), "a\x00", ["\ud800"]])
def test_a_typed_codec_refuses_what_would_come_back_as_something_else(make, bad):
    """KV-3: as the plain codec does; null itself, and a backslash before u0000, are fine."""
    with pytest.raises(StorageDataError) as caught:
        ModelCodec(type(make(0))).encode(make(bad))
    assert caught.value.field.startswith("value")
    for fine in (None, "\\u0000", [None, "\\\\u0000"]):
        codec = ModelCodec(type(make(0)))
        assert codec.decode(codec.encode(make(fine))) == make(fine)


@pytest.mark.parametrize(
    ("model", "bad", "field"),
    [
        (Point, Point("1", 2), "value.x"),
        (Loose, Loose(1, {"one": 1}), "value.more"),
        (int, True, "value"),
        (list[int], [1, "two"], "value[1]"),
        (int | None, "none", "value"),
        (Model, Model.model_construct(name=3), "value"),
    ],
)
def test_a_typed_codec_refuses_what_it_could_not_read_again(model, bad, field):
    """KV-3: a type's fields are not checked when it is made."""
    with pytest.raises(StorageDataError, match="do not fit") as caught:
        ModelCodec(model).encode(bad)
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize("model", ["Point", 3, print])
def test_a_typed_codec_refuses_what_is_no_type(model):
    with pytest.raises(StorageDataError, match="a type") as caught:
        ModelCodec(model)
    assert caught.value.field == "model"


@pytest.mark.parametrize("value", [3, None])
def test_a_union_is_a_type(value):
    codec = ModelCodec(int | None)
    assert codec.decode(codec.encode(value)) == value


def test_the_json_codec_is_the_plain_one():
    assert JsonCodec().decode(JsonCodec().encode({"a": 1})) == {"a": 1}


class TestClock:
    def test_now_is_microseconds_utc(self):
        assert abs(to_datetime(SystemClock().now()) - datetime.now(UTC)) < timedelta(seconds=5)

    @given(st.datetimes(timezones=st.just(UTC)))
    def test_instants_round_trip(self, moment):
        assert to_datetime(to_instant(moment)) == moment

    def test_naive_datetimes_are_refused(self):
        with pytest.raises(StorageDataError) as caught:
            to_instant(datetime(2025, 1, 1))
        assert caught.value.field == "at"

    def test_ttl_in_every_form(self):
        clock = ManualClock(1_000_000)
        assert expiry(None, clock) is None
        assert expiry(1, clock) == 2_000_000
        assert expiry(timedelta(milliseconds=1), clock) == 1_001_000
        assert expiry(to_datetime(5), clock) == 5
        assert expiry(-2, clock) == -1_000_000  # legal: simply expired

    def test_fractions_round_up_never_down(self):
        assert expiry(0.0000001, ManualClock(0)) == 1
        assert expiry(1.5e-6, ManualClock(0)) == 2

    @pytest.mark.parametrize("ttl", [True, "60", math.nan, math.inf, 1e12, -1e12])
    def test_bad_ttl_names_the_field(self, ttl):
        with pytest.raises(StorageDataError) as caught:
            expiry(ttl, ManualClock())
        assert caught.value.field == "ttl"

    def test_the_manual_clock_moves_when_told(self):
        clock = ManualClock(0)
        clock.advance(1.5)
        assert clock.now() == 1_500_000


class TestNamespaces:
    segments = st.lists(texts.filter(bool), max_size=4).map(tuple)

    @given(segments, segments)
    def test_the_encoding_is_injective_and_reversible(self, one, two):
        assert namespace.decode(namespace.encode(one)) == one
        assert (namespace.encode(one) == namespace.encode(two)) == (one == two)

    @given(segments, segments)
    def test_a_subtree_is_a_range(self, one, two):
        start, inside = namespace.encode(one), namespace.encode(two)
        if one:
            assert (start <= inside < namespace.subtree_end(start)) == (two[: len(one)] == one)

    def test_the_root_has_no_bound(self):
        assert namespace.subtree_end("") == ""

    @pytest.mark.parametrize("segment", ["", "\x00", "x" * 513, 7])
    def test_bad_segments_name_the_field(self, segment):
        with pytest.raises(StorageDataError) as caught:
            namespace.child("", (segment,))
        assert caught.value.field == "namespace"

    def test_the_whole_name_is_bounded(self):
        with pytest.raises(StorageDataError):
            namespace.child("a/" * 200, ("x" * 200,))


class TestText:
    def test_keys_hold_any_text_of_512_bytes(self):
        assert check_key("é" * 256)
        for bad in ("", "é" * 257, "x" * 513, "a\x00", "\udc00", 1, None):
            with pytest.raises(StorageDataError) as caught:
                check_key(bad)
            assert caught.value.field == "key"

    def test_text_may_be_empty(self):
        assert check_text("", field="x") == ""

    def test_names_are_plain(self):
        assert check_name("facts_2-b", field="name")
        for bad in ("", "1a", 'a"b', "a.b", "x" * 64, "é", None, "a\n"):
            with pytest.raises(StorageDataError):
                check_name(bad, field="name")

    @pytest.mark.parametrize("limit", [-1, True, 1.0, "5", None, 2**61 + 1])
    def test_limits_are_whole_numbers(self, limit):
        with pytest.raises(StorageDataError) as caught:
            check_limit(limit)
        assert caught.value.field == "limit"


class TestRegistry:
    def test_it_lists_what_can_be_opened(self):
        assert {"memory", "sqlite"} <= set(registry.schemes())

    @pytest.mark.parametrize("url", ["", "agent.db", ":", 7, "no such://x"])
    def test_what_is_not_a_url(self, url):
        with pytest.raises(StorageDataError) as caught:
            registry.create_engine(url)
        assert caught.value.field == "url"

    def test_an_unknown_scheme_lists_the_known_ones(self):
        with pytest.raises(StorageDataError, match="file, memory, .*sqlite"):
            registry.create_engine("oracle://x")

    @pytest.mark.parametrize("url", ["memory:", "sqlite:///never.db", "file:never.json"])
    def test_engines_without_connections_of_others_say_what_to_do(self, url: str) -> None:
        with pytest.raises(StorageUnsupportedError, match=r"takes no client: .*(a file of its own|share the store)"):
            registry.create_engine(url, client=object())
        registry.create_engine(url, client=None)

    def test_a_planned_engine_says_so(self):
        with pytest.raises(StorageUnsupportedError, match="qdrant engine is not part of this version"):
            registry.create_engine("qdrant://localhost")

    def test_a_missing_driver_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(registry._BUILT_IN, "fake", ("no_such_driver.engine:from_url", "fake"))
        with pytest.raises(StorageUnsupportedError, match=r"pip install 'polymem\[fake\]'"):
            registry.create_engine("fake://x")

    def test_a_fault_of_our_own_is_not_blamed_on_an_extra(self, monkeypatch):
        monkeypatch.setitem(registry._BUILT_IN, "fake", ("polymem.engines.nowhere:from_url", "fake"))
        with pytest.raises(ModuleNotFoundError):
            registry.create_engine("fake://x")

    def test_third_parties_are_entry_points(self, monkeypatch):
        class Point:
            name = "acme"

            def load(self):
                return lambda url, **options: (url, options)

        monkeypatch.setattr(registry, "entry_points", lambda **_: [Point()])
        assert registry.create_engine("acme://x", a=1) == ("acme://x", {"a": 1})


def test_a_timeout_is_also_the_builtin_one():
    with pytest.raises(TimeoutError):
        raise StorageTimeoutError("slow", engine="sqlite", operation="kv.get")
    assert str(StorageTimeoutError("slow", engine="sqlite", operation="kv.get")) == "sqlite/kv.get: slow"
