"""`python -m sightloop`, for torchrun."""

from sightloop.cli import main

main()
