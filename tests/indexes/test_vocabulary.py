"""Prefixes (TXT-1)."""

from polymem.indexes import TextIndex, Vocabulary, analyzer, encode_tokens


def vocabulary(language: str, *texts: str) -> Vocabulary:
    words = Vocabulary(analyzer(language))
    words.add(texts)
    return words


def test_a_prefix_is_every_word_that_starts_with_it() -> None:
    words = vocabulary("none", "Lisbon list", "alist LISTEN")
    assert words.expand("lis") == [("lisbon",), ("list",), ("listen",)]
    assert words.expand("LIST") == [("list",), ("listen",)]
    assert words.expand("x") == words.expand("") == words.expand("!") == []


def test_words_added_later_are_found() -> None:
    words = vocabulary("none", "beta")
    assert words.expand("b") == [("beta",)]
    words.add(["alpha bravo"])
    assert words.expand("b") == [("beta",), ("bravo",)] or words.expand("b") == [("beta",), ("bravo",)]
    assert words.nbytes > 0


def test_completions_are_stems_each_once() -> None:
    assert vocabulary("english", "running runs runners").expand("run") == [("runner",), ("run",)]


def test_all_words_but_the_last_are_exact() -> None:
    words = vocabulary("english", "New Yorkers newer york")
    assert words.expand("new yo") == [("new", "york"), ("new", "yorker")]


def test_unspaced_scripts_need_no_vocabulary() -> None:
    assert vocabulary("english").expand("東京") == [("東", "東京", "京")]
    assert vocabulary("english").expand("new 東") == [("new", "東")]


def test_trigrams_complete_whole_words() -> None:
    assert vocabulary("trigram", "Lisbon").expand("lisb") == [("lis", "isb", "sbo", "bon")]


def test_expansions_search() -> None:
    english, index = analyzer("english"), TextIndex()
    texts = {"1": "I was running", "2": "a runway", "3": "ran", "4": "rung"}
    index.put_many(list(texts), [encode_tokens(english, {"text": text}) for text in texts.values()])
    words = vocabulary("english", *texts.values())
    assert {id_ for id_, _ in index.search([], prefixes=[words.expand("run")])} == {"1", "2", "4"}
    assert {id_ for id_, _ in index.search([], prefixes=[words.expand("a runw")])} == {"2"}
