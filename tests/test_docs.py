"""What the documents say is so (DOC-1): code runs, commands exist, the matrix is printed from the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import indent

import click
import pytest

from polymem.cli import main
from polymem.cli.matrix import as_markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(group, prefix=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name))


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_readmes_code_runs(block, tmp_path):
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Lisbon" in done.stdout


@pytest.mark.parametrize(
    "block",
    [
        block
        for page in ("contracts", "encryption")
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    ],
)
def test_a_pages_programs_run(block, tmp_path):
    done = subprocess.run([sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NAMES = """
import asyncio, dataclasses, os, polymem
from polymem import F
from polymem.contracts.bulk import Put
from polymem.layers.encryption import Key, Keyring
@dataclasses.dataclass
class User:
    name: str
    age: int = 0
keys, operations, other = Keyring(Key("k", os.urandom(32))), [Put("b", 1)], User("Bob")
async def load(store):
    return 1
async def main(*parts):
    async with polymem.open("sqlite:///page.db") as store, polymem.Memory.open("memory:", embed=None) as memory:
        await store.kv.put_many({n: {"status": "paid", "customer": "ada", "amount": 200} for n in "ab"})
        for part in parts:
            await part(store, memory, store.kv)
"""


@pytest.mark.parametrize("page", ["attribute-index", "cache", "memory", "metrics", "query", "storage"])
def test_a_pages_fragments_run(page, tmp_path):
    """With the names that the text around them speaks of."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    parts = [f"async def part_{n}(store, memory, kv):\n{indent(block, '    ')}" for n, block in enumerate(blocks)]
    code = "\n".join([NAMES, *parts, f"asyncio.run(main({', '.join(f'part_{n}' for n in range(len(parts)))}))"])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_page_is_found_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([a-z-]+\.md)", README))
    assert {page.name for page in ROOT.glob("docs/*.md")} <= linked


def test_the_readmes_matrix_is_the_codes():
    assert as_markdown() in README


@pytest.mark.parametrize("command", sorted(commands(main)))
def test_every_command_is_documented(command):
    assert f"`polymem {command}" in (ROOT / "docs" / "cli.md").read_text()


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_extra_that_is_named_exists():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py"))]
    named = re.findall(r"polymem\[([a-z,]+)\]|library\(\"\w+\", \"(\w+)\"\)", "".join(texts))
    assert {extra for one, other in named for extra in (one or other).split(",")} <= set(known)


def test_errors_need_no_import_of_their_own():
    code = "import polymem; polymem.errors.StorageError, polymem.blocking.open"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_import_loads_only_the_standard_library():
    code = "import sys, polymem; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert set(done.stdout.split()) - {"polymem", "__main__"} <= sys.stdlib_module_names | {"_distutils_hack"}
