"""The command line; its entry point is `main`."""

import sys

from sightloop.process.boundary import ended_in_one_sentence


def main(words: list[str] | None = None) -> None:
    """Run one command; what goes wrong is one line on stderr, with exit code 2 if the user can mend it."""
    given = sys.argv[1:] if words is None else words
    with ended_in_one_sentence(given):
        from sightloop.cli.app import run_command

        run_command(given)
