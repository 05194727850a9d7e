"""Ranks by similarity against hand-made matrices and a plain search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sightloop.evaluation.ranking import Ranks, rank_images, rank_texts, recall_metrics, recall_values

# Rows are texts, columns images. Text 1 loses to image 0 and ties with image 2, text 2 with image 1.
SIMILARITY = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.5], [0.1, 0.3, 0.3]])


def embeddings_of(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Images and texts whose products are exactly this matrix."""
    return torch.eye(similarity.shape[1]), similarity


def searched(similarity: Tensor, target: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Closer and tied wrong candidates of each text, and of each image that has one, one by one."""
    matrix, owner = similarity.numpy(), target.numpy()
    texts = []
    for row, own in enumerate(owner):
        others = np.delete(matrix[row], own)
        texts.append((int((others > matrix[row, own]).sum()), int((others == matrix[row, own]).sum())))
    images = []
    for column in np.unique(owner):
        best, others = matrix[owner == column, column].max(), matrix[owner != column, column]
        images.append((int((others > best).sum()), int((others == best).sum())))
    return texts, images


def pairs(ranks: Ranks) -> list[tuple[int, int]]:
    """Closer and tied, answer by answer."""
    return list(zip(ranks.closer.tolist(), ranks.tied.tolist(), strict=True))


def test_each_text_ranks_its_own_image() -> None:
    ranks = rank_texts(*embeddings_of(SIMILARITY))
    assert ranks.places().tolist() == [1, 2, 1]
    assert ranks.places("pessimistic").tolist() == [1, 3, 2]
    assert ranks.places("expected").tolist() == [1, 2.5, 1.5]
    assert ranks.share_of_ties == pytest.approx(2 / 3)


def test_each_image_ranks_its_own_text() -> None:
    # Columns: .9 beats .8 and .1; .5 beats .1 and .3; .3 loses to .5.
    ranks = rank_images(*embeddings_of(SIMILARITY))
    assert ranks.places().tolist() == [1, 1, 2]
    assert ranks.share_of_ties == 0


def test_the_best_own_text_counts_and_own_texts_never_compete() -> None:
    similarity = torch.tensor([[0.2, 0.6], [0.7, 0.1], [0.7, 0.6], [0.9, 0.4], [0.7, 0.6]])
    images, texts = embeddings_of(similarity)
    # Image 0 has texts 0, 1 and 2, the best .7: text 3 is closer, text 4 ties. Image 1 has texts 3 and 4,
    # the best .6: texts 0 and 2 tie.
    ranks = rank_images(images, texts, torch.tensor([0, 0, 0, 1, 1]))
    assert pairs(ranks) == [(1, 1), (0, 2)]


def test_images_without_a_text_are_candidates_but_not_ranked() -> None:
    images, texts = embeddings_of(torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.2, 0.7]]))
    target = torch.tensor([2, 0])
    assert rank_texts(images, texts, target).places().tolist() == [2, 3]
    assert rank_images(images, texts, target).places().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("num_images", "num_texts"), [(1, 1), (7, 20), (700, 1300), (20_000, 600), (600, 20_000)]
)
def test_blocks_agree_with_a_search_one_by_one(num_images: int, num_texts: int) -> None:
    # Small whole numbers: products are exact and ties are many.
    images = torch.randint(-3, 4, (num_images, 5)).float()
    texts = torch.randint(-3, 4, (num_texts, 5)).float()
    target = torch.randint(num_images, (num_texts,))
    wanted_texts, wanted_images = searched(texts @ images.T, target)
    assert pairs(rank_texts(images, texts, target)) == wanted_texts
    assert pairs(rank_images(images, texts, target)) == wanted_images


def test_an_image_never_beats_itself_by_rounding() -> None:
    # With the own similarity computed apart, hundreds of these ranks are wrong.
    rows = F.normalize(torch.randn(1500, 257), dim=1)
    assert rank_texts(rows, rows).places().eq(1).all()
    assert rank_images(rows, rows).places().eq(1).all()
    assert rank_texts(rows, rows).share_of_ties == 0


def test_equal_images_tie_wherever_they_stand() -> None:
    images = F.normalize(torch.randn(1301, 93), dim=1)
    images[650:1300] = images[:650]
    texts = F.normalize(images + 0.1 * torch.randn(1301, 93), dim=1)
    ranks = rank_texts(images, texts)
    assert ranks.tied[:1300].eq(1).all()
    assert ranks.tied[1300] == 0


def test_a_collapsed_captioner_ties_all_texts() -> None:
    images, texts = torch.randn(40, 16), torch.randn(1, 16).expand(40, 16)
    ranks = rank_images(images, texts)
    assert ranks.places().eq(1).all()
    assert ranks.places("pessimistic").eq(40).all()
    assert sorted(rank_texts(images, texts).places().tolist()) == list(range(1, 41))


def test_the_order_of_the_texts_does_not_matter() -> None:
    images, texts = torch.randn(30, 8), torch.randn(90, 8)
    target, order = torch.arange(90) % 30, torch.randperm(90)
    ranks, mixed = rank_texts(images, texts, target), rank_texts(images, texts[order], target[order])
    assert ranks.closer[order].tolist() == mixed.closer.tolist()
    assert pairs(rank_images(images, texts, target)) == pairs(
        rank_images(images, texts[order], target[order])
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_ranked_in_single(dtype: torch.dtype) -> None:
    # The products are 1 and 1 + 2^-12: equal in half precision, not in single.
    images = torch.tensor([[1.0, 0.0], [1.0, 2**-6]], dtype=dtype)
    texts = torch.tensor([[1.0, 2**-6], [1.0, 2**-6]], dtype=dtype)
    assert pairs(rank_texts(images, texts)) == [(1, 0), (0, 0)]


def test_the_figures_of_given_ranks() -> None:
    metrics = recall_metrics(torch.tensor([1.0, 2.0, 4.0, 20.0]))
    assert metrics == pytest.approx(
        {
            "mrr": 1.8 / 4,
            "mean_rank": 27 / 4,
            "median_rank": 3,
            "recall@1": 0.25,
            "recall@5": 0.75,
            "recall@10": 0.75,
        }
    )
    values = recall_values(torch.tensor([1.0, 2.0, 4.0, 20.0]))
    assert values["mrr"] == [1, 0.5, 0.25, 0.05]
    assert values["recall@5"] == [1, 1, 1, 0]
    assert all(np.mean(row) == pytest.approx(metrics[name]) for name, row in values.items())


def test_finite_embeddings_whose_sum_overflows_are_accepted() -> None:
    images = torch.full((3, 2), 3e38)
    assert rank_texts(images, torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tied.tolist() == [2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    images, texts = torch.randn(4, 3), torch.randn(4, 3)
    images[2, 1] = bad
    with pytest.raises(ValueError, match="image embedding 2 is not finite"):
        rank_texts(images, texts)
    with pytest.raises(ValueError, match="text embedding 2 is not finite"):
        rank_images(texts, images)


@pytest.mark.parametrize(
    ("num_images", "num_texts", "target", "message"),
    [
        (2, 3, None, "2 images and 3 texts"),
        (2, 3, [0, 1, 2], "image 2; rows are 0 to 1"),
        (2, 3, [0, -1, 1], "image -1"),
        (0, 0, None, "no image embeddings"),
        (1, 0, [], "no text embeddings"),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    num_images: int, num_texts: int, target: list[int] | None, message: str
) -> None:
    rows = None if target is None else torch.tensor(target, dtype=torch.long)
    for rank in (rank_texts, rank_images):
        with pytest.raises(ValueError, match=message):
            rank(torch.randn(num_images, 3), torch.randn(num_texts, 3), rows)


def test_an_unknown_word_for_ties_is_refused() -> None:
    with pytest.raises(ValueError, match="ties is 'hopeful'"):
        rank_texts(torch.eye(2), torch.eye(2)).places("hopeful")  # pyright: ignore[reportArgumentType]


@pytest.mark.gpu
def test_a_gpu_ranks_as_the_cpu_does() -> None:
    images, texts = torch.randint(-3, 4, (700, 5)).float(), torch.randint(-3, 4, (900, 5)).float()
    target = torch.randint(700, (900,))
    on_gpu = images.cuda(), texts.cuda(), target.cuda()
    assert pairs(rank_texts(*on_gpu)) == pairs(rank_texts(images, texts, target))
    assert pairs(rank_images(*on_gpu)) == pairs(rank_images(images, texts, target))
