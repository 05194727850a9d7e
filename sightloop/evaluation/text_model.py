"""A causal language model of transformers as a function from a text to its most likely reply."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sightloop.models.only_numbers import NumbersOnly
from sightloop.models.open import LANGUAGE_MODEL, in_one_sentence, open_model
from sightloop.models.written_text import in_template, read_texts, spelled_out


class TextModel:
    """Replies greedily; the tokenizer's chat template is used where it has one."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str, max_tokens: int = 16
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; a reply needs at least 1")
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer: Any = tokenizer
        self.max_tokens = max_tokens
        weight = self.model.get_input_embeddings().weight.detach().float().cpu().numpy()
        self.protocol = {
            "text_model": name,
            "text_model_weights": hashlib.sha256(weight.tobytes()).hexdigest()[:12],
            "text_model_dtype": str(self.model.dtype).removeprefix("torch."),
            "chat_template": str(self.tokenizer.chat_template is not None),
            "reply_tokens": str(max_tokens),
            "transformers": transformers.__version__,
        }
        """What its replies depend on."""

    @staticmethod
    def from_pretrained(
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        max_tokens: int = 16,
    ) -> TextModel:
        """Load a folder of the hub's format (or a hub name).

        Raises:
            ValueError: weights or tokenizer are missing.
        """
        found = open_model(folder, LANGUAGE_MODEL, dtype=dtype, device=device)
        return TextModel(found.model, found.words, name=found.name, max_tokens=max_tokens)

    @torch.no_grad()
    def __call__(self, text: str) -> str:
        """The reply, stripped of white space.

        Raises:
            ValueError: what lies beside the weights says how to write in a way that cannot be followed.
        """
        with in_one_sentence(self.model.name_or_path, "what tells how to write"):
            return self._reply(text)

    def _reply(self, text: str) -> str:
        if self.tokenizer.chat_template is None:
            read = read_texts(self.tokenizer, [text], return_tensors="pt")
        else:
            chat = [{"role": "user", "content": spelled_out(self.tokenizer, text)}]
            read = in_template(self.tokenizer, chat, return_dict=True, return_tensors="pt")
        ids = read["input_ids"].to(self.model.device)
        pad = (
            self.tokenizer.eos_token_id
            if self.tokenizer.pad_token_id is None
            else self.tokenizer.pad_token_id
        )
        watch = NumbersOnly()
        # Checkpoints may name sampling settings of their own; greedy needs them off.
        made = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            num_beams=1,
            pad_token_id=pad,
            logits_processor=[watch],
        )
        watch.require(self.model.name_or_path, "replies")
        return self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
