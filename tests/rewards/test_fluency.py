import pytest
import torch
from rewards.words_of_a_few import BEGIN, END, WORDS, few_words
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from sightloop.rewards.fluency import LanguageModelFluency, TokenFluency, mean_log_prob
from sightloop.types import Outcome, Tokens


def language_model() -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        pad_token_id=0,
        bos_token_id=BEGIN,
        eos_token_id=END,
        init_std=0.5,
    )
    return OPTForCausalLM(config).eval()


def outcome_of(texts: list[str], ended: list[bool]) -> Outcome:
    pieces = [[f" {word}" for word in text.split()] for text in texts]
    lengths = torch.tensor([max(1, len(row)) for row in pieces])
    mask = torch.arange(8)[None] < lengths[:, None]
    return Outcome(
        tokens=Tokens(ids=torch.zeros_like(mask, dtype=torch.long), mask=mask),
        pieces=pieces,
        ended=torch.tensor(ended),
        images=None,
        references=[""] * len(texts),
    )


def by_hand(model: OPTForCausalLM, ids: list[int], *, start: int = BEGIN) -> float:
    """Mean log-probability of each id given all before it, one forward pass a token."""
    total = 0.0
    for index, token in enumerate(ids):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[start, *ids[:index]]])).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
    return total / len(ids)


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


TEXTS = ["a red dog on the left", "cat", "the big blue cat , a street of cat"]


def test_the_mean_leaves_out_masked_tokens_and_is_0_without_any() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-5.0, -5.0, -5.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_log_prob(log_probs, mask).tolist() == [-1.5, 0]


@pytest.mark.parametrize("batch", [64, 2])
def test_fluency_of_texts_is_the_mean_of_each_tokens_log_probability(batch: int) -> None:
    model = language_model()
    fluency = LanguageModelFluency(model, few_words(frame=False), batch=batch)
    found = fluency.of_texts(TEXTS, [True] * 3)
    wanted = torch.tensor([by_hand(model, ids_of(text)) for text in TEXTS])
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_end_token_counts_only_if_asked_for_and_only_where_it_was_drawn() -> None:
    model = language_model()
    fluency = LanguageModelFluency(model, few_words(frame=False), include_end=True)
    found = fluency.of_texts(TEXTS, [True, False, True])
    rows = [[*ids_of(TEXTS[0]), END], ids_of(TEXTS[1]), [*ids_of(TEXTS[2]), END]]
    torch.testing.assert_close(
        found, torch.tensor([by_hand(model, row) for row in rows]), rtol=1e-5, atol=1e-5
    )


def test_a_tokenizer_that_frames_texts_gives_the_same() -> None:
    model = language_model()
    bare = LanguageModelFluency(model, few_words(frame=False)).of_texts(TEXTS, [True] * 3)
    framed = LanguageModelFluency(model, few_words(frame=True)).of_texts(TEXTS, [True] * 3)
    torch.testing.assert_close(bare, framed)


def test_a_model_without_begin_token_starts_from_its_end_token() -> None:
    model = language_model()
    fluency = LanguageModelFluency(model, few_words(frame=False, begin=False))
    wanted = by_hand(model, ids_of(TEXTS[0]), start=END)
    assert fluency.of_texts(TEXTS[:1], [True]).item() == pytest.approx(wanted, abs=1e-5)


def test_a_tokenizer_without_either_is_refused() -> None:
    with pytest.raises(ValueError, match="neither a begin nor an end token"):
        LanguageModelFluency(language_model(), few_words(frame=False, begin=False, end=False))
    with pytest.raises(ValueError, match="no end token"):
        LanguageModelFluency(language_model(), few_words(frame=False, end=False), include_end=True)


def test_an_empty_caption_gets_0_and_the_reward_sits_on_the_last_token() -> None:
    fluency = LanguageModelFluency(language_model(), few_words(frame=False))
    outcome = outcome_of(["", TEXTS[0]], [True, True])
    rewards = fluency(outcome)
    assert rewards[0].abs().sum() == 0
    assert rewards[1].nonzero().tolist() == [[5]]
    assert rewards[1, 5] == fluency.of_texts([TEXTS[0]], [True])[0]


def test_a_saved_model_is_loaded_with_its_tokenizer(tmp_path) -> None:
    model, words = language_model(), few_words(frame=False)
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    loaded = LanguageModelFluency.from_pretrained(tmp_path)
    here = LanguageModelFluency(model, words)
    torch.testing.assert_close(loaded.of_texts(TEXTS, [True] * 3), here.of_texts(TEXTS, [True] * 3))


def test_fluency_of_the_drawn_tokens_leaves_out_the_end_token_unless_asked_for() -> None:
    log_probs = torch.tensor([[-1.0, -3.0, -8.0, 0.0], [-6.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    outcome = Outcome(
        tokens=Tokens(ids=torch.tensor([[5, 6, END, 0], [END, 0, 0, 0]]), mask=mask),
        pieces=[[" red", " blue"], []],
        ended=torch.tensor([True, True]),
        images=None,
        references=["", ""],
    )

    def is_end(tokens: Tokens) -> Tensor:
        return (tokens.ids == END) & tokens.mask

    without = TokenFluency(log_probs=lambda tokens: log_probs, is_end=is_end)
    assert without(outcome).tolist() == [[0, 0, -2, 0], [0, 0, 0, 0]]
    including = TokenFluency(log_probs=lambda tokens: log_probs, is_end=is_end, include_end=True)
    assert including(outcome).tolist() == [[0, 0, -4, 0], [-6, 0, 0, 0]]
