"""Full-text search by the server itself (`tsvector`), and its fusion with vector search, in one statement each.

A collection has it once it was asked for: `pm_collections.full_text` then names the server's configuration for its
language, and every writer fills `pm_texts.words`. Others pay nothing.
"""

from typing import Final, NamedTuple

from polymem.contracts.filter import Filter
from polymem.contracts.text import TextQuery
from polymem.engines.postgres import _collections
from polymem.engines.postgres._collections import Place, satisfying
from polymem.engines.postgres._runner import Fetch, Runner
from polymem.engines.postgres.filter_sql import Values
from polymem.errors import StorageDataError

DEPTH: Final = 200
"""How many of each list are fused, at least."""
SMOOTHING: Final = 60
"""The k of reciprocal rank fusion (Cormack, Clarke, Buettcher, SIGIR 2009)."""
_MOST_WORDS: Final = 1000
_LONGEST: Final = 500
"""Characters of a word or phrase that is looked for; the server refuses very long ones."""
_ROUND: Final = 1000
_BY_LENGTH: Final = 1
"""What `ts_rank` divides by: 1 + log(length)."""
_CONFIGURATION: Final = """
select coalesce($2::text::regconfig, (select c.oid from pg_ts_config c where cfgname = $1 order by oid limit 1)::regconfig,
'simple')::text"""
_MAKE: Final = (
    "insert into pm_collections(namespace, contract, name, options) values ($1, $2, $3, $4) on conflict do nothing"
)
_ENABLED: Final = (
    "select collection, full_text from pm_collections where namespace = $1 and contract = $2 and name = $3"
)
_ENABLE: Final = "update pm_collections set full_text = $2 where collection = $1"
_FORGET: Final = "update pm_texts set words = null where collection = $1 and words is not null"
_FILL: Final = """
with page as materialized (
    select id from pm_texts where collection = $1 and id > $2 order by id limit $3 for no key update),
filled as (update pm_texts set words = to_tsvector($4::text::regconfig, pm_words(fields))
    where collection = $1 and words is null and id in (select id from page))
select max(id) from page"""


class Wanted(NamedTuple):
    """What a search looks for."""

    query: TextQuery
    limit: int
    where: Filter | None


class Searched(NamedTuple):
    """A collection of texts, and the configuration by which its words were found."""

    number: int
    configuration: str


async def enable(runner: Runner, place: Place, configuration: str | None) -> None:
    """Fill `words` of all rows; writers that come meanwhile fill those of theirs."""
    wanted = (await runner.fetch(_CONFIGURATION, place.options["language"], configuration))[0][0]
    await runner.fetch(_MAKE, *place.row())
    await _collections.find(runner.fetch, place)  # refuses another language
    async with runner.unit() as link:
        # for update: waits for writers who do not know of it yet
        ((number, before),) = await link.fetch(f"{_ENABLED} for update", *place[:3])
        if before != wanted:
            await link.fetch(_FORGET, number)
            await link.fetch(_ENABLE, number, wanted)
    last = ""
    while last is not None:
        last = (await runner.fetch(_FILL, number, last, _ROUND, wanted))[0][0]


async def searched(fetch: Fetch, namespace: str, name: str) -> Searched | None:
    """What is searched under a name, None where there is nothing; `StorageDataError` where it was not enabled."""
    rows = await fetch(_ENABLED, namespace, "text", name)
    if rows and rows[0][1] is None:
        raise StorageDataError(f"{name} has no words to search yet: call enable_full_text once", field="text")
    return Searched(*rows[0]) if rows else None


def full_text_statement(found: Searched, wanted: Wanted) -> tuple[str, Values]:
    """The best documents: id, score, fields and payload."""
    values = Values([found.number])
    matching = _matching("$1", found.configuration, wanted, values)
    return (
        f"with found as materialized ({matching}) select f.id, f.score, t.fields, t.payload from found f "
        "join pm_texts t on t.collection = $1 and t.id = f.id order by f.score desc, f.id"
    ), values


def hybrid_statement(nearest: str, found: Searched | None, wanted: Wanted, weight: float, values: Values) -> str:
    """The best of two lists by reciprocal rank fusion: id, score, both places, fields and payload.

    `nearest` gives id and distance of vectors; the number of their collection is the first of `values`.
    """
    texts = values.add(found.number if found else 0, "bigint")
    depth = max(wanted.limit, DEPTH)
    configuration = found.configuration if found else "simple"
    matching = _matching(texts, configuration, wanted._replace(limit=depth), values)
    share = values.add(weight, "float8")
    return (
        f"with nearest as materialized ({nearest}), found as materialized ({matching}), "
        "near as (select id, row_number() over (order by distance, id) as place from nearest), "
        "matched as (select id, row_number() over (order by score desc, id) as place from found), "
        "fused as (select id, m.place as text_place, n.place as vector_place, "
        f"coalesce({share} / ({SMOOTHING} + m.place), 0) + coalesce((1 - {share}) / ({SMOOTHING} + n.place), 0) as score "
        f"from matched m full join (select * from near where place <= {depth}) n using(id)) "
        "select f.id, f.score, f.text_place, f.vector_place, t.fields, coalesce(t.payload, v.payload) "
        f"from (select * from fused where score > 0 order by score desc, id limit {int(wanted.limit)}) f "
        f"left join pm_texts t on t.collection = {texts} and t.id = f.id "
        "left join pm_vectors v on v.collection = $1 and v.id = f.id order by f.score desc, f.id"
    )


def _matching(collection: str, configuration: str, wanted: Wanted, values: Values) -> str:
    """Ids and scores of the best matches: all phrases, or without any some word or prefix, as in `TextQuery`."""
    given = f"{values.add(configuration, 'text')}::regconfig"
    loose, phrases = _any_of(wanted.query), [_operand(phrase) for phrase in wanted.query.phrases]
    matches = ranked = f"to_tsquery({given}, {values.add(' | '.join(loose), 'text')})"
    if phrases:
        required = f"to_tsquery({given}, {values.add(' & '.join(phrases), 'text')})"
        matches = f"case when numnode({required}) > 0 then {required} else {matches} end"
        ranked = f"to_tsquery({given}, {values.add(' | '.join([*loose, *phrases]), 'text')})"
    # queries of their own are asked once, and not for each row
    return (
        f"select id, ts_rank(words, (select {ranked}), {_BY_LENGTH})::float8 as score from pm_texts "
        f"where collection = {collection} and words @@ (select {matches}) and {satisfying(wanted.where, values)} "
        f"order by score desc, id limit {values.add(wanted.limit, 'bigint')}"
    )


def _any_of(query: TextQuery) -> list[str]:
    words = [_operand(word) for word in query.words]
    return [*words, *(f"{_operand(prefix)}:*" for prefix in query.prefixes)][:_MOST_WORDS]


def _operand(text: str) -> str:
    """A quoted operand of `to_tsquery`: several words in it are a phrase, and nothing in it is an operator."""
    escaped = text[:_LONGEST].replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
