"""Readers of recorded conversations, all giving the same neutral `Utterance`.

LoCoMo and BEAM are evaluation sets with questions; JSON Lines, message lists and plain chat exports are talk
only. Times without an offset are UTC. Every error is a StorageDataError that names file, place and field.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import msgspec

from polymem.errors import StorageDataError


class Layout(StrEnum):
    """How a recorded conversation is written down."""

    LOCOMO = "locomo"
    BEAM = "beam"
    JSON_LINES = "jsonl"
    MESSAGES = "messages"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn as recorded; `turn` is its label, unique within its conversation."""

    session: str
    turn: str
    role: str
    text: str
    speaker: str | None = None
    at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """An evaluation question and the labels of the turns that hold its answer."""

    text: str
    evidence: tuple[str, ...]
    category: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sessions that belong together. `utterances` may be read from disk anew each time they are iterated.

    `dropped_evidence` counts evidence entries that were malformed or name no turn.
    """

    name: str
    utterances: Iterable[Utterance]
    questions: tuple[Question, ...] = ()
    dropped_evidence: int = 0


def read(path: Path, layout: Layout | None = None) -> Iterator[Conversation]:
    """The conversations in a file or folder; the layout is detected unless given."""
    yield from _READERS[layout or detect(path)](path)


def detect(path: Path) -> Layout:
    """Which layout `path` has, judged by its content; StorageDataError (field `path`) if none fits."""
    if path.is_dir():
        return Layout.BEAM if _beam_folders(path) else _fail(path, "no chat.json in the folder", "path")
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return Layout.JSON_LINES
    text = _text(path)
    if text.lstrip()[:1] in ("{", "["):
        found = _detect_json(text)
        if found:
            return found
    first = next((line for line in text.splitlines() if line.strip()), "")
    chat = _CHAT_LINE.match(first)
    if chat and (chat["at"] or path.suffix.lower() in _PLAIN):  # much that is no chat begins with a word and a colon
        return Layout.CHAT
    return _fail(path, "not a known conversation layout", "path")


# LoCoMo: a file of conversations with sessions of two speakers, a date for each session, and questions


def _read_locomo(path: Path) -> Iterator[Conversation]:
    content = _json(path)
    for number, entry in enumerate(content if isinstance(content, list) else [content]):
        at = _Place(path, f"conversation {number}")
        sample = at.mapping(entry, "conversation")
        utterances = tuple(_locomo_turns(at, at.mapping(sample.get("conversation"), "conversation")))
        labels = {utterance.turn for utterance in utterances}
        questions, dropped = _questions(_locomo_questions(at, sample.get("qa", [])), labels)
        yield Conversation(str(sample.get("sample_id", f"{path.stem}-{number}")), utterances, questions, dropped)


def _locomo_turns(place: "_Place", conversation: Mapping[str, Any]) -> Iterator[Utterance]:
    numbers = sorted(int(match[1]) for match in map(_LOCOMO_SESSION.fullmatch, conversation) if match)
    for number in numbers:
        session = f"session_{number}"
        date = f"{session}_date_time"
        stated = conversation.get(date)
        at = None if stated is None else _parse_time(place, date, stated, "%I:%M %p on %d %B, %Y")
        for turn in place.sequence(conversation[session], session):
            entry = place.mapping(turn, session)
            text, caption = place.string(entry, "text"), entry.get("blip_caption")
            yield Utterance(
                session,
                place.string(entry, "dia_id"),
                "user",
                f"{text} [photo: {caption}]".strip() if caption else text,
                place.string(entry, "speaker"),
                at,
                {key: entry[key] for key in ("img_url", "blip_caption") if key in entry},
            )


def _locomo_questions(place: "_Place", entries: object) -> Iterator[tuple[str, str, list[str]]]:
    for item in place.sequence(entries, "qa"):
        entry = place.mapping(item, "qa")
        evidence = [label for value in _leaves(entry.get("evidence", [])) for label in _locomo_labels(value)]
        yield place.string(entry, "question"), str(entry.get("category", "")), evidence


def _locomo_labels(value: object) -> list[str]:
    """Labels in "D8:6; D9:17", "D:11:26" or "D30:05"; "" for an entry that holds none."""
    return [f"D{int(day)}:{int(turn)}" for day, turn in _LOCOMO_LABEL.findall(str(value))] or [""]


# BEAM: a folder for each chat; chat.json holds batches of turns of messages


def _read_beam(path: Path) -> Iterator[Conversation]:
    for folder in _beam_folders(path) or [path]:
        utterances = tuple(_beam_turns(folder / "chat.json"))
        probes = folder / "probing_questions.json"
        pairs = _beam_questions(probes) if probes.exists() else iter(())
        questions, dropped = _questions(pairs, {utterance.turn for utterance in utterances})
        yield Conversation(folder.name, utterances, questions, dropped)


def _beam_folders(path: Path) -> list[Path]:
    if (path / "chat.json").is_file():
        return [path]
    return sorted(child.parent for child in path.glob("*/chat.json"))


def _beam_turns(path: Path) -> Iterator[Utterance]:
    when: datetime | None = None
    for number, batch in enumerate(_Place(path, "chat").sequence(_json(path), "batches"), 1):
        place = _Place(path, f"batch {number}")
        entry = place.mapping(batch, "batch")
        messages = [message for turn in place.sequence(entry.get("turns"), "turns") for message in turn]
        for message in messages:
            found = place.mapping(message, "turns")
            anchor = found.get("time_anchor") or entry.get("time_anchor")
            when = _parse_time(place, "time_anchor", anchor, "%B-%d-%Y") if anchor else when
            yield Utterance(
                f"batch_{number}",
                str(place.present(found, "id")),
                place.string(found, "role"),
                _BEAM_MARK.sub("", place.string(found, "content")),
                at=when,
            )


def _beam_questions(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    place = _Place(path, "questions")
    for category, entries in place.mapping(_json(path), "questions").items():
        for item in place.sequence(entries, category):
            entry = place.mapping(item, category)
            evidence = [str(value) for value in _leaves(entry.get("source_chat_ids", []))]
            yield place.string(entry, "question"), category, evidence


# JSON Lines, message lists and plain chat exports


@dataclass(frozen=True, slots=True)
class _Stream:
    path: Path
    reader: Callable[[Path], Iterator[Utterance]]

    def __iter__(self) -> Iterator[Utterance]:
        return self.reader(self.path)


def _read_lines(path: Path) -> Iterator[Conversation]:
    yield Conversation(path.stem, _Stream(path, _json_lines))


def _json_lines(path: Path) -> Iterator[Utterance]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                place = _Place(path, f"line {number}")
                yield _json_line(place, place.mapping(_decode(place, line), "line"), path.stem, number)


def _json_line(place: "_Place", entry: Mapping[str, Any], session: str, number: int) -> Utterance:
    unknown = entry.keys() - _LINE_KEYS
    if unknown:
        place.fail(f"unknown key; expected {', '.join(sorted(_LINE_KEYS))}", min(unknown))
    at = entry.get("at")
    return Utterance(
        place.string(entry, "session", session),
        place.string(entry, "turn", str(number)),
        place.string(entry, "role", "user"),
        place.string(entry, "content"),
        None if entry.get("speaker") is None else place.string(entry, "speaker"),
        None if at is None else _parse_time(place, "at", at),
        place.mapping(entry.get("metadata") or {}, "metadata"),
    )


def _read_messages(path: Path) -> Iterator[Conversation]:
    content = _json(path)
    entries = content.get("messages") if isinstance(content, dict) else content
    messages = _Place(path, "file").sequence(entries, "messages")
    yield Conversation(path.stem, tuple(_message(path, n, item) for n, item in enumerate(messages, 1)))


def _message(path: Path, number: int, item: object) -> Utterance:
    place = _Place(path, f"message {number}")
    entry = place.mapping(item, "messages")
    content = entry.get("content")
    others = {key: value for key, value in entry.items() if key not in {"role", "content", "name"}}
    if isinstance(content, list):
        others["parts"] = content
        texts = [place.mapping(part, "content").get("text") for part in content]
        content = "\n".join(text for text in texts if isinstance(text, str))
    elif content is None and others:  # a message that only calls tools
        content = ""
    elif not isinstance(content, str):
        place.fail("expected a string or a list of parts", "content")
    speaker = None if entry.get("name") is None else place.string(entry, "name")
    return Utterance(path.stem, str(number), place.string(entry, "role"), content, speaker, metadata=others)


def _read_chat(path: Path) -> Iterator[Conversation]:
    yield Conversation(path.stem, _Stream(path, _chat))


def _chat(path: Path) -> Iterator[Utterance]:
    """Turns of a chat export. If the first one has a time, lines without a time continue the turn above."""
    current: Utterance | None = None
    timed: bool | None = None
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            match = _CHAT_LINE.match(line)
            if match and timed is None:
                timed = match["at"] is not None
            if match and (match["at"] is not None or not timed):
                if current:
                    yield replace(current, text=current.text.strip())
                current = _chat_turn(_Place(path, f"line {number}"), match, path.stem, number)
            elif current:
                current = replace(current, text=f"{current.text}\n{line.rstrip()}")
            elif line.strip():
                expected = 'expected "Name: text" or "[date time] Name: text"'
                _Place(path, f"line {number}").fail(expected, "speaker")
    if current:
        yield replace(current, text=current.text.strip())


def _chat_turn(place: "_Place", match: re.Match[str], session: str, number: int) -> Utterance:
    at = _parse_time(place, "at", match["at"]) if match["at"] else None
    speaker = match["speaker"].strip()
    role = speaker.lower() if speaker.lower() in _MACHINE_ROLES else "user"
    return Utterance(session, str(number), role, match["text"], speaker, at)


# What the readers share


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a file we are, for messages; its checks return what they checked."""

    path: Path
    where: str

    def fail(self, message: str, field: str) -> NoReturn:
        raise StorageDataError(f"{self.path}, {self.where}, {field}: {message}", field=field)

    def mapping(self, value: object, field: str) -> dict[str, Any]:
        return value if isinstance(value, dict) else self.fail("expected an object", field)

    def sequence(self, value: object, field: str) -> list[Any]:
        return value if isinstance(value, list) else self.fail("expected a list", field)

    def present(self, entry: Mapping[str, Any], field: str) -> Any:
        return entry[field] if field in entry else self.fail("missing", field)

    def string(self, entry: Mapping[str, Any], field: str, default: str | None = None) -> str:
        value = entry.get(field, default)
        if value is None:
            self.fail("missing", field)
        return value if isinstance(value, str) else self.fail("expected a string", field)


def _questions(found: Iterable[tuple[str, str, list[str]]], labels: set[str]) -> tuple[tuple[Question, ...], int]:
    questions, dropped = [], 0
    for text, category, evidence in found:
        kept = tuple(dict.fromkeys(label for label in evidence if label in labels))
        dropped += sum(label not in labels for label in evidence)
        questions.append(Question(text, kept, category))
    return tuple(questions), dropped


def _leaves(value: object) -> Iterator[object]:
    """The scalars in nested lists and objects."""
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _leaves(child)
    else:
        yield value


def _parse_time(place: _Place, field: str, value: object, pattern: str | None = None) -> datetime:
    text = str(value).strip()
    try:
        found = datetime.strptime(text, pattern) if pattern else datetime.fromisoformat(text)  # noqa: DTZ007
    except ValueError:
        place.fail("expected a date and time" + (f" like {pattern}" if pattern else " in ISO 8601"), field)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _detect_json(text: str) -> Layout | None:
    try:
        content = msgspec.json.decode(text)
    except msgspec.DecodeError:
        first, _, others = text.lstrip().partition("\n")
        return _detect_json(first) if others else None
    sample = content[0] if isinstance(content, list) and content else content
    if not isinstance(sample, dict):
        return None
    if "conversation" in sample:
        return Layout.LOCOMO
    if "messages" in sample or (isinstance(content, list) and "role" in sample):
        return Layout.MESSAGES
    return Layout.JSON_LINES if isinstance(content, dict) and "content" in content else None


def _json(path: Path) -> Any:
    return _decode(_Place(path, "file"), _text(path))


def _decode(place: _Place, text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        place.fail("not valid JSON", "json")


def _text(path: Path) -> str:
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError:
        _fail(path, "not UTF-8 text", "path")
    except OSError as error:
        _fail(path, f"cannot be read: {error.strerror}", "path")


def _fail(path: Path, message: str, field: str) -> NoReturn:
    raise StorageDataError(f"{path}: {message}", field=field)


_LOCOMO_SESSION: Final = re.compile(r"session_(\d+)")
_LOCOMO_LABEL: Final = re.compile(r"D:?(\d+):(\d+)")
_BEAM_MARK: Final = re.compile(r"\s*->->\s*[\d,]+\s*\Z")  # the set's own index at the end of a message
_LINE_KEYS: Final = frozenset({"session", "turn", "role", "content", "speaker", "at", "metadata"})
_MACHINE_ROLES: Final = frozenset({"assistant", "system", "tool"})
_PLAIN: Final = ("", ".txt", ".log")
_CHAT_LINE: Final = re.compile(
    r"(?:\[(?P<at>\d{4}-\d\d-\d\d[^\]]*)\]\s*)?"
    r"(?P<speaker>[^\s:\[\]{}\"][^:\[\]{}\"\n]{0,59}):(?:\s+|\Z)(?P<text>.*)"
)
_READERS: Final[Mapping[Layout, Callable[[Path], Iterator[Conversation]]]] = {
    Layout.LOCOMO: _read_locomo,
    Layout.BEAM: _read_beam,
    Layout.JSON_LINES: _read_lines,
    Layout.MESSAGES: _read_messages,
    Layout.CHAT: _read_chat,
}
