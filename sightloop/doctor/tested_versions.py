"""Whether the installed libraries are of versions that sightloop was tested with.

The ranges stand in one place, pyproject.toml, whose upper bounds are what was run; the installed package
carries them along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement


def required() -> list[Requirement]:
    """What the installed sightloop needs without extras; nothing where it runs without being installed."""
    try:
        lines = requires("sightloop") or []
    except PackageNotFoundError:
        return []
    needs = [Requirement(line) for line in lines]
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def installed(name: str) -> str:
    """The version of an installed package; "" if it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def outside(needs: Iterable[Requirement], versions: Mapping[str, str]) -> Iterator[tuple[str, Requirement]]:
    """Versions that are not in the range that is needed, and the range; what is not installed is left out."""
    for need in needs:
        found = versions.get(need.name, "")
        if found and not need.specifier.contains(found, prereleases=True):
            yield found, need


def in_words(need: Requirement) -> str:
    """A range as `>=5.17,<5.25`, its lower end first."""
    return ",".join(sorted(map(str, need.specifier), key=lambda part: part.startswith("<")))
