"""Whether a batch holds different images, which is what a judge can tell apart; said before a run begins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sightloop.data.sources import FileSource, Source
from sightloop.storage.fingerprints import fingerprint_of_file
from sightloop.terminal import say

_LOOKED_AT = 256
_MANY = 2
"""Images that stand for one another: of so many each, a batch teaches half of what it seems to."""


def say_if_alike(source: Source, batch: int) -> None:
    """Say that a batch will hold the same image several times: there are too few, or copies of few.

    Shards are not looked into: that would read them.
    """
    if not isinstance(source, FileSource):
        return
    paths, known = list(source.paths), len(source)
    if known < batch:
        say(f"warning: {known} images for a batch of {batch}: each comes several times in it", is_error=True)
    # Images that a program holds have names that are no files.
    some = [path for path in paths[:: max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT] if Path(path).is_file()]
    made = [fingerprint_of_file(path) for path in some]
    copies = Counter(made)
    if len(some) > 1 and len(some) >= _MANY * len(copies):
        most, times = copies.most_common(1)[0]
        say(
            f"warning: of {len(some)} images that were compared only {len(copies)} differ, "
            f"{some[made.index(most)]} is there {times} times; captions of the same image teach little",
            is_error=True,
        )
