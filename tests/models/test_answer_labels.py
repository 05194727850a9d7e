"""Labels of given answers begin as in the authors' training: one blank after the colon, whatever cuts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from unified_folders import byte_level, janus_folder, janus_words, show_o_folders, show_o_words

from sightloop.models.families import Parts
from sightloop.models.janus.policy import Janus
from sightloop.models.prompt_strings import answer_ids
from sightloop.recipes.image_policies import load_image_policy
from sightloop.types import Images, Prompt, Tokens, Turn
from sightloop.world.bundled import WEIGHTS

ANSWERS = ["There are two dogs.", "No.", "  A dog \n"]
LINES = [
    f"{mark}: {answer}"
    for mark in ("USER", "ASSISTANT", "User", "Assistant", "<|User|>", "<|Assistant|>")
    for answer in (*ANSWERS, "What is shown in this image?", "There is a red cat.")
] * 20
SCHEMES = ("always", "first", "never")


def learned(kind: str) -> Tokenizer:
    """A byte-level BPE, or one in SentencePiece's manner, trained here."""
    if kind == "bytes":
        core, alphabet = byte_level(BPE()), pre_tokenizers.ByteLevel.alphabet()
    else:
        core: Any = Tokenizer(BPE(unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        core.decoder = decoders.Metaspace(prepend_scheme=kind)
        alphabet = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ<|>:.?!,'_\n"]
    trainer: Any = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<unk>"], show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    return core


def spelled(words: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    """Tokens as the vocabulary writes them."""
    return list(words.convert_ids_to_tokens(ids))


@pytest.mark.parametrize("kind", ["bytes", *SCHEMES])
def test_an_answer_is_cut_as_behind_the_colon(kind: str) -> None:
    words, blank = show_o_words(learned(kind)), "Ġ" if kind == "bytes" else "▁"
    for mark in (" ASSISTANT:", "\n\nAssistant:", "\n\n<|Assistant|>:"):
        ids = answer_ids(words, "There are two dogs.", behind=mark)
        assert spelled(words, ids)[:2] == [f"{blank}There", f"{blank}are"]
        whole = words(f"x{mark} There are two dogs.", add_special_tokens=False).input_ids
        asked = words(f"x{mark}", add_special_tokens=False).input_ids
        assert [*asked, *ids] == whole
    # A blank of the answer's own is not a second one.
    same = answer_ids(words, "  There are two dogs.\n", behind=" ASSISTANT:")
    assert same == answer_ids(words, "There are two dogs.", behind=" ASSISTANT:")
    assert answer_ids(words, "", behind=" ASSISTANT:") == []


def test_a_template_that_ends_with_a_blank_gets_no_second_one() -> None:
    words = show_o_words(learned("bytes"))
    assert spelled(words, answer_ids(words, "No.", behind=" ASSISTANT:\n"))[0] == "No"
    assert spelled(words, answer_ids(words, "No.", behind=""))[0] == "ĠNo"


def opened(family: str, core: Tokenizer, place: Path) -> Any:
    """A policy from a folder as the hub has it."""
    cpu = torch.device("cpu")
    if family == "janus":
        folder = janus_folder(place / "janus", words=janus_words(core))
        return load_image_policy(str(folder), device=cpu)
    folders = show_o_folders(place, words=show_o_words(core))
    parts = Parts(magvit=folders["magvit"], tokenizer=folders["tokenizer"])
    return load_image_policy(str(folders["model"]), device=cpu, parts=parts)


@pytest.mark.parametrize("kind", ["bytes", "always"])
@pytest.mark.parametrize("family", ["janus", "show-o"])
def test_labels_of_both_families_begin_with_the_blank(family: str, kind: str, tmp_path: Path) -> None:
    policy = opened(family, learned(kind), tmp_path)
    words: Any = policy.tokenizer
    blank = "Ġ" if kind == "bytes" else "▁"
    labels = policy.encode(ANSWERS)
    rows = [row[mask].tolist() for row, mask in zip(labels.ids, labels.mask, strict=True)]
    # One blank each; a SentencePiece model may keep the full stop in the same token.
    firsts = [spelled(words, row)[0].removesuffix(".") for row in rows]
    assert firsts == [f"{blank}There", f"{blank}No", f"{blank}A"]
    assert policy.is_end(labels).sum(1).tolist() == [1, 1, 1]
    assert ["".join(row).strip() for row in policy.decode(labels)] == [text.strip() for text in ANSWERS]
    # Question and answer together are the string that the authors train on.
    if isinstance(policy, Janus):
        asked = [token for token in policy.prompts.question_row("What?", True) if token != policy.prompts.pad]
        string = policy.prompts.strings.asking.whole("What?")
        kept = {policy.prompts.start, policy.prompts.stop, policy.prompts.picture, policy.prompts.begin}
    else:
        (asked,) = policy.questions(["What?"])
        string, kept = policy.asking.whole("What?"), {policy.vocabulary.begin}
    told = words(f"{string} There are two dogs.", add_special_tokens=False).input_ids
    read = [token for token in (*asked, *rows[0][:-1]) if token not in kept]
    assert read == [token for token in told if token not in kept]
    images = Images(pixels=torch.zeros(3, 3, 8, 8, dtype=torch.uint8))
    prompt = Prompt(texts=["What?"] * 3, images=images)
    scores = policy.score(Turn(prompt=prompt, tokens=labels)).log_probs
    assert (scores[labels.mask] < 0).all()


def test_words_of_the_embedded_world_have_no_such_blank() -> None:
    texts = ["two red circles", "yes", "a circle is left of a square."]
    for name in ("janus", "show_o"):
        policy: Any = load_image_policy(str(WEIGHTS / name), device=torch.device("cpu"))
        words: Any = policy.tokenizer
        end = policy.end if isinstance(policy, Janus) else policy.vocabulary.end
        labels = policy.encode(texts)
        assert isinstance(labels, Tokens)
        bare = [[*words(text, add_special_tokens=False).input_ids, end] for text in texts]
        assert [row[mask].tolist() for row, mask in zip(labels.ids, labels.mask, strict=True)] == bare
