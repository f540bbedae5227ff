"""What only PostgreSQL does: full-text search ranked in the database, and hybrid search in one statement (PG-3).

`store.text(...).search` ranks by BM25, by an index in the memory of each process, as on every other engine. These functions
need no such index. They rank by `ts_rank` over the words of the server's own dictionaries, which know no statistics
of the collection.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from polymem.contracts._input import Where
from polymem.contracts.filter import parse
from polymem.contracts.text import Text, TextHit, parse_query
from polymem.contracts.vectors import Vectors, check_vector
from polymem.core.codec import decode_json
from polymem.core.text import check_limit, check_name, check_text
from polymem.errors import StorageDataError, StorageUnsupportedError


class HybridHit(NamedTuple):
    """A search result, and its place in either list (from 1; None where it is not among the best of it).

    `fields` are empty where there is a vector without a text; the payload is the text's, or else the vector's.
    """

    id: str
    score: float
    text_place: int | None
    vector_place: int | None
    fields: Mapping[str, str]
    payload: Mapping[str, Any]


async def index_vectors(vectors: Vectors) -> None:
    """Make the index of a collection of 10,000 vectors or more now, and wait for it.

    Without this call a write has it made in the background.

    `StorageUnsupportedError` where the store was opened with `vector_index=exact`, or within a transaction.
    """
    await _of_postgres(vectors.driver, "make_index")(vectors.space)


async def enable_full_text(text: Text, *, configuration: str | None = None) -> None:
    """Let the server keep the words of a collection, of what it holds and of what is written from now on.

    `configuration` is a text search configuration of the server; without one it is that of the collection's language, or
    `simple` where the server has none. Repeating it is harmless and another configuration replaces the former, both
    while others write. `clear` ends it.
    """
    if configuration is not None:
        check_text(configuration, field="configuration")
    await _of_postgres(text.driver, "enable_full_text")(text.collection, configuration)


async def full_text(text: Text, query: str, *, limit: int = 10, where: Where | None = None) -> list[TextHit]:
    """The documents that match and satisfy `where`, best first, ties by id.

    The query is read as by `text.search`: any of its words, each of its "phrases", prefix*; never a syntax error.
    `StorageDataError` before `enable_full_text`.
    """
    wanted, condition = parse_query(query), parse(where)
    if not check_limit(limit):
        return []
    hits: list[TextHit] = await _of_postgres(text.driver, "full_text")(
        text.collection, wanted, limit=limit, where=condition
    )
    return hits


async def hybrid(
    vectors: Vectors, vector: ArrayLike, query: str, *, text: str | None = None, limit: int = 10,
    where: Where | None = None, text_weight: float = 0.5,
) -> list[HybridHit]:  # fmt: skip
    """What is near to a vector, what matches a query, and best what is both, by one statement.

    `text` names the collection of texts of the same namespace (that of the vectors' name by default) in which the same ids
    stand. The best 200 of both lists (or `limit`, if that is more) are fused by reciprocal rank:
    `text_weight / (60 + place) + (1 - text_weight) / (60 + place)`. `where` is asked of each list's own payloads.
    """
    wanted, condition = check_vector(vector, vectors.space, "the vector searched for"), parse(where)
    sought, name = parse_query(query), vectors.space.name if text is None else check_name(text, field="text")
    if isinstance(text_weight, bool) or not isinstance(text_weight, int | float) or not 0 <= text_weight <= 1:
        raise StorageDataError("expected a number from 0 to 1", field="text_weight")
    if not check_limit(limit):
        return []
    rows = await _of_postgres(vectors.driver, "hybrid")(
        vectors.space, wanted, name, sought, limit=limit, where=condition, text_weight=float(text_weight)
    )
    return [
        HybridHit(id, score, in_text, in_vectors, decode_json(fields or "{}"), decode_json(payload))
        for id, score, in_text, in_vectors, fields, payload in rows
    ]


def _of_postgres(driver: object, operation: str) -> Any:
    found = getattr(driver, operation, None)
    if found is None:
        raise StorageUnsupportedError("only PostgreSQL can do this", operation=operation)
    return found
