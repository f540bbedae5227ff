"""Cursors."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polymem
from polymem.core.cursor import decode_cursor, encode_cursor
from polymem.errors import StorageDataError

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts)
def test_a_position_comes_back(query, position):
    cursor = encode_cursor(query, position)
    assert decode_cursor(query, cursor) == position
    assert cursor.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize("cursor", ["", "x", "é", "e30", "WzEsMl0", 7, encode_cursor("other", "a")])
def test_what_is_not_ours_names_the_field(cursor):
    with pytest.raises(StorageDataError) as caught:
        decode_cursor("mine", cursor)
    assert caught.value.field == "cursor"


def test_pages_of_a_listing_until_its_end():
    async def work():
        async with polymem.open("memory:") as store:
            await store.kv.put_many({f"k{n:02}": n for n in range(25)})
            seen, cursor = [], None
            while True:
                entries, cursor = await store.kv.page("k", limit=10, cursor=cursor)
                seen += [entry.value for entry in entries]
                if cursor is None:
                    break
            assert seen == list(range(25))
            _, cursor = await store.kv.page("k", limit=1)
            for other, prefix in ((store, "k1"), (store.namespace("a"), "k")):
                with pytest.raises(StorageDataError, match="another listing"):
                    await other.kv.page(prefix, cursor=cursor)
            with pytest.raises(StorageDataError) as caught:
                await store.kv.page(limit=0)
            assert caught.value.field == "limit"

    asyncio.run(work())
