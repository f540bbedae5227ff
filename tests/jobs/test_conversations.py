"""Readers of recorded conversations (CLI-1 ingest, G-2, G-5)."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymem.errors import StorageDataError
from polymem.jobs.conversations import Conversation, Layout, detect, read

LOCOMO: dict[str, Any] = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Ben",
        "session_10_date_time": "12:06 am on 1 June, 2023",
        "session_10": [{"speaker": "Ben", "dia_id": "D10:1", "text": "Late."}],
        "session_2_date_time": "1:56 pm on 8 May, 2023",
        "session_2": [
            {"speaker": "Ada", "dia_id": "D2:1", "text": "Hi"},
            {"speaker": "Ben", "dia_id": "D2:2", "text": "See", "blip_caption": "a dog", "img_url": ["u"]},
        ],
    },
    "qa": [
        {"question": "Good?", "evidence": ["D2:1", "D2:1"], "category": 4},
        {"question": "Several?", "evidence": ["D2:1; D10:01", "D:2:2"], "category": 1},
        {"question": "Broken?", "evidence": ["D", "D99:1", "D2:2"], "category": 2},
        {"question": "None?", "category": 5},
    ],
}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def only(path: Path) -> Conversation:
    (conversation,) = read(path)
    return conversation


def beam(folder: Path) -> Path:
    messages = [
        {"role": "user", "id": 0, "time_anchor": "March-15-2024", "content": "Plan it. ->-> 1,1"},
        {"role": "assistant", "id": 1, "content": "Done."},
    ]
    second = {"time_anchor": "April-01-2024", "turns": [[{"role": "user", "id": 2, "content": "Next"}]]}
    write(folder / "chat.json", [{"batch_number": 1, "turns": [messages]}, second])
    asked = {
        "recall": [{"question": "When?", "source_chat_ids": {"first": [0], "rest": [[2], 77]}}],
        "abstention": [{"question": "What?"}],
    }
    write(folder / "probing_questions.json", asked)
    return folder


class TestLocomo:
    def test_turns_in_the_order_of_their_sessions(self, tmp_path: Path) -> None:
        path = write(tmp_path / "set.json", [LOCOMO])
        assert detect(path) is Layout.LOCOMO
        turns = list(only(path).utterances)
        assert [turn.turn for turn in turns] == ["D2:1", "D2:2", "D10:1"]
        assert [turn.session for turn in turns] == ["session_2", "session_2", "session_10"]
        assert turns[0].at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
        assert turns[2].at == datetime(2023, 6, 1, 0, 6, tzinfo=UTC)

    def test_a_photo_is_told_by_its_caption(self, tmp_path: Path) -> None:
        photo = list(only(write(tmp_path / "set.json", LOCOMO)).utterances)[1]
        assert (photo.speaker, photo.text) == ("Ben", "See [photo: a dog]")
        assert photo.metadata == {"img_url": ["u"], "blip_caption": "a dog"}

    def test_evidence_is_parsed_where_it_can_be_and_counted_where_not(self, tmp_path: Path) -> None:
        found = only(write(tmp_path / "set.json", [LOCOMO]))
        assert [question.evidence for question in found.questions] == [
            ("D2:1",),
            ("D2:1", "D10:1", "D2:2"),
            ("D2:2",),
            (),
        ]
        assert found.dropped_evidence == 2
        assert [question.category for question in found.questions] == ["4", "1", "2", "5"]

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"session_2": "no list"}, "session_2"),
            ({"session_2": [{"speaker": "Ada", "dia_id": "D2:1"}]}, "text"),
            ({"session_2": [{"speaker": "Ada", "text": "x"}]}, "dia_id"),
            ({"session_2": [{"speaker": 3, "dia_id": "D2:1", "text": "x"}]}, "speaker"),
            ({"session_2_date_time": "yesterday"}, "session_2_date_time"),
        ],
    )
    def test_an_error_names_file_and_field(self, change: dict[str, Any], field: str, tmp_path: Path) -> None:
        path = write(tmp_path / "set.json", [{"conversation": LOCOMO["conversation"] | change}])
        with pytest.raises(StorageDataError, match="set.json, conversation 0") as caught:
            list(read(path))
        assert caught.value.field == field
        assert "yesterday" not in str(caught.value)


class TestBeam:
    def test_messages_of_one_chat(self, tmp_path: Path) -> None:
        folder = beam(tmp_path / "7")
        assert detect(folder) is Layout.BEAM
        found = only(folder)
        assert found.name == "7"
        assert [(turn.turn, turn.session, turn.role, turn.text) for turn in found.utterances] == [
            ("0", "batch_1", "user", "Plan it."),
            ("1", "batch_1", "assistant", "Done."),
            ("2", "batch_2", "user", "Next"),
        ]

    def test_a_message_without_a_date_has_the_one_before_it(self, tmp_path: Path) -> None:
        days = [turn.at for turn in only(beam(tmp_path)).utterances]
        assert days == [datetime(2024, m, d, tzinfo=UTC) for m, d in ((3, 15), (3, 15), (4, 1))]

    def test_evidence_is_found_in_nested_lists_and_objects(self, tmp_path: Path) -> None:
        found = only(beam(tmp_path))
        assert [(question.category, question.evidence) for question in found.questions] == [
            ("recall", ("0", "2")),
            ("abstention", ()),
        ]
        assert found.dropped_evidence == 1

    def test_a_folder_of_chats(self, tmp_path: Path) -> None:
        for name in ("1", "2"):
            beam(tmp_path / name)
        assert detect(tmp_path) is Layout.BEAM
        assert [conversation.name for conversation in read(tmp_path)] == ["1", "2"]

    def test_questions_may_be_missing(self, tmp_path: Path) -> None:
        (beam(tmp_path) / "probing_questions.json").unlink()
        assert only(tmp_path).questions == ()

    def test_a_message_without_content_names_batch_and_field(self, tmp_path: Path) -> None:
        write(tmp_path / "chat.json", [{"turns": [[{"role": "user", "id": 1}]]}])
        with pytest.raises(StorageDataError, match="chat.json, batch 1, content") as caught:
            list(read(tmp_path))
        assert caught.value.field == "content"


class TestJsonLines:
    LINE = '{"session": "s1", "role": "assistant", "content": "", "speaker": "Bot", "at": "2023-05-08T13:56:00+02:00", '

    def test_all_fields(self, tmp_path: Path) -> None:
        path = write(tmp_path / "talk.jsonl", self.LINE + '"metadata": {"k": [1]}, "turn": "t9"}\n\n{"content": "hi"}')
        assert detect(path) is Layout.JSON_LINES
        first, second = only(path).utterances
        assert (first.session, first.turn, first.role, first.text, first.speaker) == (
            "s1",
            "t9",
            "assistant",
            "",
            "Bot",
        )
        assert first.at == datetime(2023, 5, 8, 11, 56, tzinfo=UTC)
        assert first.metadata == {"k": [1]}
        assert (second.session, second.turn, second.role, second.at) == ("talk", "3", "user", None)

    def test_the_file_can_be_read_twice(self, tmp_path: Path) -> None:
        found = only(write(tmp_path / "talk.jsonl", '{"content": "hi"}'))
        assert list(found.utterances) == list(found.utterances) != []

    @pytest.mark.parametrize(
        ("line", "field"),
        [
            ("{", "json"),
            ("[1]", "line"),
            ('{"role": "user"}', "content"),
            ('{"content": 5}', "content"),
            ('{"content": "x", "at": "soon"}', "at"),
            ('{"content": "x", "metadata": 3}', "metadata"),
            ('{"content": "x", "session": 3}', "session"),
            ('{"content": "x", "speeker": "Ada"}', "speeker"),
        ],
    )
    def test_a_bad_line_names_its_number_and_field(self, line: str, field: str, tmp_path: Path) -> None:
        """G-2: an unknown key is refused, not lost."""
        path = write(tmp_path / "talk.jsonl", '{"content": "fine"}\n' + line)
        with pytest.raises(StorageDataError, match="talk.jsonl, line 2") as caught:
            list(only(path).utterances)
        assert caught.value.field == field


class TestMessages:
    def test_a_list_of_role_and_content(self, tmp_path: Path) -> None:
        items = [
            {"role": "user", "name": "Ada", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}],
            },
        ]
        path = write(tmp_path / "chat.json", items)
        assert detect(path) is Layout.MESSAGES
        ada, call, parts = only(path).utterances
        assert (ada.speaker, ada.text, ada.turn, ada.session) == ("Ada", "hi", "1", "chat")
        assert (call.text, call.metadata) == ("", {"tool_calls": [{"id": "c1"}]})
        assert (parts.text, parts.metadata) == ("see", {"parts": items[2]["content"]})

    def test_a_request_with_messages(self, tmp_path: Path) -> None:
        path = write(tmp_path / "request.json", {"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        assert detect(path) is Layout.MESSAGES
        assert [turn.text for turn in only(path).utterances] == ["hi"]

    @pytest.mark.parametrize(
        ("item", "field"),
        [({"content": "x"}, "role"), ({"role": "user", "content": 3}, "content"), (7, "messages")],
    )
    def test_a_bad_message_names_its_number_and_field(self, item: object, field: str, tmp_path: Path) -> None:
        path = write(tmp_path / "chat.json", [{"role": "user", "content": "x"}, item])
        with pytest.raises(StorageDataError, match="message 2") as caught:
            list(read(path))
        assert caught.value.field == field


class TestChat:
    def test_lines_with_times(self, tmp_path: Path) -> None:
        export = "[2023-05-08 13:56] Ada: hello\nNote: it goes on\n\nhere\n[2023-05-08 13:57:10] Assistant: hi\n"
        path = write(tmp_path / "export.txt", export)
        assert detect(path) is Layout.CHAT
        ada, bot = only(path).utterances
        assert (ada.speaker, ada.role, ada.turn) == ("Ada", "user", "1")
        assert ada.text == "hello\nNote: it goes on\n\nhere"
        assert ada.at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
        assert (bot.role, bot.turn, bot.text) == ("assistant", "5", "hi")

    def test_lines_without_times(self, tmp_path: Path) -> None:
        path = write(tmp_path / "export.txt", "Ada: hello\n  and more\nBen Müller: hi 🏠 at https://example.org\n")
        assert detect(path) is Layout.CHAT
        assert [(turn.speaker, turn.text, turn.at) for turn in only(path).utterances] == [
            ("Ada", "hello\n  and more", None),
            ("Ben Müller", "hi 🏠 at https://example.org", None),
        ]

    def test_a_wrong_time_names_line_and_field(self, tmp_path: Path) -> None:
        path = write(tmp_path / "export.txt", "[2023-05-08 13:56] Ada: a\n[2023-15-08 13:56] Ada: b\n")
        with pytest.raises(StorageDataError, match="line 2") as caught:
            list(only(path).utterances)
        assert caught.value.field == "at"

    def test_text_before_the_first_speaker_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "export.txt", "just words\n")
        with pytest.raises(StorageDataError, match="line 1"):
            list(next(read(path, Layout.CHAT)).utterances)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["Ada", "Ben K.", "Zoë"]),
                st.from_regex(r"[a-z:][a-z: ]{0,20}[a-z]", fullmatch=True),
            )
        )
    )
    def test_what_was_exported_comes_back(self, tmp_path_factory: Any, turns: list[tuple[str, str]]) -> None:
        lines = [f"[2024-01-01 00:00] {speaker}: {text.strip()}" for speaker, text in turns]
        path = write(tmp_path_factory.mktemp("chat") / "export.txt", "\n".join(lines))
        found = [(turn.speaker, turn.text) for turn in next(read(path, Layout.CHAT)).utterances]
        assert found == [(speaker, text.strip()) for speaker, text in turns]


class TestDetect:
    @pytest.mark.parametrize("content", ["", "words only", "{}", "[]", "[1, 2]", "{broken"])
    def test_an_unknown_layout_is_refused(self, content: str, tmp_path: Path) -> None:
        with pytest.raises(StorageDataError, match="not a known conversation layout") as caught:
            detect(write(tmp_path / "file.json", content))
        assert caught.value.field == "path"

    def test_a_first_word_with_a_colon_makes_no_chat_of_a_file_of_another_kind(self, tmp_path: Path) -> None:
        for suffix in ("toml", "yaml", "py"):
            with pytest.raises(StorageDataError, match="not a known"):
                detect(write(tmp_path / f"file.{suffix}", "note: this\n"))
        assert detect(write(tmp_path / "file.md", "[2023-05-08 13:56] Ada: hello\n")) is Layout.CHAT

    def test_json_lines_are_known_without_their_suffix(self, tmp_path: Path) -> None:
        assert detect(write(tmp_path / "a.txt", '{"content": "a"}\n{"content": "b"}\n')) is Layout.JSON_LINES
        assert detect(write(tmp_path / "b.txt", '{"content": "only one"}')) is Layout.JSON_LINES

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StorageDataError, match="chat.json"):
            detect(tmp_path)

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StorageDataError, match="cannot be read") as caught:
            detect(tmp_path / "absent.txt")
        assert caught.value.field == "path"

    def test_a_file_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "photo.txt"
        path.write_bytes(b"\xff\xfe\x00binary")
        with pytest.raises(StorageDataError, match="UTF-8"):
            detect(path)

    def test_a_byte_order_mark_is_no_part_of_the_text(self, tmp_path: Path) -> None:
        path = write(tmp_path / "export.txt", "\ufeffAda: hello\n")
        assert next(iter(only(path).utterances)).speaker == "Ada"
