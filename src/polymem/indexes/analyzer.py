"""Text to terms: one analysis for documents, queries and highlights (TXT-1).

Words are runs of letters and digits (with the marks that spell them), folded: case, compatibility forms and
diacritics are gone, so "Café" is "cafe". English is folded and then stemmed (Porter). The endings of other
languages carry accents: they are stemmed as spelled and also folded first, and where the two stems differ both
are terms, so "informações" finds "informação" and so does "informacao". Apostrophes split words, and
the English clitics behind one ('s, 't, 'm, 'd, 'll, 're, 've) are dropped: "Ada's" is "ada", "don't" is "don".
Scripts written without spaces (Chinese, Japanese, Thai, ...; Korean too, for its particles) give every
character and every pair of neighbours, in order, so any part of a run can be found.
"""

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, TypeVar, cast

import Stemmer  # type: ignore[import-not-found]

from polymem.errors import StorageDataError

_UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_ANYWHERE: Final = re.compile(f"[{_UNSPACED}]")
_PIECE: Final = re.compile(rf"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
_INVISIBLE: Final = frozenset("\u00ad\u0640\u200b\u200c\u200d\u200e\u200f\u2060")
_UNDECOMPOSED: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th"}
)
_APOSTROPHES: Final = "'\u2019"
_CLITIC: Final = rf"|(?<=[^\W_])[{_APOSTROPHES}](?:[stmdSTMD]|ll|LL|re|RE|ve|VE)(?![^\W_])"
_ASCII_WORD: Final = re.compile("[A-Za-z0-9]+")
_DIACRITICS: Final = frozenset([*range(10, 37), *range(200, 256)])
"""Canonical combining classes: Hebrew and Arabic points, and marks drawn over or under a letter anywhere.

Between them and below lie nukta, kana voicing, virama, Thai tones: those spell.
"""
_MIN_STEMMED: Final = 3
"""Porter makes "" of "s" and "i" of "is"."""
_MAX_STEMMED: Final = 64
_CACHED_WORDS: Final = 50_000

LANGUAGES: Final[tuple[str, ...]] = tuple(
    sorted({"none", "trigram", *(name for name in Stemmer.algorithms() if "porter" not in name)})
)

Value = TypeVar("Value")


class Token(NamedTuple):
    """A term and the characters of the text it stands for: text[start:end]."""

    term: str
    start: int
    end: int


class _Stemmer(Protocol):
    def stemWord(self, word: str, /) -> str: ...  # noqa: N802  (PyStemmer's name)


class _Memo(dict[str, Value]):
    """What a word becomes, remembered for the common ones; dict operations are atomic, so threads may share it."""

    def __init__(self, compute: Callable[[str], Value]) -> None:
        super().__init__()
        self._compute = compute

    def __missing__(self, word: str) -> Value:
        value = self._compute(word)
        if len(word) <= _MAX_STEMMED:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = value
        return value


def term_hash(term: str) -> bytes:
    """The 8 bytes that stand for a term in token BLOBs and indexes."""
    return blake2b(term.encode(errors="surrogatepass"), digest_size=8).digest()


def fold(word: str) -> str:
    """Without case, compatibility forms and diacritics; marks that spell a vowel or a sound stay."""
    if word.isascii():
        return word.lower()
    parts = unicodedata.normalize("NFKD", word.casefold()).casefold()
    return unicodedata.normalize("NFC", "".join(filter(_kept, parts))).translate(_UNDECOMPOSED)


def _kept(character: str) -> bool:
    diacritic = unicodedata.combining(character) in _DIACRITICS or unicodedata.category(character) == "Me"
    return not (diacritic or character in _INVISIBLE or "\ufe00" <= character <= "\ufe0f")


@cache
def _word(clitic: str = "") -> re.Pattern[str]:
    """Words of any script (`re` has no class for combining marks), compiled when the first text needs it."""
    marks = [chr(code) for code in range(0x300, 0x1E950) if unicodedata.category(chr(code))[0] == "M"]
    class_of_marks = f"[{''.join(sorted(_INVISIBLE))}{''.join(marks)}]"
    return re.compile(rf"[^\W_]+(?:{class_of_marks}+[^\W_]*)*{clitic}")


def _grams(piece: str, start: int) -> list[Token]:
    """a, ab, b, bc, c: single characters and pairs in one order that phrases can follow."""
    tokens = [Token(piece[:1], start, start + 1)]
    for at in range(1, len(piece)):
        tokens.append(Token(piece[at - 1 : at + 1], start + at - 1, start + at + 1))
        tokens.append(Token(piece[at], start + at, start + at + 1))
    return tokens


def _trigrams(piece: str, start: int) -> list[Token]:
    last = max(len(piece) - 3, 0)
    return [Token(piece[at : at + 3], start + at, start + min(at + 3, len(piece))) for at in range(last + 1)]


class Analyzer:
    """The analysis of one language; safe to share between threads."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._folds_first = language in ("english", "none", "trigram")
        self._stemmer = _stemmer(language)
        self._lock = threading.Lock()
        self._clitic = _CLITIC if language == "english" else ""
        self._ascii = re.compile(_ASCII_WORD.pattern + self._clitic)
        self._tokens = _Memo(self._analyse)
        self._bytes = _Memo(self._hash)
        self._folded = _Memo(_spaced_words)

    def terms(self, text: str) -> list[str]:
        """The terms of a text in order, repeats included."""
        tokens = self._tokens
        return [token.term for word in self._pattern(text).findall(text) for token in tokens[word]]

    def spans(self, text: str) -> list[tuple[str, int, int]]:
        """The terms of a text with where they stand: `text[start:end]` is the word (or part) behind the term."""
        found: list[tuple[str, int, int]] = []
        for match in self._pattern(text).finditer(text):
            at = match.start()
            found += [(term, at + start, at + end) for term, start, end in self._tokens[match[0]]]
        return found

    def query_terms(self, words: Iterable[str]) -> list[str]:
        """The distinct terms to look for; a run of an unspaced script is looked for by its pairs only."""
        found: dict[str, None] = {}
        for word in words:
            for raw in self._pattern(word).findall(word):
                found.update(dict.fromkeys(self._sought(raw)))
        return list(found)

    def words(self, text: str) -> list[str]:
        """The folded words of a text before stemming, those of unspaced scripts left out (for prefixes)."""
        folded = self._folded
        return [word for raw in self._pattern(text).findall(text) for word in folded[raw]]

    def hashes(self, text: str) -> bytes:
        """`term_hash` of each of `terms(text)`, joined."""
        return b"".join(map(self._bytes.__getitem__, self._pattern(text).findall(text)))

    def _pattern(self, text: str) -> re.Pattern[str]:
        return self._ascii if text.isascii() else _word(self._clitic)

    def _analyse(self, raw: str) -> tuple[Token, ...]:
        if raw[0] in _APOSTROPHES:
            return ()
        spelled = self._spelled(raw)
        tokens = [token for piece in _pieces(spelled) for token in self._piece(*piece)]
        if len(spelled) != len(raw):
            return tuple(Token(token.term, 0, len(raw)) for token in tokens)
        return tuple(tokens)

    def _spelled(self, raw: str) -> str:
        """Folded, but for the diacritics where stems depend on them."""
        if not self._folds_first:
            visible = "".join(character for character in raw.casefold() if character not in _INVISIBLE)
            spelled = unicodedata.normalize("NFKC", visible)
            if not _UNSPACED_ANYWHERE.search(spelled):
                return spelled
        return fold(raw)

    def _piece(self, piece: str, unspaced: bool, start: int) -> list[Token]:
        if unspaced:
            return _grams(piece, start)
        if self.language == "trigram":
            return _trigrams(piece, start)
        stems = dict.fromkeys((self._stem(piece), self._stem(fold(piece))))
        return [Token(stem, start, start + len(piece)) for stem in stems]

    def _stem(self, word: str) -> str:
        if self._stemmer is None or not _MIN_STEMMED <= len(word) <= _MAX_STEMMED:
            return fold(word)
        with self._lock:  # a PyStemmer object works in one buffer
            stem = self._stemmer.stemWord(word)
        return fold(stem) or fold(word)

    def _sought(self, raw: str) -> list[str]:
        terms = [token.term for token in self._tokens[raw]]
        runs = [piece for piece, unspaced, _ in _pieces(fold(raw)) if unspaced and len(piece) > 1]
        singles = {character for run in runs for character in run}
        return [term for term in terms if term not in singles]

    def _hash(self, raw: str) -> bytes:
        return b"".join(term_hash(token.term) for token in self._tokens[raw])


def _pieces(spelled: str) -> list[tuple[str, bool, int]]:
    """The words in a folded one ("½" is "1" and "2"), split where an unspaced script begins or ends."""
    pattern = _ASCII_WORD if spelled.isascii() else _word()
    return [
        (piece[0], piece[1] is not None, word.start() + piece.start())
        for word in pattern.finditer(spelled)
        for piece in _PIECE.finditer(word[0])
    ]


def _spaced_words(raw: str) -> tuple[str, ...]:
    if raw[0] in _APOSTROPHES:
        return ()
    return tuple(piece for piece, unspaced, _ in _pieces(fold(raw)) if not unspaced)


def _stemmer(language: str) -> _Stemmer | None:
    if language in ("none", "trigram"):
        return None
    algorithm = "porter" if language == "english" else language
    return cast(_Stemmer, Stemmer.Stemmer(algorithm, 0))


@cache
def analyzer(language: str) -> Analyzer:
    """The one analyzer of a language; an unknown one is a `StorageDataError` (field `language`)."""
    if language not in LANGUAGES:
        raise StorageDataError(f"expected one of {', '.join(LANGUAGES)}", field="language")
    return Analyzer(language)
