"""Indexes bounded by bytes."""

from dataclasses import dataclass

from polymem.indexes import IndexCache


@dataclass
class Sized:
    nbytes: int


def test_least_recently_used_goes_first() -> None:
    cache = IndexCache[str, Sized](100)
    for key in "abc":
        cache.put(key, Sized(33))
    assert cache.get("a") is not None
    cache.put("d", Sized(33))
    assert cache.get("b") is None
    assert [key for key in "acd" if cache.get(key)] == ["a", "c", "d"]
    assert (cache.nbytes, len(cache)) == (99, 3)


def test_growth_is_noticed_and_the_one_in_use_stays() -> None:
    cache = IndexCache[str, Sized](100)
    grown = Sized(10)
    cache.put("a", grown)
    cache.put("b", Sized(50))
    grown.nbytes = 500
    cache.put("a", grown)
    assert cache.get("a") is grown
    assert (cache.nbytes, len(cache)) == (500, 1)


def test_replacing_and_discarding_keep_the_sum() -> None:
    cache = IndexCache[str, Sized](100)
    for key in "xyz":
        cache.put(key, Sized(10))
    cache.put("z", Sized(20))
    cache.discard("absent")
    cache.discard("x")
    cache.discard("y")
    assert (cache.nbytes, len(cache)) == (20, 1)
