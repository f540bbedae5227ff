"""The examples of docs/adapters.md run and print what they say (DOC-1)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SAYS = (
    ["I moved to Lisbon", "[3, 2]", "[1]", "True False", "healthy 2"],
    ["['0', '1']", "[{'text': 'write tests', 'stars': 5, 'id': '1'}, None] 1", "| Operation |"],
)


@pytest.mark.parametrize(("block", "says"), list(zip(BLOCKS, SAYS, strict=True)))
def test_an_example(block: str, says: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[: len(expected)] for line, expected in zip(lines, says, strict=True)] == says
