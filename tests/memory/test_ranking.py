"""The order of recall: true union, explained scores, determinism (issue: Memory; REQUIREMENTS TIER-3, G-2)."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.contracts.vectors import centred_cosines
from polymem.errors import StorageDataError
from polymem.memory.ranking import (
    Attributes,
    Query,
    Ranking,
    Weights,
    best_case,
    candidates,
    common_share,
    idf,
    indexed_text,
    is_first_person,
    query_vector,
    question_words,
    rank,
    text_trust,
)
from polymem.providers.embedding import TokenVectors

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ONLY_USERS = {"a": Attributes(role="user"), "b": Attributes(role="assistant")}


def beside(id: str) -> Iterable[str]:
    """Ids are numbers, and so are their neighbours."""
    return (str(int(id) - 1), str(int(id) + 1))


scores = st.floats(0.001, 100)
ids = st.integers(0, 30).map(str)
matches = st.lists(st.tuples(ids, scores), max_size=12, unique_by=lambda match: match[0])
cosines = st.lists(st.tuples(ids, st.floats(-1, 1)), max_size=12, unique_by=lambda match: match[0])


class TestUnion:
    def test_a_hit_of_the_text_list_alone_can_win(self) -> None:
        """Against the nearest vector of all, even where its own says nothing."""
        hits = rank([("keyword", 9.0), ("both", 2.0)], [("both", 0.9), ("vector", 0.8), ("keyword", -0.1)])
        assert hits[0].id == "keyword"

    def test_a_hit_of_the_vector_list_alone_can_win(self) -> None:
        hits = rank([("word", 3.0)], [("meaning", 0.8), ("word", 0.0)], query=Query(trust=0.6))
        assert hits[0].id == "meaning"

    def test_vectors_alone_rank_when_no_word_is_found(self) -> None:
        assert [hit.id for hit in rank([], [("a", 0.1), ("b", 0.7)])] == ["b", "a"]

    def test_text_alone_ranks_without_an_embedder(self) -> None:
        hits = rank([("a", 4.0), ("b", 2.0)], None)
        assert [(hit.id, hit.score) for hit in hits] == [("a", 1.0), ("b", 0.5)]
        assert all("vector" not in hit.scores for hit in hits)

    def test_text_alone_ranks_even_if_only_vectors_have_weight(self) -> None:
        assert rank([("a", 4.0)], None, weights=Weights(text=0))[0].score == 1.0

    def test_no_candidates_give_no_hits(self) -> None:
        assert rank([], None) == rank([], []) == []

    def test_distance_to_the_next_hit_counts_not_only_its_rank(self) -> None:
        near = rank([("a", 10.0), ("b", 9.9)], [("b", 0.5), ("a", 0.3), ("c", 0.0)])
        far = rank([("a", 10.0), ("b", 1.0)], [("b", 0.5), ("a", 0.3), ("c", 0.0)])
        assert (near[0].id, far[0].id) == ("b", "a")

    @given(matches, cosines)
    def test_every_candidate_is_ranked_once(
        self, text: list[tuple[str, float]], vector: list[tuple[str, float]]
    ) -> None:
        hits = [hit.id for hit in rank(text, vector, neighbours=beside)]
        assert sorted(hits) == sorted(candidates(text, vector, beside))


class TestExplanation:
    @given(matches, cosines, st.booleans(), st.floats(0, 1), st.floats(0, 1))
    def test_the_parts_sum_to_the_score(
        self,
        text: list[tuple[str, float]],
        vector: list[tuple[str, float]],
        first_person: bool,
        trust: float,
        recency: float,
    ) -> None:
        known = {str(n): Attributes("user", NOW - timedelta(days=n), abs(n) / 31) for n in range(-1, 32)}
        for hit in rank(
            text,
            vector,
            neighbours=beside,
            attributes=known,
            query=Query(first_person, trust, NOW),
            weights=Weights(recency=recency, importance=0.2, confidence=0.1),
        ):
            assert hit.score == math.fsum(hit.scores.values())
            assert all(part >= 0 for part in hit.scores.values())

    @given(matches, cosines)
    def test_scores_of_the_two_lists_stay_within_one(
        self, text: list[tuple[str, float]], vector: list[tuple[str, float]]
    ) -> None:
        assert all(-1e-9 <= hit.score <= 1 + 1e-9 for hit in rank(text, vector, neighbours=beside))

    def test_a_neighbour_is_explained_as_one(self) -> None:
        hits = {hit.id: hit.scores for hit in rank([("5", 8.0)], None, neighbours=beside)}
        assert hits["5"] == {"text": 1.0, "text_neighbours": 0.0}
        assert hits["4"] == hits["6"] == {"text": 0.0, "text_neighbours": 0.5}

    def test_neighbours_lift_the_turn_between_two_matches(self) -> None:
        hits = rank([("4", 8.0), ("6", 8.0), ("9", 8.0), ("5", 1.0)], None, neighbours=beside)
        assert hits[0].id == "5"


class TestDeterminism:
    def test_equal_scores_are_ordered_by_id(self) -> None:
        assert [hit.id for hit in rank([("b", 1.0), ("a", 1.0), ("c", 1.0)], None)] == ["a", "b", "c"]

    @given(matches, cosines, st.randoms())
    def test_the_order_of_the_lists_does_not_matter(
        self, text: list[tuple[str, float]], vector: list[tuple[str, float]], random: Random
    ) -> None:
        expected = rank(text, vector)
        random.shuffle(text)
        random.shuffle(vector)
        assert rank(text, vector) == expected

    def test_arguments_are_not_changed(self) -> None:
        """G-3."""
        text, vector = [("1", 1.0)], [("2", 0.5)]
        rank(text, vector, neighbours=beside, attributes={"1": Attributes("user")})
        assert (text, vector) == ([("1", 1.0)], [("2", 0.5)])


ALL_WEIGHED = Weights(recency=0.3, importance=0.2, confidence=0.1)
ASKED = Query(first_person=True, trust=0.7, now=NOW)


def attributes_of(id: str) -> Attributes:
    n = int(id)
    return Attributes("user" if n % 2 else "assistant", NOW - timedelta(days=n % 9), n % 5 / 4, n % 3 / 2)


class TestStanding:
    @given(matches, st.none() | cosines, st.integers(0, 40), st.sets(ids), st.sets(ids), st.booleans())
    def test_the_best_few_are_the_first_of_all(
        self,
        text: list[tuple[str, float]],
        vector: list[tuple[str, float]] | None,
        count: int,
        seen: set[str],
        without: set[str],
        weighed: bool,
    ) -> None:
        """Also where scores are equal; what is not known is taken for the best."""
        weights = ALL_WEIGHED if weighed else Weights()
        ranking = Ranking(text, vector, neighbours=beside, query=ASKED, weights=weights)
        known = {id: attributes_of(id) for id in seen}
        for assumed in (None, best_case(ASKED)):
            every = ranking.standing(known, assumed=assumed, without=without)
            few = ranking.standing(known, assumed=assumed, without=without, count=count)
            assert few.best == every.best[:count]
            assert few.decisive == every.decisive
            everywhere = {*candidates(text, vector or (), beside)}
            open_to = everywhere if assumed else everywhere & seen
            assert {hit.id for hit in every.best} == open_to - without

    @given(matches, st.none() | cosines, st.sets(ids))
    def test_the_decisive_set_the_scale(
        self, text: list[tuple[str, float]], vector: list[tuple[str, float]] | None, without: set[str]
    ) -> None:
        """Whatever else is left out, all that is there scores as before."""
        ranking = Ranking(text, vector, neighbours=beside, query=ASKED, weights=Weights())
        before, decisive = ranking.standing()
        left_out = without - {*decisive}
        after = ranking.standing(without=left_out).best
        assert after == [hit for hit in before if hit.id not in left_out]

    def test_the_last_bit_of_a_sum_decides(self) -> None:
        """Parts are added without a rounding error, though the choice of the best is made with one."""
        random = Random(7)
        known = {
            str(n): Attributes(importance=0.1 + random.random() / 2**50, confidence=0.7 + random.random() / 2**50)
            for n in range(64)
        }
        ranking = Ranking(
            [(id, 1.0) for id in known],
            None,
            neighbours=lambda _: (),
            query=Query(),
            weights=Weights(importance=0.3, confidence=0.3),
        )
        every = ranking.standing(known)
        for count in range(64):
            assert ranking.standing(known, count=count).best == every.best[:count]


class TestPriors:
    def test_what_attributes_do_not_hold_is_left_out_before_scaling(self) -> None:
        hits = rank([("gone", 100.0), ("a", 2.0)], None, attributes={"a": Attributes()})
        assert [(hit.id, hit.score) for hit in hits] == [("a", 1.0)]

    def test_a_first_person_question_prefers_what_the_user_said(self) -> None:
        text = [("b", 10.0), ("a", 9.5)]
        asked = rank(text, None, attributes=ONLY_USERS, query=Query(first_person=True))
        other = rank(text, None, attributes=ONLY_USERS, query=Query(first_person=False))
        assert (asked[0].id, other[0].id) == ("a", "b")
        assert asked[0].scores["asker"] == 0.1
        assert "asker" not in asked[1].scores

    def test_recency_halves_after_each_half_life(self) -> None:
        known = {
            "new": Attributes(at=NOW),
            "old": Attributes(at=NOW - timedelta(days=60)),
            "none": Attributes(),
        }
        hits = rank(
            [(id, 1.0) for id in known],
            None,
            attributes=known,
            query=Query(now=NOW),
            weights=Weights(recency=0.4, half_life=30 * 86_400),
        )
        parts = {hit.id: hit.scores.get("recency") for hit in hits}
        assert parts == {"new": 0.4, "old": pytest.approx(0.1), "none": None}

    def test_a_memory_from_the_future_is_as_recent_as_now(self) -> None:
        known = {"a": Attributes(at=NOW + timedelta(days=999))}
        hit = rank([("a", 1.0)], None, attributes=known, query=Query(now=NOW), weights=Weights(recency=1))[0]
        assert hit.scores["recency"] == 1.0

    def test_importance_and_confidence_are_off_by_default(self) -> None:
        known = {"a": Attributes(importance=1.0), "b": Attributes(importance=0.0, confidence=0.0)}
        text = [("a", 1.0), ("b", 1.0)]
        plain = rank(text, None, attributes=known)
        weighed = rank(text, None, attributes=known, weights=Weights(importance=0.3, confidence=0.2))
        assert plain[0].score == plain[1].score
        assert {hit.id: round(hit.score, 9) for hit in weighed} == {"a": 1.5, "b": 1.0}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("text", -1),
            ("recency", math.nan),
            ("half_life", 0),
            ("asker", math.inf),
            ("vector", "1"),
            ("text", True),
        ],
    )
    def test_bad_weights_name_the_field(self, field: str, value: object) -> None:
        """G-2."""
        with pytest.raises(StorageDataError) as caught:
            Weights(**{field: value})  # type: ignore[arg-type]
        assert caught.value.field == field

    def test_one_of_the_two_lists_must_count(self) -> None:
        with pytest.raises(StorageDataError):
            Weights(text=0, vector=0)


class TestVectors:
    TOKENS = TokenVectors(("ada", "lisbon", "?"), np.eye(3, dtype=np.float32))

    def test_a_rare_word_weighs_more_than_a_common_one(self) -> None:
        vector = query_vector(self.TOKENS, 1000, {"ada": 900, "lisbon": 1})
        assert vector is not None
        assert vector[1] > 5 * vector[0]
        assert np.linalg.norm(vector) == pytest.approx(1)

    def test_in_an_empty_collection_all_words_weigh_the_same(self) -> None:
        vector = query_vector(self.TOKENS, 0, {})
        assert vector is not None
        assert vector[0] == vector[1]

    def test_punctuation_alone_still_gives_a_vector(self) -> None:
        assert query_vector(TokenVectors(("",), np.ones((1, 2), np.float32)), 10, {}) is not None

    def test_no_tokens_give_no_vector(self) -> None:
        assert query_vector(TokenVectors((), np.empty((0, 3), np.float32)), 10, {}) is None

    def test_centring_undoes_a_direction_that_all_rows_share(self) -> None:
        random = np.random.default_rng(7)
        rows = random.normal(size=(200, 16)).astype(np.float32) + 5 * np.eye(16, dtype=np.float32)[0]
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        plain, centred = unit @ unit[3], centred_cosines(unit[3], rows, unit.mean(axis=0))
        assert np.delete(plain, 3).mean() > 0.5
        assert abs(np.delete(centred, 3).mean()) < 0.05
        assert centred.argmax() == 3

    def test_without_a_mean_it_is_the_plain_cosine(self) -> None:
        rows = np.array([[3, 4], [0, 0]], np.float32)
        assert centred_cosines(np.array([1, 0], np.float32), rows, None).tolist() == pytest.approx([0.6, 0.0])


class TestQuestion:
    def test_idf_is_one_in_an_empty_collection_and_grows_with_rarity(self) -> None:
        assert idf(0, 0) == idf(10, 10) == 1.0
        assert idf(1000, 0) > idf(1000, 1) > idf(1000, 999) > 1

    def test_trust_is_the_share_of_information_in_known_words(self) -> None:
        assert text_trust(["a", "b"], 10, {"a": 3, "b": 1}) == 1.0
        assert text_trust(["a", "b"], 10, {"a": 10, "b": 0}) == pytest.approx(1 / (2 + math.log(11)))
        assert text_trust([], 10, {}) == text_trust(["a"], 0, {}) == 0.0

    def test_stop_words_are_left_out_unless_there_is_nothing_else(self) -> None:
        assert question_words("Where does Ada live, Ada?") == ("ada", "live")
        assert question_words("Who are you?") == ("who", "are", "you")
        assert question_words("Wo ist die Uhr?", language="german") == ("wo", "ist", "die", "uhr")

    def test_first_person(self) -> None:
        assert is_first_person("What's my plan?")
        assert not is_first_person("What did Mya plan?")

    def test_common_words_are_only_dropped_from_large_collections(self) -> None:
        assert (common_share(1000), common_share(1001)) == (1.0, 0.2)

    def test_indexed_text_states_day_and_speaker(self) -> None:
        at = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
        assert indexed_text("hello", speaker="Ada", at=at) == "8 May 2023 | Ada: hello"
        assert indexed_text("hello", speaker="user") == "user: hello"
