"""`doctor`: what is installed, what each engine can do, and whether the configured one is sound."""

import asyncio
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import click

from polymem.cli import output
from polymem.cli.connection import configuration, store
from polymem.cli.invocation import Command, Invocation, pass_invocation
from polymem.cli.matrix import as_cells, as_markdown, capability_matrix
from polymem.config import Config
from polymem.config.masking import mask_url
from polymem.core.health import HealthCheckResult
from polymem.core.registry import schemes
from polymem.errors import StorageError
from polymem.providers.embedding import INSTALL_HINT, load_default

_PACKAGES: Final = (
    "polymem",
    "apsw",
    "numpy",
    "msgspec",
    "click",
    "rich",
    "PyStemmer",
    "wordllama",
    "tokenizers",
    "safetensors",
    "asyncpg",
    "redis",
    "hiredis",
    "cachetools",
    "cryptography",
    "zstandard",
    "pyarrow",
    "httpx",
)


@click.command(cls=Command)
@click.option("--matrix", is_flag=True, help="Only what each engine can do.")
@click.option("--markdown", is_flag=True, help="The matrix as Markdown, as in the README.")
@pass_invocation
def doctor(invocation: Invocation, matrix: bool, markdown: bool) -> None:
    """Check versions, engines, capabilities and integrity; exit code 1 where something is wrong."""
    rows = capability_matrix()
    if matrix or markdown:
        as_text = (lambda: click.echo(as_markdown())) if markdown else (lambda: _show_matrix(rows))
        output.show(invocation, [row._asdict() for row in rows], as_text)
        return
    findings = asyncio.run(_examine(configuration(invocation)))
    result = {**findings, "capabilities": [row._asdict() for row in rows]}
    output.show(invocation, result, lambda: _show_findings(findings, rows))
    if not findings["ok"]:
        raise click.exceptions.Exit(1)


async def _examine(config: Config) -> dict[str, Any]:
    """What is installed, and how the configured engine is."""
    embedder = load_default()
    findings: dict[str, Any] = {
        "ok": True,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "engines": schemes(),
        "embedding": INSTALL_HINT if embedder is None else embedder.name,
        "url": None,
    }
    if config.engine is None:
        return {**findings, "problems": [], "remark": "no engine is configured"}
    return {**findings, "url": mask_url(config.only().url), **await _check(config)}


async def _check(config: Config) -> dict[str, Any]:
    checked = store(config)
    path = getattr(checked.engine, "path", None)
    if isinstance(path, Path) and not path.exists():
        missing = [] if path.parent.exists() else [f"there is no folder {path.parent}"]
        return {"ok": not missing, "problems": missing, "remark": f"there is no {path} yet"}
    try:
        async with checked as opened:
            answer, health = await opened.health(), await opened.check()
    except StorageError as error:
        return {"ok": False, "problems": [str(error)]}
    return {
        "ok": health.ok and answer.status != "unhealthy",
        "status": answer.status,
        "latency_ms": answer.latency_ms,
        "pool": answer.pool,
        "problems": [*health.problems, *_said(answer)],
        "version": health.version,
        "details": health.details,
    }


def _said(answer: HealthCheckResult) -> list[str]:
    return [answer.error] if answer.error else list(answer.details.get("reasons", []))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _show_findings(findings: dict[str, Any], rows: Any) -> None:
    shown = {name: value for name, value in findings.items() if name not in ("packages", "problems")}
    packages = {name: number or "(not installed)" for name, number in findings["packages"].items()}
    output.pairs({**shown, "packages": packages, "problems": "; ".join(findings["problems"]) or "none"})
    _show_matrix(rows)


def _show_matrix(rows: Any) -> None:
    output.table(("capability", *rows[0].engines), as_cells(rows))
