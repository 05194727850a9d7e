"""What TRL and transformers call the settings of a run, each answered with what it is called here."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CAPTIONER, _GENERATOR, _GRPO, _ROWS = "vlrm", "unirl", "unirl-grpo", "grpo"
_BATCH = {
    _CAPTIONER: "--batch counts the images of a step over all ranks, --micro-batch those of a backward pass",
    **dict.fromkeys(
        (_GENERATOR, _ROWS),
        "--batch and --group make a step over all ranks, --micro-batch is a backward pass",
    ),
}
_LONGEST = {_CAPTIONER: "--draw.max-tokens", _ROWS: "--draw.max-tokens", _GENERATOR: "--answer.max-tokens"}
_DTYPE = "--dtype bfloat16 or float32"
_RESUME = "sightloop train --resume RUN"
ANSWERS: dict[str, str | dict[str, str]] = {
    "batch_size": _BATCH,
    "beta": {_GENERATOR: "--kl-weight", _ROWS: "--kl-weight"},
    "bf16": _DTYPE,
    "dataloader_num_workers": {_CAPTIONER: "--data.workers", _ROWS: "--data.workers"},
    "dataset": {_CAPTIONER: "--images", _GENERATOR: "--quiz-file", _ROWS: "--rows"},
    "dataset_name": {_CAPTIONER: "--images", _GENERATOR: "--quiz-file", _ROWS: "--rows"},
    "deepspeed": {_CAPTIONER: "--shard, under torchrun"},
    "device_map": "--device",
    "epochs": "--steps",
    "epsilon": {_GRPO: "--clip-low", _ROWS: "--clip-low"},
    "epsilon_high": {_GRPO: "--clip-high", _ROWS: "--clip-high"},
    "eval_dataset": {
        _CAPTIONER: "--held-out.images",
        _GENERATOR: "--joint.quiz-file",
        _ROWS: "--held-out.rows",
    },
    "eval_steps": "--eval-every",
    "fp16": _DTYPE,
    "fsdp": {_CAPTIONER: "--shard, under torchrun"},
    "gradient_accumulation_steps": "--micro-batch splits a step; any size gives the same gradient",
    "logging_steps": "every step is logged; --sample-every is for galleries of samples",
    "lora_alpha": {
        **dict.fromkeys((_CAPTIONER, _ROWS), "--captioner.lora-alpha"),
        _GENERATOR: "--model.lora-alpha",
    },
    "lora_r": {
        **dict.fromkeys((_CAPTIONER, _ROWS), "--captioner.lora-rank"),
        _GENERATOR: "--model.lora-rank",
    },
    "loss_type": {_CAPTIONER: "--algorithm", _GRPO: "--algorithm", _ROWS: "--algorithm"},
    "lr": "--learning-rate",
    "lr_scheduler_type": "--decay",
    "max_completion_length": _LONGEST,
    "max_grad_norm": "--gradient-clip norm with --gradient-clip-at",
    "max_new_tokens": _LONGEST,
    "max_steps": "--steps",
    "model_name": "--model",
    "model_name_or_path": "--model",
    "num_epochs": "--steps",
    "num_generations": {_CAPTIONER: "--draw.per-image", _GENERATOR: "--group", _ROWS: "--group"},
    "num_iterations": {_GRPO: "--updates", _ROWS: "--updates"},
    "num_train_epochs": "--steps",
    "output_dir": "--run",
    "overwrite_output_dir": "--overwrite",
    "per_device_train_batch_size": _BATCH,
    "ref_model": {_CAPTIONER: "--judge.reference-model"},
    "report_to": "--track",
    "resume_from_checkpoint": _RESUME,
    "reward_funcs": "--custom-rewards",
    "reward_weights": "--custom-rewards NAME=WEIGHT",
    "run_name": "--run",
    "save_steps": "--save-every",
    "save_total_limit": "--keep-checkpoints",
    "temperature": "--draw.temperature",
    "top_k": {_CAPTIONER: "--draw.top-k", _ROWS: "--draw.top-k"},
    "torch_dtype": _DTYPE,
    "train_dataset": {_CAPTIONER: "--images", _GENERATOR: "--quiz-file", _ROWS: "--rows"},
    "warmup_ratio": "--warmup-steps",
    "zero3": {_CAPTIONER: "--shard, under torchrun"},
}
"""By the setting's name there: the option here, for all recipes or by the kind of recipe."""
COMMANDS = {
    "answer": "ask",
    "chat": "ask",
    "eval": "evaluate",
    "generate": "draw",
    "grpo": "train grpo",
    "infer": "caption",
    "push": "export RUN --push REPO",
    "sft": "train unirl-sft",
    "vqa": "ask",
}
"""By the command's name there: the command here."""
_OPTION = re.compile(r"--([a-z][\w.-]*)")


def here_called(name: str, recipe: str) -> str:
    """What a setting of another library is called here, as the end of a sentence; "" if it is unknown.

    >>> here_called("lr", "vlrm"), here_called("steps", "vlrm")
    ('here it is --learning-rate', '')
    """
    answer = ANSWERS.get(name.lstrip("-").replace("-", "_"), "")
    if isinstance(answer, dict):
        answer = next((text for kind, text in answer.items() if recipe.startswith(kind)), "")
    return f"here it is {answer}" if answer else ""


def in_python(sentence: str) -> str:
    """The same about keywords instead of options.

    >>> in_python("here it is --draw.per-image")
    'here it is draw__per_image'
    """
    return _OPTION.sub(lambda found: found[1].replace("-", "_").replace(".", "__"), sentence)


def refuse_names_of_others(words: Sequence[str], recipe: str) -> None:
    """Answer the options of other libraries with the one of here.

    Raises:
        ValueError: such an option, with its name here.
    """
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and (answer := here_called(option, recipe)):
            raise ValueError(f"{recipe} has no option {option}; {answer}")
