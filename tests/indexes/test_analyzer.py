"""Analysis of text (TXT-1)."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.errors import StorageDataError
from polymem.indexes.analyzer import LANGUAGES, Analyzer, analyzer, fold, term_hash

SCRIPTS = "aZé9 '’_-ß½ﬁＡ東京かが゙ー서울ไทยहिन्दीОйñ😊\u0301\u00ad\u200d²"
any_text = st.text() | st.text(alphabet=SCRIPTS, max_size=30)
languages = st.sampled_from(["english", "french", "none", "trigram"])


def english(text: str) -> list[str]:
    return analyzer("english").terms(text)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Running runs RUN", ["run", "run", "run"]),
        ("café CAFÉ cafe\u0301 Café", ["cafe"] * 4),
        ("Straße STRASSE", ["strass", "strass"]),
        ("ＡＢＣ ﬁne ½", ["abc", "fine", "1", "2"]),
        ("Łódź Ørsted", ["lodz", "orst"]),
        ("snake_case, 3.5-fold!", ["snake", "case", "3", "5", "fold"]),
        ("co\u00adoperate", ["cooper"]),
        ("😊 hi 👩‍👩‍👧 1️⃣", ["hi", "1"]),
        ("😊!?", []),
        ("", []),
    ],
)
def test_folding_and_stemming(text: str, terms: list[str]) -> None:
    assert english(text) == terms


@pytest.mark.parametrize("apostrophe", ["'", "’"])
def test_apostrophes_split_and_english_clitics_are_dropped(apostrophe: str) -> None:
    text = "Ada's ADA'S don't we'll rock'n'roll O'Neil 's".replace("'", apostrophe)
    assert english(text) == ["ada", "ada", "don", "we", "rock", "n", "roll", "o", "neil", "s"]
    assert analyzer("french").terms("l'eau d’été".replace("'", apostrophe))[1] == "eau"


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("french", "mangée manger mangés mangee"),
        ("german", "Häuser Haus HAUS hauser"),
        ("spanish", "canción canciones cancion"),
        ("russian", "новый новая новые"),
        ("portuguese", "informação informações"),
        ("portuguese", "informação informacao"),
        ("hungarian", "házakban ház hazakban"),
        ("turkish", "İstanbul istanbul ISTANBUL"),
    ],
)
def test_other_languages_are_stemmed_as_spelled_and_as_folded(language: str, forms: str) -> None:
    one = analyzer(language)
    spelled = set(one.terms(forms.split(maxsplit=1)[0]))
    assert all(spelled & set(one.query_terms([form])) for form in forms.split())


@given(any_text, st.sampled_from(LANGUAGES))
def test_what_is_typed_without_accents_finds_what_has_them(text: str, language: str) -> None:
    letters = "".join(character if character.isalnum() else " " for character in text)  # not symbols: fold("㈱")
    assert set(analyzer(language).terms(fold(letters))) <= set(analyzer(language).terms(letters))


def test_none_folds_only_and_trigram_cuts_words() -> None:
    assert analyzer("none").terms("Running Cafés") == ["running", "cafes"]
    assert analyzer("trigram").terms("Lisbon is 東京") == [
        "lis",
        "isb",
        "sbo",
        "bon",
        "is",
        "東",
        "東京",
        "京",
    ]


@pytest.mark.parametrize("part", ["東", "東京", "京都", "都", "京都へ", "へ"])
def test_any_part_of_an_unspaced_run_is_a_phrase_of_it(part: str) -> None:
    whole, terms = english("東京都へ行く"), english(part)
    assert any(whole[at : at + len(terms)] == terms for at in range(len(whole)))


def test_kana_voicing_and_vowel_signs_are_not_diacritics() -> None:
    assert fold("が") == "が" != fold("か")
    assert fold("ｶﾞ") == "ガ"
    assert fold("हिन्दी") == "हिन्दी"
    assert fold("서울") == "서울"
    assert fold("שָׁלוֹם") == "שלום"


def test_queries_look_for_pairs_and_for_each_term_once() -> None:
    assert analyzer("english").query_terms(["東京都", "Runs run", "都", "!"]) == ["東京", "京都", "run", "都"]


def test_words_are_folded_but_not_stemmed() -> None:
    assert analyzer("english").words("Ada's Running 東京tower") == ["ada", "running", "tower"]


def test_spans_point_into_the_original() -> None:
    text = "Caroline’s CAFÉS ½ 東京"
    spans = [(term, text[start:end]) for term, start, end in analyzer("english").spans(text)]
    assert spans == [
        ("carolin", "Caroline"),
        ("cafe", "CAFÉS"),
        ("1", "½"),
        ("2", "½"),
        ("東", "東"),
        ("東京", "東京"),
        ("京", "京"),
    ]


@given(any_text, languages)
def test_spans_hashes_and_terms_agree(text: str, language: str) -> None:
    one = analyzer(language)
    terms, spans = one.terms(text), one.spans(text)
    assert [span[0] for span in spans] == terms
    assert all(0 <= start < end <= len(text) for _, start, end in spans)
    assert one.hashes(text) == b"".join(map(term_hash, terms))
    assert all(terms)
    assert set(one.query_terms([text])) <= set(terms)


@given(any_text)
def test_case_and_composition_do_not_matter(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    decomposed = unicodedata.normalize("NFD", text)
    assert analyzer("none").terms(decomposed) == analyzer("none").terms(unicodedata.normalize("NFC", text))


def test_a_word_keeps_its_terms_in_any_text() -> None:
    """The ASCII shortcut and the full pattern cut words alike."""
    text = "Ada's dogs don't_run 3.5 x-ray o'clock"
    assert english(text + " é")[:-1] == english(text)


def test_unknown_language_lists_the_choices() -> None:
    with pytest.raises(StorageDataError, match="english.*none.*trigram") as error:
        analyzer("klingon")
    assert error.value.field == "language"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_loads_and_is_cached(language: str) -> None:
    assert analyzer(language) is analyzer(language)
    assert analyzer(language).terms("2024")


def test_long_words_and_many_words_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("polymem.indexes.analyzer"), "_CACHED_WORDS", 100)
    small = Analyzer("english")
    assert small.terms("a" * 100_000) == ["a" * 100_000]
    words = [f"word{n}s" for n in range(1000)]
    assert small.terms(" ".join(words)) == [f"word{n}" for n in range(1000)]
    assert len(small._tokens) <= 100


def test_threads_share_an_analyzer() -> None:
    """PyStemmer's objects are not thread-safe; ours are."""
    words = [f"running{n}ings cat{n}s" for n in range(4000)]
    expected = [Analyzer("english").terms(word) for word in words]
    shared = Analyzer("english")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared.terms, words, chunksize=50)) == expected
