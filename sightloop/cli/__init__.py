"""The command line; its entry point is `main`."""

from sightloop.cli.app import main

__all__ = ["main"]
