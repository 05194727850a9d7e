"""The command `view`: a page in the browser that follows runs while they go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from sightloop.cli.parse import parsed
from sightloop.process.long_work import speaks_itself
from sightloop.ranges import Range, require_ranges

Port = Annotated[int, Range(least=0, most=65535)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """A page in the browser that follows runs while they go on: curves, samples, runs side by side, and a
    place to try own images and prompts. It is served on 127.0.0.1, to this computer alone.
    """

    run: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    port: Port = 7860
    """Port of this computer; 0 = any free one."""

    def __post_init__(self) -> None:
        require_ranges(self)


def view_command(words: list[str]) -> None:
    """Serve the page until the command is ended."""
    options = parsed(ViewOptions, args=words, prog="sightloop view")
    if not options.run:
        raise ValueError("not given: a run folder, as in `sightloop view runs/NAME`")
    try:
        from sightloop.view.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "anyio", "h11", "click"):
            raise
        raise ValueError(
            f"the page is served with {error.name}, which is missing: pip install 'sightloop[web]'"
        ) from error
    with speaks_itself():
        serve(options.run, options.port)
