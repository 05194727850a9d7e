"""The same file of rows gives TRL's GRPOTrainer and sightloop the same prompts, columns and rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightloop.data.batches import Batching, ImageStream
from sightloop.data.decode import Decoding
from sightloop.data.rows import open_rows
from sightloop.data.settings import RowSettings
from sightloop.models.captioners.generic import GenericCaptioner
from sightloop.rewards.functions import CustomReward, load_reward
from sightloop.rollouts.caption import CaptionCollector
from sightloop.types import Outcome, Sampling
from sightloop.world.bundled import WEIGHTS

trl: Any = pytest.importorskip("trl", reason="trl is not installed; `pip install trl` beside it to compare")
ROWS, EACH = 4, 2
COLORS = ("red", "green", "blue", "yellow")
SEEN: dict[str, dict[str, Any]] = {}
REWARD = '''
def vowels(prompts, completions, answer, level, **columns):
    """How often the first letter of the answer comes, more of it at higher levels."""
    import test_rows_beside_trl as here

    asked = [prompt[-1]["content"][-1]["text"] for prompt in prompts]
    texts = [completion[0]["content"] for completion in completions]
    images = [part["type"] for prompt in prompts for part in prompt[-1]["content"]].count("image")
    rewards = [text.count(true[0]) * rank / 10 for text, true, rank in zip(texts, answer, level)]
    here.SEEN[here.WHO[0]] = {
        "asked": asked, "answer": answer, "level": level, "images": images, "roles": [
            [message["role"] for message in prompt] for prompt in prompts
        ],
        "rewarded": dict(zip(zip(asked, texts), rewards)),
    }
    return rewards
'''
WHO = ["trl"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for number in range(ROWS):
        name = str(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(name)
        # Equally long: a processor of a Janus does not fill up what TRL hands it.
        asked = [{"role": "user", "content": f"what is the {COLORS[number]} object ?"}]
        lines.append({"image": name, "prompt": asked, "answer": "circle", "level": number})
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "mine.py").write_text(REWARD, encoding="utf-8")
    return file


def by_trl(file: Path, reward: CustomReward) -> None:
    """One step of GRPOTrainer, whose reward function notes what it was given."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature
    from transformers import AutoModelForImageTextToText, AutoProcessor

    turn = {"role": Value("string"), "content": Value("string")}
    kinds = {"image": ImageFeature(), "prompt": [turn], "answer": Value("string"), "level": Value("int64")}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    options = trl.GRPOConfig(
        output_dir=str(file.parent / "trl"), use_cpu=True, bf16=False,
        per_device_train_batch_size=ROWS * EACH, num_generations=EACH,
        max_completion_length=6, max_steps=1, report_to=[], save_strategy="no",
        gradient_checkpointing=False, dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=AutoModelForImageTextToText.from_pretrained(WEIGHTS / "janus", dtype=torch.float32),
        reward_funcs=reward.function,
        args=options,
        train_dataset=Dataset.from_list(lines, features=Features(kinds)),
        processing_class=AutoProcessor.from_pretrained(WEIGHTS / "janus"),
    )
    trainer.train()


def by_us(file: Path, reward: CustomReward) -> list[str]:
    """The same rows asked here; what the model reads for each prompt."""
    policy = GenericCaptioner.from_pretrained(WEIGHTS / "janus")
    stream = ImageStream(
        open_rows(RowSettings(rows=str(file))), Decoding(size=32), Batching(batch_size=ROWS, shuffle=False)
    )
    batch = next(stream)
    stream.close()

    def judge(outcome: Outcome) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return reward(outcome), {}

    CaptionCollector(judge=judge, sampling=Sampling(max_tokens=6), per_image=EACH)(policy, batch)
    return [policy.prompt_text(prompt) for prompt in batch.prompts]


@pytest.mark.filterwarnings("ignore")
def test_prompts_columns_and_rewards_are_the_same(file: Path) -> None:
    reward = load_reward(f"{file.parent / 'mine.py'}:vowels")
    WHO[0] = "trl"
    by_trl(file, reward)
    WHO[0] = "sightloop"
    read = by_us(file, reward)
    theirs, ours = SEEN["trl"], SEEN["sightloop"]
    assert sorted(theirs["asked"]) == sorted(ours["asked"])
    assert sorted(zip(theirs["asked"], theirs["answer"], theirs["level"], strict=True)) == sorted(
        zip(ours["asked"], ours["answer"], ours["level"], strict=True)
    )
    assert theirs["images"] == ours["images"] == ROWS * EACH and theirs["roles"] == ours["roles"]
    # Of the same answer to the same prompt, both think the same.
    again = {
        pair: pair[1].count("c") * COLORS.index(pair[0].split()[3]) / 10
        for pair in theirs["rewarded"] | ours["rewarded"]
    }
    assert again == pytest.approx(theirs["rewarded"] | ours["rewarded"])
    # What the model reads is the chat template's text of the same messages.
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(WEIGHTS / "janus")
    for text, question in zip(read, dict.fromkeys(ours["asked"]), strict=True):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        assert text == processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
