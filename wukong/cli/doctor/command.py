"""`wukong doctor`: options and what it prints."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wukong.cli.options import AsJson, Token, address_list, api_url
from wukong.cli.output import EXIT_REFUSED, fail, report, run, warn

if TYPE_CHECKING:
    from wukong.cli.doctor.examine import Examination
    from wukong.cli.doctor.finding import Finding

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "red"}


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration of `wukong serve`.", metavar="FILE")
    ] = None,
    api: Annotated[
        str,
        typer.Option(
            "--api",
            envvar="WUKONG_API",
            help="HTTP APIs to ask, separated by commas; without it that of the configuration, if its server runs.",
        ),
    ] = "",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Write what was found to a tar.gz for support, without secrets.", metavar="FILE"),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="The server's log file; its end goes into the bundle.", metavar="FILE")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with a node, its machine and its cluster, and say what to do about it.

    Works with the server running or stopped, and changes nothing. Looks at: the configuration, TLS files, ports, disk,
    permissions, data directory, log, limits of process and kernel, clocks, back ends, other nodes, cluster. Exit
    status 1 if there is an error.

    Example: wukong doctor --config wk.yaml

    A cluster from outside: wukong doctor --api http://node1:5001,http://node2:5001

    For support: wukong doctor --config wk.yaml --bundle wukong.tar.gz --log server.log
    """
    from wukong.cli.doctor.examine import examine
    from wukong.cli.doctor.finding import ERROR, WARNING, count

    if bundle is not None and bundle.exists():
        fail(ValueError(f"{bundle} is there already; --bundle names a new file"), as_json=as_json)
    urls = [api_url(each) for each in address_list(api)]
    seen = run(examine(config, os.environ, urls, token), as_json=as_json)
    findings = _redacted(seen, token)
    if bundle is not None:
        _write_bundle(bundle, log, seen, token, as_json=as_json)
    errors, warnings = count(findings, ERROR), count(findings, WARNING)

    def text() -> str:
        shown = [each for each in findings if not quiet or each.level in (WARNING, ERROR)]
        lines = [line for each in shown for line in lines_of(each, colours=sys.stdout.isatty())]
        lines.append(summary(errors, warnings))
        if bundle is not None:
            lines.append(f"written to {bundle}; look through it before you pass it on")
        return "\n".join(lines)

    value = {"findings": findings, "errors": errors, "warnings": warnings, "bundle": str(bundle) if bundle else ""}
    report(value, as_json=as_json, text=text)
    if errors:
        raise typer.Exit(EXIT_REFUSED)


def lines_of(finding: "Finding", *, colours: bool) -> list[str]:
    level = f"{finding.level:<8}"
    if colours:
        level = typer.style(level, fg=_COLOURS[finding.level], bold=finding.level == "error")
    lines = [f"{level}{finding.check}: {finding.text}"]
    if finding.advice:
        lines.append(f"{'':<8}-> {finding.advice}")
    return lines


def summary(errors: int, warnings: int) -> str:
    def words(number: int, word: str) -> str:
        return f"{number} {word}" + "s" * (number != 1)

    if not errors and not warnings:
        return "nothing wrong"
    return f"{words(errors, 'error')}, {words(warnings, 'warning')}"


def _secrets(seen: "Examination", token: str) -> set[str]:
    from wukong.cli.doctor.redact import secrets_in_environment, secrets_of

    known = {token} | secrets_in_environment(os.environ)
    return known | secrets_of(seen.config) if seen.config is not None else known


def _redacted(seen: "Examination", token: str) -> list["Finding"]:
    """What is printed ends up in tickets too."""
    import msgspec

    from wukong.cli.doctor.redact import Redactor

    redactor = Redactor(_secrets(seen, token))
    return [
        msgspec.structs.replace(each, text=redactor.text(each.text), advice=redactor.text(each.advice))
        for each in seen.findings
    ]


def _write_bundle(bundle: Path, log: Path | None, seen: "Examination", token: str, *, as_json: bool) -> None:
    from wukong.cli.doctor.bundle import contents, tail_of, write
    from wukong.cli.doctor.redact import Redactor

    try:
        tail = tail_of(log) if log is not None else None
    except OSError as error:
        warn(f"{log}: {error.strerror}; the bundle has no log")
        tail = None
    try:
        write(bundle, contents(seen.findings, seen.config, seen.told, tail, Redactor(_secrets(seen, token))))
    except OSError as error:
        fail(OSError(f"{bundle} cannot be written: {error.strerror}"), as_json=as_json)
