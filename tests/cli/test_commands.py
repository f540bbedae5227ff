"""The commands on real SQLite files (CLI-1)."""

import asyncio
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import click
import pytest

import polymem
from polymem.cli import COMMANDS, main
from polymem.cli.matrix import capability_matrix, declared
from polymem.contracts.drivers import CONTRACTS
from polymem.errors import StorageDataError

from .conftest import Run

DB = "sqlite:///agent.db"
SECRET = "hunter2-very-secret"


async def _put_expired(url: str) -> None:
    async with polymem.open(url, sweep_every=None) as store:
        await store.kv.put("a", 1, ttl=0)


class TestGroup:
    def test_help_lists_every_command_with_its_own_first_line(self, run: Run) -> None:
        text = run("--help").out
        context = click.Context(main)
        for name, (_, line) in COMMANDS.items():
            assert name in text
            command = main.get_command(context, name)
            assert command is not None
            assert (command.help or "").strip(), name
            assert line.split()[0] == line.split()[0].capitalize()

    @pytest.mark.parametrize("name", [*COMMANDS, "bench recall", "bench kv", "db grants"])
    def test_every_command_takes_the_shared_options(self, run: Run, name: str) -> None:
        text = run(*name.split(), "--help").out
        if name not in {"bench", "db"}:
            assert all(option in text for option in ("--json", "--url", "--tenant", "--config", "--debug"))

    def test_exit_codes_are_documented(self, run: Run) -> None:
        assert "0 done, 1 the operation failed, 2 wrong usage" in run("--help").out
        assert "_POLYMEM_COMPLETE" in run("--help").out

    def test_version(self, run: Run) -> None:
        assert polymem.__version__ in run("--version").out

    @pytest.mark.parametrize(
        "arguments",
        [
            ("nonsense",),
            ("recall",),
            ("recall", "q", "--limit", "0"),
            ("recall", "q", "--limit", "many"),
            ("recall", "q", "--where", "[1]"),
            ("recall", "q", "--where", "{"),
            ("recall", "q", "--as-of", "2026-01-01T00:00:00"),
            ("recall", "q", "--as-of", "yesterday"),
            ("remember", "x", "--confidence", "2"),
            ("remember", "x", "--bogus"),
            ("context", "s", "--token-budget", "-1"),
            ("ingest", "absent.jsonl"),
            ("conformance", "memory:", "--contract", "nonsense"),
        ],
    )
    def test_wrong_usage_is_2_and_writes_nothing(self, run: Run, folder: Path, arguments: tuple[str, ...]) -> None:
        outcome = run("--url", DB, *arguments, code=2)
        assert "Error:" in outcome.err
        assert not list(folder.iterdir())

    def test_a_failure_is_1_and_one_line(self, run: Run) -> None:
        for arguments in (
            ("recall", "q"),
            ("--url", "nonsense", "stats"),
            ("--url", DB, "remember", "x", "--kind", "turn"),
        ):
            outcome = run(*arguments, code=1)
            assert outcome.out == ""
            assert re.fullmatch(r"polymem: [^\n]+\n", outcome.err), outcome.err
            assert "Traceback" not in outcome.err

    def test_debug_raises(self, run: Run) -> None:
        with pytest.raises(StorageDataError):
            run("--debug", "recall", "q", catch_exceptions=False)

    def test_an_unforeseen_error_is_one_line_without_its_text(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError(SECRET)

        monkeypatch.setattr("polymem.cli.setup.configuration", fail)
        outcome = run("config", code=1)
        assert outcome.err == "polymem: unexpected RuntimeError; --debug shows where\n"

    def test_a_package_that_is_missing_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise ModuleNotFoundError("Hypothesis is missing")

        monkeypatch.setattr("polymem.cli.setup.configuration", fail)
        assert run("config", code=1).err == "polymem: Hypothesis is missing\n"


class TestSettings:
    def test_init_then_config(self, run: Run, folder: Path) -> None:
        assert "polymem.toml" in run("init", "--url", DB, "--tenant", 'a"b\\c\n').out
        rows = {row["key"]: row for row in run("config", "--json").json["settings"]}
        assert rows["engines.local.url"] == {"key": "engines.local.url", "value": DB, "origin": "polymem.toml"}
        assert rows["memory.tenant"]["value"] == 'a"b\\c\n'
        assert rows["logging.json"]["origin"] == "default"
        assert "engines.local.url" in run("config").out
        assert not (folder / "agent.db").exists()

    def test_init_does_not_overwrite(self, run: Run, folder: Path) -> None:
        (folder / "polymem.toml").write_text("mine")
        assert "--force" in run("init", code=1).err
        assert (folder / "polymem.toml").read_text() == "mine"
        run("init", "--force", "--json")
        assert "[engines.local]" in (folder / "polymem.toml").read_text()

    def test_init_refuses_what_could_not_be_read_back(self, run: Run, folder: Path) -> None:
        assert "URL" in run("init", "--url", "nonsense", code=1).err
        assert not (folder / "polymem.toml").exists()

    def test_every_commented_line_of_the_template_is_valid_too(self, run: Run, folder: Path) -> None:
        run("init")
        path = folder / "polymem.toml"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(re.sub(r"^# (?=\[|\w+ = )", "", line) for line in lines))
        rows = {row["key"]: row["value"] for row in run("config", "--json").json["settings"]}
        assert (rows["engines.local.durability"], rows["engines.local.cache_mb"]) == ("full", 16)
        assert rows["logging.level"] == "INFO"

    def test_precedence_dotenv_environment_options(
        self, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CFG-1: later wins; `.env` is read by the command line."""

        def tenant(*arguments: str) -> tuple[str, str]:
            rows = {row["key"]: row for row in run(*arguments, "config", "--json").json["settings"]}
            return rows["memory.tenant"]["value"], rows["memory.tenant"]["origin"]

        assert tenant() == ("default", "default")
        run("init", "--tenant", "file")
        assert tenant() == ("file", "polymem.toml")
        (folder / ".env").write_text("# ours\nOTHER=[not ours\nexport POLYMEM_MEMORY_TENANT='dot env' # yes\n")
        assert tenant() == ("dot env", ".env POLYMEM_MEMORY_TENANT")
        monkeypatch.setenv("POLYMEM_MEMORY_TENANT", "env")
        assert tenant() == ("env", "environment POLYMEM_MEMORY_TENANT")
        assert tenant("--tenant", "option") == ("option", "argument")

    def test_a_broken_dotenv_names_the_line_and_not_its_content(self, run: Run, folder: Path) -> None:
        (folder / ".env").write_text(f"\nPOLYMEM_URL='{SECRET}\n")
        outcome = run("config", code=1)
        assert ".env, line 2" in outcome.err
        assert SECRET not in outcome.err

    def test_an_unreadable_dotenv(self, run: Run, folder: Path) -> None:
        (folder / ".env").write_bytes(b"POLYMEM_URL=\xff")
        assert ".env: cannot be read" in run("config", code=1).err

    def test_a_file_that_cannot_be_written_is_one_line(self, run: Run, folder: Path) -> None:
        assert run("init", "--config", "absent/polymem.toml", code=1).err.startswith("polymem: absent/polymem.toml: ")

    def test_secrets_are_masked(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POLYMEM_URL", f"postgresql://ada:{SECRET}@host/db")
        monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
        monkeypatch.setenv("POLYMEM_SERVICE_HOST", "x")
        shown = [run("config"), run("config", "--json"), run("stats", code=1), run("doctor", code=1)]
        assert all(SECRET not in outcome.out + outcome.err for outcome in shown)
        assert "ada:***@host" in shown[0].out
        assert "POLYMEM_SERVICE_HOST" in shown[0].err

    def test_logging_is_silent_unless_configured(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run("--url", DB, "remember", "x").err == ""
        monkeypatch.setenv("POLYMEM_LOGGING_LEVEL", "INFO")
        monkeypatch.setenv("POLYMEM_LOGGING_JSON", "true")
        records = [json.loads(line) for line in run("--url", DB, "remember", "y").err.splitlines()]
        assert "connect" in {record.get("operation") for record in records}


class TestMemories:
    def test_remember_and_recall_with_the_reason(self, run: Run) -> None:
        made = run(
            "--url", DB, "remember", "Ada prefers dark mode [bold]", "--kind", "preference", "--subject", "ada",
            "--metadata", '{"room": "kitchen"}', "--at", "2026-01-31T12:00:00+01:00", "--json",
        ).json  # fmt: skip
        found = run("recall", "what does Ada prefer?", "--url", DB, "--json").json
        (hit,) = found["hits"]
        assert hit["id"] == made["id"]
        assert sum(hit["scores"].values()) == pytest.approx(hit["score"])
        assert (hit["kind"], hit["subject"], hit["metadata"]) == ("preference", "ada", {"room": "kitchen"})
        assert datetime.fromisoformat(hit["at"]) == datetime.fromisoformat("2026-01-31T11:00:00Z")
        assert datetime.fromisoformat(hit["at"]).utcoffset() == timedelta(0)  # G-5
        table = run("recall", "dark mode", "--url", DB).out
        assert "Ada prefers dark mode [bold]" in table
        assert "text +" in table

    def test_filters(self, run: Run) -> None:
        for kind in ("fact", "preference"):
            run("--url", DB, "remember", f"dark {kind}", "--kind", kind, "--metadata", f'{{"k": "{kind}"}}')

        def texts(*arguments: str) -> list[str]:
            hits = run("--url", DB, "recall", "dark", *arguments, "--json").json["hits"]
            return sorted(hit["text"] for hit in hits)

        assert texts() == ["dark fact", "dark preference"]
        assert texts("--kind", "fact") == ["dark fact"]
        assert texts("--kind", "fact", "--kind", "preference") == ["dark fact", "dark preference"]
        assert texts("--where", '{"metadata.k": "preference"}') == ["dark preference"]
        assert len(texts("--limit", "1")) == 1
        assert texts("--subject", "nobody") == []
        assert run("--url", DB, "recall", "dark", "--subject", "nobody").out == "nothing found\n"

    def test_tenants_are_apart(self, run: Run) -> None:
        """G-10."""
        run("--url", DB, "--tenant", "acme", "remember", "dark mode")
        assert run("--url", DB, "--tenant", "other", "recall", "dark", "--json").json["hits"] == []
        assert run("--url", DB, "stats", "--tenant", "acme", "--json").json["memories"] == 1

    def test_idempotency_key(self, run: Run) -> None:
        first = run("--url", DB, "remember", "dark mode", "--idempotency-key", "k").out
        assert run("--url", DB, "remember", "dark mode", "--idempotency-key", "k").out == first
        assert "idempotency_key" in run("--url", DB, "remember", "light", "--idempotency-key", "k", code=1).err

    def test_words_alone_says_so(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POLYMEM_MEMORY_EMBED", "none")
        run("--url", DB, "remember", "dark mode")
        assert "note: " in run("--url", DB, "recall", "dark").err
        assert run("--url", DB, "recall", "dark", "--json").json["notes"]
        assert run("--url", DB, "stats", "--json").json["embedding"] is None

    def test_context(self, run: Run, folder: Path) -> None:
        (folder / "talk.jsonl").write_text('{"session": "s1", "role": "user", "content": "I moved to Lisbon"}\n')
        run("--url", DB, "ingest", "talk.jsonl")
        assert "I moved to Lisbon" in run("--url", DB, "context", "s1").out
        block = run("--url", DB, "context", "s1", "--token-budget", "50", "--query", "Lisbon", "--json").json
        assert 0 < block["tokens"] <= 50
        assert [turn["text"] for turn in block["turns"]] == ["I moved to Lisbon"]

    def test_the_context_of_an_unknown_session_says_so(self, run: Run) -> None:
        run("--url", DB, "remember", "dark mode")
        assert run("--url", DB, "context", "absent").err == "note: the session has no turns\n"

    def test_forget_asks_and_leaves_no_byte(self, run: Run, folder: Path) -> None:
        word = "xylophonist"
        run("--url", DB, "remember", f"Ada is a {word}", "--subject", "Ada")
        run("--url", DB, "remember", "Bob is a baker", "--subject", "Bob")
        run("--url", DB, "forget", "Ada", code=1, input="n\n")
        assert word.encode() in (folder / "agent.db").read_bytes()
        assert run("--url", DB, "forget", "ada", "--yes", "--json").json["memories"] == 1
        assert all(word.encode() not in path.read_bytes() for path in folder.iterdir())
        assert run("--url", DB, "stats", "--json").json["memories"] == 1

    def test_looking_makes_no_file(self, run: Run, folder: Path) -> None:
        for command in (("recall", "x"), ("context", "s"), ("stats",), ("sweep",), ("forget", "x", "--yes")):
            assert "agent.db yet" in run("--url", DB, *command, code=1).err
        run("--url", DB, "doctor")
        assert not list(folder.iterdir())

    def test_a_file_that_is_not_ours_is_left_untouched(self, run: Run, folder: Path) -> None:
        path = folder / "agent.db"
        path.write_bytes(b"not a database" * 100)
        for command in (("stats",), ("remember", "x"), ("doctor",)):
            run("--url", DB, *command, code=1)
        assert path.read_bytes() == b"not a database" * 100


class TestEngines:
    def test_sweep(self, run: Run) -> None:
        """G-6: counts what was removed; TTL in the past is legal."""
        run("--url", DB, "remember", "gone", "--ttl", "-1")
        run("--url", DB, "remember", "stays")
        assert run("--url", DB, "sweep", "--json").json == {"memories": 1, "records": 0}
        assert run("--url", DB, "sweep").out == "memories: 0\nrecords: 0\n"
        assert run("--url", DB, "stats", "--json").json["memories"] == 1

    def test_sweep_of_an_engine_without_memories(self, run: Run) -> None:
        asyncio.run(_put_expired("file:agent.json"))
        assert run("--url", "file:agent.json", "sweep", "--json").json == {"memories": 0, "records": 1}

    def test_doctor(self, run: Run) -> None:
        run("--url", DB, "remember", "x")
        found = run("--url", DB, "doctor", "--json").json
        assert found["ok"] is True
        assert found["problems"] == []
        assert found["packages"]["polymem"] == polymem.__version__
        assert {"memory", "sqlite"} <= set(found["engines"])
        assert found["url"] == DB
        assert found["version"].startswith("3.")
        assert (found["status"], found["pool"]) == ("healthy", None)
        assert found["latency_ms"] > 0
        assert {row["contract"] for row in found["capabilities"]} == set(CONTRACTS)
        assert "problems: none" in run("--url", DB, "doctor").out

    def test_doctor_misses_the_folder_of_a_database_that_is_not_there_yet(self, run: Run) -> None:
        found = run("--url", "sqlite:///absent/agent.db", "doctor", "--json", code=1).json
        assert (found["ok"], "no folder" in found["problems"][0]) == (False, True)
        assert run("--url", DB, "doctor", "--json").json["ok"] is True

    def test_text_for_people_is_no_python(self, run: Run) -> None:
        run("--url", DB, "remember", "x")
        out = run("--url", DB, "doctor").out
        assert not re.search(r"^\w+: .*(None|[\[{]')", out, re.MULTILINE), out
        assert re.search(r"^details: format 1, .*records \(pm_kv \d+, ", out, re.MULTILINE)
        assert "asyncpg " in out

    def test_who_cannot_be_reached_is_named_without_the_password(self, run: Run) -> None:
        for scheme in ("postgresql", "redis"):
            pytest.importorskip({"postgresql": "asyncpg"}.get(scheme, scheme))
            told = run("--url", f"{scheme}://ada:{SECRET}@127.0.0.1:1/0", "export", "x.jsonl", code=1).err
            assert told.startswith(f"polymem: {scheme}://ada:***@127.0.0.1:1/0: ")
            assert SECRET not in told

    def test_doctor_without_an_engine(self, run: Run) -> None:
        assert run("doctor", "--json").json["remark"] == "no engine is configured"

    def test_doctor_finds_damage(self, run: Run, folder: Path) -> None:
        for n in range(50):
            run("--url", DB, "remember", f"memory {n} " + "word " * 200, "--idempotency-key", str(n))
        path = folder / "agent.db"
        content = bytearray(path.read_bytes())
        for start in range(4096 * 3, len(content), 4096 * 2):
            content[start : start + 64] = b"\xff" * 64
        path.write_bytes(content)
        found = run("--url", DB, "doctor", "--json", code=1).json
        assert found["ok"] is False
        assert found["problems"]

    def test_the_matrix_is_read_off_the_drivers(self, run: Run, folder: Path) -> None:
        rows = capability_matrix()
        assert [row.contract for row in rows if row.feature is None] == list(CONTRACTS)
        assert all(tuple(row.engines) == tuple(declared()) for row in rows)
        durable = next(row for row in rows if (row.contract, row.feature) == ("kv", "durable"))
        everywhere = {"memory": False, "json_file": True, "sqlite": True, "postgres": True, "redis": False}
        assert durable.engines == everywhere
        lines = run("doctor", "--matrix", "--markdown").out.splitlines()
        assert lines[:2] == [f"| contract | {' | '.join(everywhere)} |", "| --- | --- | --- | --- | --- | --- |"]
        assert "| graph | yes | no | durable | durable | no |" in lines
        assert len(lines) == len(CONTRACTS) + 2
        assert not list(folder.iterdir())
        assert "kv: durable" in run("doctor", "--matrix").out
        assert run("doctor", "--matrix", "--json").json[0] == {
            "contract": "kv", "feature": None, "engines": dict.fromkeys(everywhere, True),
        }  # fmt: skip

    def test_conformance(self, run: Run) -> None:
        found = run("conformance", "memory:", "--contract", "sql", "--json").json
        assert found["ok"] is True
        assert found["engine"] == "memory"
        assert found["cells"]["sql"]["passed"] == found["cells"]["sql"]["clauses"] > 0
        assert "memory: conforms" in run("conformance", "memory:", "--contract", "sql").out

    def test_conformance_tells_what_failed(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        async def forgetful(*_: object, **__: object) -> None:
            return None

        monkeypatch.setattr("polymem.engines.memory.kv.MemoryKV.get", forgetful)
        outcome = run("conformance", "memory:", "--contract", "kv", code=1)
        assert "failed: kv " in outcome.out
        assert "memory: does not conform" in outcome.out
        found = run("conformance", "memory:", "--contract", "kv", "--json", code=1).json
        assert found["ok"] is False
        assert all(failure["reason"] for failure in found["failures"])

    def test_bench_kv(self, run: Run, folder: Path) -> None:
        found = run("bench", "kv", "--url", "memory:", "--tasks", "2", "--seconds", "0.01", "--json").json
        assert {figure["operation"] for figure in found["figures"]} == {"put", "get", "put_many", "get_many"}
        assert {figure["tasks"] for figure in found["figures"]} == {2}
        assert "put_many" in run("bench", "kv", "--tasks", "1", "--seconds", "0.01").out
        assert not list(folder.iterdir())

    def test_bench_recall(self, run: Run, folder: Path) -> None:
        turns = [
            {"speaker": "Ada", "dia_id": "D1:1", "text": "I moved to Lisbon last spring"},
            {"speaker": "Bob", "dia_id": "D1:2", "text": "How do you like the trams?"},
        ]
        talk = {"session_1": turns, "session_1_date_time": "1:56 pm on 8 May, 2023"}
        questions = [{"question": "Where did Ada move?", "evidence": ["D1:1"], "category": 1}]
        path = folder / "set.json"
        path.write_text(json.dumps([{"sample_id": "a", "conversation": talk, "qa": questions}]))
        found = run("bench", "recall", str(path), "--words-only", "--json").json
        assert (found["turns"], found["overall"]["questions"], found["embedder"]) == (2, 1, None)
        assert found["overall"]["mrr"]["value"] == 1
        assert "R@10" in run("bench", "recall", str(path)).out
        assert [child.name for child in folder.iterdir()] == ["set.json"]
