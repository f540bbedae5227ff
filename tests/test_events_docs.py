"""The examples of docs/events.md run and print what they say (DOC-1)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "events.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAYS = (
    ["put user/ada", "{'user/ada': {'theme': 'dark'}} "],
    ["after:put ('acme',) theme dark", "after:put () n 1", "{'after:put': 1, 'after:delete': 1, 'error': 1}"],
    ["Ada", "this tenant is read-only"],
)


@pytest.mark.parametrize(("block", "says"), list(zip(BLOCKS, SAYS, strict=True)))
def test_an_example(block: str, says: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= len(says)
    for line, expected in zip(lines, says, strict=False):
        assert line.startswith(expected)
