"""What the documents say is so (DOC-1): code runs, commands exist, the matrix is printed from the code."""

import re
import subprocess
import sys
from pathlib import Path

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


def test_the_import_loads_only_the_standard_library():
    code = "import sys, polymem; print(*(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert set(done.stdout.split()) - {"polymem", "__main__"} <= sys.stdlib_module_names | {"_distutils_hack"}
