"""Runs of UniRL under torchrun, one after another: `two_ranks.py FILE`, a JSON list of command lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from sightloop.cli import main
from sightloop.training import distributed

if __name__ == "__main__":
    torch.set_num_threads(1)
    # Ranks that left their group cannot always meet again: one group for all runs.
    distributed.start()
    leave, distributed.stop = distributed.stop, lambda: None
    for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        main(words)
    leave()
