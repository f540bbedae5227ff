"""What `import polymem` costs, what it loads, and how many packages come with it."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from time import perf_counter

from report import Figure, arguments, finish

from polymem.jobs.measure import spread

_LOADED = "import sys; {}; import json; print(json.dumps(sorted(sys.modules)))"


def seconds(statement: str) -> float:
    """How long a Python that runs one statement takes."""
    started = perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return perf_counter() - started


def loaded(statement: str) -> set[str]:
    output = subprocess.run([sys.executable, "-c", _LOADED.format(statement)], check=True, capture_output=True).stdout
    return set(json.loads(output))


def foreign_modules() -> set[str]:
    """Packages outside the standard library and polymem that `import polymem` loads."""
    tops = {name.partition(".")[0] for name in loaded("import polymem") - loaded("pass")}
    return tops - set(sys.stdlib_module_names) - {"polymem"}


def base_packages(name: str = "polymem") -> set[str]:
    """The package and everything it needs without extras on this platform."""
    from packaging.requirements import Requirement

    found, waiting = set[str](), [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if current not in found:
            found.add(current)
            needed = [Requirement(line) for line in requires(current) or ()]
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def main() -> None:
    options = arguments(__doc__, rounds=21).parse_args()
    statements = {"pass": "pass", "import": "import polymem", "open": "import polymem; polymem.open('memory:')",
                  "memory": "import polymem; polymem.Memory"}  # fmt: skip
    for statement in statements.values():  # writes the byte code
        seconds(statement)
    rounds = [{name: 1000 * seconds(text) for name, text in statements.items()} for _ in range(options.rounds)]
    foreign, packages = foreign_modules(), base_packages()
    finish(
        "Import",
        [
            Figure("python -c pass", spread(one["pass"] for one in rounds), "ms"),
            Figure(
                "import polymem, above pass", spread(one["import"] - one["pass"] for one in rounds), "ms", at_most=30
            ),
            Figure("the same and polymem.open, above pass", spread(one["open"] - one["pass"] for one in rounds), "ms"),
            Figure(
                "the same and polymem.Memory, above pass", spread(one["memory"] - one["pass"] for one in rounds), "ms"
            ),
            Figure(f"foreign modules {' '.join(sorted(foreign))}".strip(), len(foreign), at_most=0),
            Figure(f"packages: {' '.join(sorted(packages))}", len(packages), at_most=10),
        ],
        options,
    )


if __name__ == "__main__":
    main()
