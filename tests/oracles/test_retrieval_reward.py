"""VLRM-RS's eq. 5 on the golden matrices."""

import json
from pathlib import Path

import pytest
import torch

from sightloop.rewards.retrieval_term import retrieval_term


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_the_retrieval_term_of_every_matrix(oracles: Path, dtype: torch.dtype, tolerance: float) -> None:
    cases = json.loads((oracles / "algorithms" / "retrieval_reward.json").read_text())
    assert cases
    for case in cases:
        phi = retrieval_term(torch.tensor(case["cosine"], dtype=torch.float64).to(dtype))
        wanted = torch.tensor(case["phi"], dtype=torch.float64).to(dtype)
        torch.testing.assert_close(phi, wanted, rtol=tolerance, atol=tolerance, msg=case["name"])
        similarity = torch.tensor(case["itm"], dtype=torch.float64).to(dtype) + 0.3 * phi
        summed = torch.tensor(case["sim"], dtype=torch.float64).to(dtype)
        torch.testing.assert_close(similarity, summed, rtol=tolerance, atol=tolerance, msg=case["name"])
