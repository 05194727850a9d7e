"""The resource plan of rows: captions of the same model, compared with the model before training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sightloop.algorithms.methods import METHODS
from sightloop.planning.caption_plan import CAPTION_SHARE, CaptionPlan
from sightloop.planning.resources import Plan, Work
from sightloop.recipes.captioner_runs import as_captions
from sightloop.recipes.rows.config import RowsConfig


class RowsPlan(CaptionPlan):
    """As for captions; prompts and further images of a row are not known before it is read."""

    def __init__(self, config: RowsConfig) -> None:
        """Raises ValueError if a model does not exist."""
        super().__init__(as_captions(config))
        self.rows = config

    def plan(self, num_ranks: int) -> Plan:
        """The resources of one rank of several."""
        step = (
            f"a step of {self.rows.batch} rows, {self.rows.group} answers each of {CAPTION_SHARE:.0%} of the "
            "limit, one image a row and no long prompt"
        )
        return replace(super().plan(num_ranks), step=step)

    def _works(self, num_ranks: int) -> Iterator[Work]:
        usual = METHODS[self.rows.algorithm].penalty if self.rows.kl_weight is None else self.rows.kl_weight
        for work in super()._works(num_ranks):
            if work.phase != "policy":
                yield work
                continue
            yield replace(work, flops=work.flops * self.rows.updates)
            if usual:
                seen = self.networks.places + self.words
                flops = self._samples * self.networks.policy.read(seen, seen) * self.rows.updates
                yield Work(phase="policy", name="the same before training", flops=flops, live=0)
