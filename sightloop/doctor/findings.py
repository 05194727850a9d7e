"""What the doctor found: one line a check, in the terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sightloop.terminal import one_line

Mark = Literal["pass", "warn", "fail", "info"]
_SIGNS: dict[str, str] = {"pass": "ok  ", "warn": "note", "fail": "FAIL", "info": "    "}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    part: str
    """Heading it stands under."""
    name: str
    mark: Mark
    says: str
    fix: str = ""
    """What to do, in one sentence."""
    figures: dict[str, float] = field(default_factory=dict[str, float])


def loaded(part: str, model: Any) -> Finding:
    """That a model could be opened, and how large it is."""
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    return Finding(part=part, name="loads", mark="pass", says=f"{millions:.1f} M parameters, all there")


def is_healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.mark != "fail" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """Everything that was found, under headings, with a last line that sums it up."""
    lines: list[str] = []
    findings = [replace(each, name=one_line(each.name), says=one_line(each.says)) for each in findings]
    width = max((len(finding.name) for finding in findings), default=0)
    for part in dict.fromkeys(finding.part for finding in findings):
        lines += ["", part]
        for finding in findings:
            if finding.part == part:
                lines.append(f"  {_SIGNS[finding.mark]} {finding.name:<{width}}  {finding.says}".rstrip())
                lines += [f"       {'':<{width}}  -> {finding.fix}"] * bool(finding.fix)
    failed = sum(finding.mark == "fail" for finding in findings)
    passed = sum(finding.mark == "pass" for finding in findings)
    last = f"{failed} of {failed + passed} checks failed" if failed else f"all {passed} checks passed"
    return "\n".join([*lines[1:], "", last])


def save_findings(findings: Sequence[Finding], file: Path) -> None:
    """Write them as JSON."""
    record = {"healthy": is_healthy(findings), "findings": [asdict(finding) for finding in findings]}
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
