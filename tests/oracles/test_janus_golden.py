"""Every number of the official Janus code: seeing, answering, drawing, gradients, codes of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from sightloop.models.janus.images import rounded
from sightloop.models.janus.policy import Janus, JanusSettings
from sightloop.models.janus.tensor_names import from_official, to_official
from sightloop.types import Images, Prompt, Sampling, Tokens, Turn

CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0}


class Golden:
    """Inputs and outputs of the official code, and the official weights."""

    def __init__(self, folder: Path) -> None:
        self.tensors = load_file(folder / "golden.safetensors")
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        self.weights = {name: value.float() for name, value in weights.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def config(self) -> JanusConfig:
        """The model's shape as transformers writes it."""
        tower, vq, parts = self.meta["vision_tower"], self.meta["vq"], self.meta["config"]
        width = parts["language_config"]["hidden_size"]
        places = (tower["image_size"] // tower["patch_size"]) ** 2
        return JanusConfig(
            text_config=LlamaConfig(
                **{"rms_norm_eps": 1e-6, **parts["language_config"], "tie_word_embeddings": False}
            ),
            vision_config=JanusVisionConfig(
                hidden_size=tower["width"],
                num_hidden_layers=tower["layers"],
                num_attention_heads=tower["heads"],
                mlp_ratio=tower["mlp_ratio"],
                layer_norm_eps=tower["layer_norm_eps"],
                image_size=tower["image_size"],
                patch_size=tower["patch_size"],
                num_image_tokens=places,
                projection_dim=width,
                depth=parts["aligner_config"]["params"]["depth"],
            ),
            vq_config=JanusVQVAEConfig(
                embed_dim=vq["codebook_dim"],
                num_embeddings=vq["codebook_size"],
                latent_channels=vq["z_channels"],
                base_channels=vq["channels"],
                channel_multiplier=vq["channel_multiplier"],
                num_res_blocks=vq["num_res_blocks"],
                projection_dim=width,
                image_token_embed_dim=width,
                num_hidden_layers=parts["gen_aligner_config"]["params"]["depth"],
            ),
            image_token_id=self.meta["ids"]["image_placeholder"],
            tie_word_embeddings=False,
        )

    def words(self) -> PreTrainedTokenizerFast:
        """One word an id, so that prompts can be written as ids."""
        ids = self.meta["ids"]
        core = Tokenizer(
            WordLevel(
                {f"<{k}>": k for k in range(self.meta["config"]["language_config"]["vocab_size"])}, "<0>"
            )
        )
        core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
        bos, eos, pad = (f"<{ids[name]}>" for name in ("bos", "eos", "pad"))
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad)

    def policy(self, **settings: Any) -> Janus:
        """The official weights behind the policy."""
        ids = self.meta["ids"]
        model = JanusForConditionalGeneration(self.config())
        missing, unexpected = model.load_state_dict(from_official(self.weights), strict=False)
        assert not missing
        assert not unexpected
        frame = (f"<{ids['begin_of_image']}>", f"<{ids['end_of_image']}>")
        chosen = {"drawing_template": "{prompt}", "frame": frame, **settings}
        return Janus(model, self.words(), settings=JanusSettings(**chosen))

    def text(self, ids: Tensor) -> str:
        """Ids as a text."""
        return " ".join(f"<{k}>" for k in ids.tolist())

    def template(self, ids: Tensor) -> tuple[str, str]:
        """A row with one image as the answer template and the prompt that make it."""
        marks = self.meta["ids"]
        start = ids.tolist().index(marks["begin_of_image"])
        stop = ids.tolist().index(marks["end_of_image"])
        return f"{self.text(ids[1:start])} {{image}} {{prompt}}", self.text(ids[stop + 1 :])

    def law(self, **changes: Any) -> Sampling:
        """The official distribution for images."""
        return Sampling(
            max_tokens=self.meta["num_image_tokens"],
            **{"guidance": self.meta["cfg_weight"], "temperature": self.meta["temperature"], **changes},
        )

    def drawing(self) -> Prompt:
        """The golden prompt, once a golden image."""
        text = self.text(self["t2i.prompt_ids"][1:-1])
        return Prompt(texts=[text] * len(self["t2i.tokens"]), wants="image")


@pytest.fixture(scope="module")
def golden(oracles: Path) -> Golden:
    """The golden data."""
    return Golden(oracles / "janus")


@pytest.fixture(scope="module")
def janus(golden: Golden) -> Janus:
    """The policy with adapters that change nothing yet."""
    return golden.policy()


def given(ids: Tensor) -> Tokens:
    """Tokens that all count."""
    return Tokens(ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))


def run(janus: Janus, ids: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and logits of rows of ids with their images' prepared values."""
    body, features = janus.answers.body, janus.image_codec.features(values)
    embeds = body.words(ids)
    places = (ids == janus.prompts.picture)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(places, features.flatten(0, 1))
    return embeds, body.run(embeds, mask) @ janus.model.lm_head.weight.T


def test_the_tower_and_its_aligner(golden: Golden, janus: Janus) -> None:
    values = golden["vision.pixel_values"]
    seen = janus.model.model.vision_model(values).last_hidden_state
    torch.testing.assert_close(seen, golden["vision.features"], **CLOSE)
    torch.testing.assert_close(janus.image_codec.features(values), golden["vision.aligned"], **CLOSE)


def test_a_conversation_about_an_image(golden: Golden, janus: Janus) -> None:
    ids = golden["und.input_ids"]
    embeds, logits = run(janus, ids, golden["und.pixel_values"][:, 0])
    torch.testing.assert_close(embeds, golden["und.inputs_embeds"], **CLOSE)
    torch.testing.assert_close(logits, golden["und.logits"], **CLOSE)
    law = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(law, golden["und.token_logps"], **CLOSE)
    learned = golden["und.labels"][:, 1:] != -100
    assert float(-law[learned].detach().mean()) == pytest.approx(golden.meta["und.loss"], abs=1e-4)


def asked(golden: Golden, ids: Tensor, values: Tensor) -> tuple[Janus, Prompt]:
    """A policy and a prompt that ask what a golden row asks, the image seen from its prepared values."""
    template, question = golden.template(ids)
    janus = golden.policy(answer_template=template)
    blank = torch.zeros(1, 3, *values.shape[-2:], dtype=torch.uint8)
    features = {janus.image_codec.key: janus.image_codec.features(values)}
    return janus, Prompt(texts=[question], images=Images(pixels=blank, features=features))


def test_the_policy_reads_and_scores_the_same_answer(golden: Golden) -> None:
    ids, start = golden["und.input_ids"][0], int((golden["und.labels"][0] != -100).nonzero()[0])
    janus, prompt = asked(golden, ids[:start], golden["und.pixel_values"][:, 0])
    assert prompt.texts
    assert janus.prompts.question_row(prompt.texts[0], True) == tuple(ids[:start].tolist())
    scores = janus.score(Turn(prompt=prompt, tokens=given(ids[None, start:])))
    torch.testing.assert_close(scores.log_probs, golden["und.token_logps"][:, start - 1 :], **CLOSE)


def test_the_greedy_answer(golden: Golden) -> None:
    new = golden["und.greedy_new_ids"]
    janus, prompt = asked(golden, golden["und.greedy_prompt_ids"][0], golden["und.pixel_values"][:, 0])
    tokens = janus.sample(prompt, Sampling(max_tokens=new.shape[1], temperature=0))
    assert tokens.ids.tolist() == new.tolist()


def test_conversations_of_different_lengths_in_one_batch(golden: Golden, janus: Janus) -> None:
    mask = golden["undpad.attention_mask"].bool()
    expected = (mask.long().cumsum(1) - 1).masked_fill(~mask, 1)
    assert golden["undpad.position_ids"].tolist() == expected.tolist()
    ids, values = golden["undpad.input_ids"], golden["undpad.pixel_values"][:, 0]
    rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    padded, kept = janus.answers.body.padded(rows)
    assert padded.tolist() == ids.tolist()
    assert kept is not None
    assert torch.equal(kept, mask)
    _, logits = run(janus, ids, values, mask)
    torch.testing.assert_close(logits * mask[..., None], golden["undpad.logits"], **CLOSE)


def test_two_images_in_one_conversation(golden: Golden, janus: Janus) -> None:
    _, logits = run(janus, golden["und2.input_ids"], golden["und2.pixel_values"][0])
    torch.testing.assert_close(logits, golden["und2.logits"], **CLOSE)


def test_the_prompt_and_its_blank_twin(golden: Golden, janus: Janus) -> None:
    row = janus.prompts.drawing_row(golden.drawing().texts[0])
    assert list(row) == golden["t2i.prompt_ids"].tolist()
    rows = golden["t2i.rows"].tolist()
    assert rows[0::2] == [list(row)] * len(rows[0::2])
    assert rows[1::2] == [list(janus.prompts.blank(row))] * len(rows[1::2])


def test_logits_of_both_branches_at_every_code(golden: Golden, janus: Janus) -> None:
    texts, ids = golden.drawing().texts, golden["t2i.tokens"]
    torch.testing.assert_close(janus.drawings.body.codes(ids), golden["t2i.token_embeds"], **CLOSE)
    read = janus.drawings.hidden(texts, ids, guided=True)
    for hidden, name in zip(read, ("t2i.cond_logits", "t2i.uncond_logits"), strict=True):
        torch.testing.assert_close(janus.drawings.body.code_logits(hidden), golden[name], **CLOSE)
    guided = janus.drawings.logits(texts, ids, golden.law())
    torch.testing.assert_close(guided, golden["t2i.guided_logits"], **CLOSE)


def test_log_probabilities_with_and_without_guidance(golden: Golden, janus: Janus) -> None:
    turn = Turn(prompt=golden.drawing(), tokens=given(golden["t2i.tokens"]))
    guided = janus.score(turn, golden.law()).log_probs
    torch.testing.assert_close(guided, golden["t2i.guided_logps"], **CLOSE)
    plain = Sampling(max_tokens=1, temperature=golden.meta["temperature"])
    torch.testing.assert_close(janus.score(turn, plain).log_probs, golden["t2i.cond_logps"], **CLOSE)


def test_the_greedy_image(golden: Golden, janus: Janus) -> None:
    prompt, greedy = golden.drawing(), golden["t2i.greedy_tokens"]
    tokens = janus.sample(prompt, golden.law(temperature=0))
    assert tokens.ids.tolist() == greedy.repeat(len(prompt), 1).tolist()
    logits = janus.drawings.logits(prompt.texts[:1], greedy, golden.law())
    torch.testing.assert_close(logits, golden["t2i.greedy_guided_logits"], **CLOSE)


@pytest.mark.parametrize("branch", ["cond", "guided"])
def test_gradients_of_every_parameter(golden: Golden, branch: str) -> None:
    janus = golden.policy(trained="full", embeddings=True)
    turn = Turn(prompt=golden.drawing(), tokens=given(golden["t2i.tokens"]))
    law = golden.law() if branch == "guided" else golden.law(guidance=0.0)
    weights = torch.tensor(golden.meta["pg_weights"])
    log_probs = janus.score(turn, law).log_probs
    loss = -(weights * log_probs.mean(1)).sum()
    assert float(loss.detach()) == pytest.approx(golden.meta[f"t2i.pg_loss_{branch}"], abs=1e-4)
    loss.backward()
    parameters = dict(janus.model.named_parameters())
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None and bool(p.grad.any())}
    norms = golden.meta[f"t2i.grad_norms_{branch}"]
    official = to_official(gradients)
    assert norms.keys() == {name for name, gradient in official.items() if bool(gradient.any())}
    for name, norm in norms.items():
        assert float(official[name].norm()) == pytest.approx(norm, rel=1e-3), name
    whole = [name for name in golden.tensors if name.startswith(f"t2i.grad_{branch}.")]
    assert whole
    for name in whole:
        found = official[name.removeprefix(f"t2i.grad_{branch}.")]
        torch.testing.assert_close(found, golden[name], **CLOSE)


def test_images_to_codes(golden: Golden, janus: Janus) -> None:
    values = golden["vq.pixel_values"]
    torch.testing.assert_close(janus.image_codec.latents(values), golden["vq.prequant"], **CLOSE)
    codes = janus.image_codec.nearest(values)
    assert codes.tolist() == golden["vq.indices"].tolist()
    vectors = torch.nn.functional.normalize(janus.model.model.vqmodel.quantize.embedding.weight, dim=1)
    quantized = vectors[codes].transpose(1, 2).reshape(golden["vq.quant"].shape)
    torch.testing.assert_close(quantized, golden["vq.quant"], **CLOSE)
    torch.testing.assert_close(janus.image_codec.values_of(codes), golden["vq.decoded"], **CLOSE)


def test_codes_to_images(golden: Golden, janus: Janus) -> None:
    made = janus.image_codec.values_of(golden["vq.codes"])
    torch.testing.assert_close(made, golden["vq.codes_decoded"], **CLOSE)
    one_hot = torch.nn.functional.one_hot(golden["vq.codes"], janus.image_codec.num_codes).float()
    torch.testing.assert_close(janus.image_codec.values_of(one_hot), golden["vq.codes_decoded"], **CLOSE)
    made, decoded = janus.image_codec.values_of(golden["t2i.tokens"]), golden["t2i.decoded"]
    torch.testing.assert_close(made, decoded, **CLOSE)
    expected = golden["t2i.images_uint8"].permute(0, 3, 1, 2)
    assert torch.equal(rounded(decoded), expected)
    found = janus.pixels(given(golden["t2i.tokens"])).pixels
    # Cut-off turns the last digit of float32 into a level where a value lies on the edge of one.
    levels = (decoded + 1) / 2 * 255
    inside = (levels - levels.round()).abs() > 1e-3
    assert inside.float().mean() > 0.99
    assert torch.equal(found[inside], expected[inside])
    assert (found.int() - expected.int()).abs().max() <= 1


def test_no_golden_tensor_is_left_out(golden: Golden) -> None:
    read = Path(__file__).read_text()
    made = {f"t2i.grad_{branch}." for branch in ("cond", "guided")}
    left = [n for n in golden.tensors if f'"{n}"' not in read and not n.startswith(tuple(made))]
    assert not left
