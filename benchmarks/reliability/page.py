"""Writes the tables of docs/reliability.md from the data that the measurements left.

python -m benchmarks.reliability.page
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from benchmarks.reliability.disturbances import DISTURBANCES
from benchmarks.reliability.records import recorded

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with every table made anew."""
    made = {
        "fuzz": fuzz_table(),
        "soak": soak_table(),
        "resume": resume_table(),
        "sigterm": sigterm_table(),
    }
    return _BLOCK.sub(lambda match: f"{match[1]}{made[match[2]]}\n{match[3]}", text)


def fuzz_table() -> str:
    """How many mutated inputs ended how."""
    rows = ["| day | commit | inputs | taken | refused by name | faults | longest | minutes |"]
    rows.append("|---|---|--:|--:|--:|--:|--:|--:|")
    for row in recorded("fuzz").values():
        faults = ", ".join(f"{number} {kind}" for kind, number in row["faults"].items()) or "0"
        rows.append(
            f"| {row['date']} | {row['commit']} | {row['inputs']:,} | {row['taken']:,} | {row['refused']:,} "
            f"| {faults} | {row['longest_seconds']:.0f} s | {row['minutes']:.0f} |"
        )
    told = [
        f"Of {row['inputs']:,}: "
        + ", ".join(f"{number:,} {group}" for group, number in row["groups"].items())
        for row in recorded("fuzz").values()
    ]
    return "\n".join([*rows, "", *(f"{line}." for line in told)])


def soak_table() -> str:
    """Memory, files and threads of the second half of long runs."""
    rows = ["| recipe | steps | memory, MiB | MiB a 100 steps, 95% | open files | threads | day | commit |"]
    rows.append("|---|--:|--:|--:|--:|--:|---|---|")
    for name, row in recorded("soak").items():
        files, threads = (f"{fewest} to {most}" for fewest, most in (row["files"], row["threads"]))
        rows.append(
            f"| {name} | {row['steps']:,} | {row['mib_first']:.0f} to {row['mib_last']:.0f} "
            f"| {row['slope']:+.2f} ± {row['half_width']:.2f} | {files} | {threads} "
            f"| {row['date']} | {row['commit']} |"
        )
    return "\n".join(rows)


def resume_table() -> str:
    """How many disturbed runs of each recipe ended bit-identical with the undisturbed one."""
    tried: Counter[tuple[str, str]] = Counter()
    good: Counter[tuple[str, str]] = Counter()
    days: dict[str, str] = {}
    for key, row in recorded("resume").items():
        recipe, name, ranks, _ = key.split(" | ")
        where = recipe if ranks == "1" else f"{recipe}, {ranks} ranks"
        days[where] = f"{row['date']} | {row['commit']}"
        if not row["result"].startswith("not tried"):
            tried[where, name] += 1
            good[where, name] += row["result"] == "bit-identical"
    rows = [f"| recipe | {' | '.join(DISTURBANCES)} | day | commit |"]
    rows.append(f"|---|{'--:|' * len(DISTURBANCES)}---|---|")
    for where, day in days.items():
        cells = [f"{good[where, n]} of {tried[where, n]}" if tried[where, n] else "-" for n in DISTURBANCES]
        rows.append(f"| {where} | {' | '.join(cells)} | {day} |")
    return "\n".join(rows)


def sigterm_table() -> str:
    """How long the demonstration took from SIGTERM to its end."""
    rows = ["| moment | signals | saved after | gone after | day | commit |", "|---|--:|--:|--:|---|---|"]
    for moment, row in recorded("sigterm").items():
        made = f"{row['date']} | {row['commit']}"
        times = f"{row['saved_seconds']:.1f} s | {row['gone_seconds']:.1f} s"
        rows.append(f"| {moment} | {row['signals']} | {times} | {made} |")
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
