"""TRL's side of `grpo_beside_trl`: GRPOTrainer over LoRA adapters; run in an environment that has trl.

python -m benchmarks.grpo_trl_side FOLDER JOB STEPS
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from peft import PeftModel
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore

from benchmarks.grpo_job import GENERATIONS, JOBS, LEARNING_RATE, QUESTION, Diary, Job, Judged, length_reward


class Watch(TrainerCallback):
    """Times the steps and keeps the gradients of the first one."""

    def __init__(self, diary: Diary, gradients: Path) -> None:
        self.diary = diary
        self.gradients = gradients
        self.model: Any = None

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """A step starts before its captions are drawn."""
        self.diary.step_starts()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Gradients are complete and clipped."""
        if state.global_step == 0:
            found = {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}
            save_file({name.replace(".default", ""): grad for name, grad in found.items()}, self.gradients)


def options(job: Job, folder: Path, steps: int) -> GRPOConfig:
    """The leanest settings for the job: nothing logged, saved or recomputed."""
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=job.prompts * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=job.new_tokens,
        temperature=1.0,
        top_k=0,
        beta=0.0,
        loss_type="grpo",
        scale_rewards="none",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_steps=steps,
        optim="adamw_torch",
        gradient_checkpointing=False,
        logging_steps=10_000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )


def pictures(folder: Path) -> Dataset:
    """The prompts with their images."""
    asked = [{"role": "user", "content": QUESTION}]
    rows = [
        {"prompt": asked, "image": Image.open(path), "source": path.name}
        for path in sorted((folder / "pictures").glob("*.png"))
    ]
    turn = {"role": Value("string"), "content": Value("string")}
    features = Features({"prompt": [turn], "image": ImageFeature(), "source": Value("string")})
    return Dataset.from_list(rows, features=features)


def main() -> None:
    """Train, and write the diary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("steps", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    diary = Diary.open()
    folder, job = given.folder, JOBS[given.job]

    def judge(completions: list[Any], completion_ids: list[list[int]], source: list[str], **_: Any):
        texts = [completion[0]["content"] for completion in completions]
        rewards = [length_reward(text) for text in texts]
        diary.tokens.append(sum(map(len, completion_ids)))
        if len(diary.tokens) == 1:
            Judged(sources=source, ids=completion_ids, rewards=rewards).write(folder / "trl_judged.json")
        return rewards

    plain = AutoModelForImageTextToText.from_pretrained(folder / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, folder / "adapter", is_trainable=True)
    watch = Watch(diary, folder / "trl_gradients.safetensors")
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge,
        args=options(job, folder, given.steps),
        train_dataset=pictures(folder),
        processing_class=AutoProcessor.from_pretrained(folder / "model"),
        callbacks=[watch],
    )
    watch.model = trainer.model
    trainer.train()
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    diary.write(folder / "trl.json", trained)


if __name__ == "__main__":
    main()
