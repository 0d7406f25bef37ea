# SPDX-License-Identifier: Apache-2.0
"""The command ``doctor``."""

from __future__ import annotations

import argparse
import dataclasses

from lazy_engine import checkup, doctor, ledger
from lazy_engine.checkup import STALLED, WRONG, Finding
from lazy_engine.cli import parser
from lazy_engine.cli.exit_code import ExitCode
from lazy_engine.cli.output import Output, printable
from lazy_engine.cli.session import Session
from lazy_engine.doctor import Report


def add(commands: parser.Commands) -> None:
    """Add the command to the parser."""
    commands.add(
        "doctor",
        _doctor,
        "prove that nothing in the store is lost, orphaned or contradictory",
        details="Reads only, and may run while the store is in use. With a job board, the"
        f" doorbells on it are looked at too. Exits with {ExitCode.DONE.value} if all is well,"
        f" with {ExitCode.UNSOUND.value} if something contradicts what is promised, and otherwise"
        f" with {ExitCode.STALLED.value} if something is left that nobody is going to do.",
    )


def _doctor(session: Session, _arguments: argparse.Namespace) -> int:
    backend = session.open_store()
    board = session.open_board(backend) if session.jobboard else None

    def tell(report: Report) -> None:
        session.output.status(f"{report.flows} flows examined, {len(report.findings)} findings")

    try:
        report = doctor.examine(ledger.beside(backend), board, tell)
    finally:
        session.output.status("")
    if session.output.is_json:
        session.output.json(_document(report))
    else:
        _print(session.output, report)
    return _exit_code(report)


def _exit_code(report: Report) -> ExitCode:
    if report.is_wrong:
        return ExitCode.UNSOUND
    return ExitCode.STALLED if report.is_stalled else ExitCode.DONE


def _checks(report: Report) -> list[checkup.Check]:
    return [*checkup.CHECKS, *([checkup.DOORBELL] if report.doorbells is not None else [])]


def _document(report: Report) -> dict[str, object]:
    document = dataclasses.asdict(report)
    document["checks"] = [
        {
            "name": check.name,
            "level": check.level,
            "says": check.says,
            "count": sum(finding.check == check.name for finding in report.findings),
        }
        for check in _checks(report)
    ]
    document["exit_code"] = int(_exit_code(report))
    return document


def _print(output: Output, report: Report) -> None:
    looked = (
        f"looked at {report.flows} flows, {report.delays} delays, {report.outcomes} outcomes,"
        f" {report.leases} leases, {report.incidents} incidents"
    )
    if report.doorbells is not None:
        looked += f", {report.doorbells} doorbells"
    output.line(looked)
    good, bad = ("✔", "✘") if output.has_unicode else ("ok", "NO")
    for check in _checks(report):
        found = [finding for finding in report.findings if finding.check == check.name]
        style = "good" if not found else "bad" if check.level == WRONG else "waiting"
        output.line(output.style(f"{bad if found else good} {check.says}", style))
        for finding in found:
            output.line(f"    {_words(finding)}")
    if report.busy:
        output.remark(f"{report.busy} flows changed each time they were read: not looked at")
    output.line(_verdict(report))


def _words(finding: Finding) -> str:
    where = f"flow {finding.flow_uuid}"
    if finding.task_name:
        where += f", task '{printable(finding.task_name)}'"
    return f"{where}: {printable(finding.text)}"


def _verdict(report: Report) -> str:
    if report.is_wrong:
        return f"{len(report.of_level(WRONG))} contradictions: this should not be, please report it"
    if report.is_stalled:
        return f"sound; {len(report.of_level(STALLED))} things wait for a watchdog or a person"
    return "all is well"
