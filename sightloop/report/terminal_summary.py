"""What the terminal says about a run: the figures that matter by their plain names, and three samples."""

from __future__ import annotations

from pathlib import Path

from sightloop.report.captions import records_with_captions
from sightloop.report.cards import spread
from sightloop.report.drawings import drawings_of, is_right
from sightloop.report.labels import capital, is_further, label_of
from sightloop.report.run import RunRecords, read_run
from sightloop.report.tables import before_after_table, changes, evaluated_steps, verdict
from sightloop.terminal import one_line

NUM_FIGURES = 6
_NUM_CAPTIONS = 3


def run_summary(run_folder: Path) -> str:
    """The figures that tell most, with intervals, and captions before and after; `--all` prints the rest.

    Raises:
        ValueError: the folder is no run folder, or holds a damaged file.
    """
    run = read_run(run_folder)
    found = changes(run)
    shown = [change for change in found if not is_further(change.metric)][:NUM_FIGURES]
    if not found:
        return f"{one_line(run.name)}: {verdict(run)}"
    names = {change.metric: capital(label_of(change.metric).text) for change in shown}
    parts = [before_after_table(run_folder, names=names)]
    if len(found) > len(shown):
        parts.append(f"({len(found) - len(shown)} further figures: sightloop report {run_folder} --all)")
    return "\n".join([*parts, "", *_samples(run)]).rstrip()


def _samples(run: RunRecords) -> list[str]:
    drawings, records, steps = drawings_of(run), records_with_captions(run), evaluated_steps(run)
    if drawings is not None and drawings.later is not None:
        pairs = [
            (is_right(drawings.first, row), is_right(drawings.later, row))
            for row in range(len(drawings.first.samples))
        ]
        became = {right: pairs.count((not right, right)) for right in (True, False)}
        return [f"of {len(pairs)} drawings {became[True]} became right and {became[False]} wrong"]
    if steps is None or len(records) < 2 or steps[1] not in records:
        return []
    first, later = records[min(records)], records[steps[1]]
    lines: list[str] = []
    for row in spread(range(len(first.samples)), _NUM_CAPTIONS):
        lines.append(one_line(Path(first.samples[row].get("source", "")).name))
        for name, record in (("before", first), ("after", later)):
            lines.append(f"  {name:<7} {one_line(record.samples[row].get('caption', ''))}")
    return lines
