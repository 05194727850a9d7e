"""Judges that other programs serve over HTTP: any that answers a plain POST, and chat models as OpenAI serves
them (vLLM, SGLang, llama.cpp and others do).

Plain: `{"images": [PNG in base64, ...], "texts": [...]}` is answered by `{"scores": [number, ...]}`. Chat:
the question of `yes_no`, one token, the 20 likeliest with their log-probabilities; yes and no compete as
there.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sightloop.rewards.samples import chunks, pil_images
from sightloop.rewards.served.client import Client, Server, split_model
from sightloop.rewards.user_functions import shortly
from sightloop.rewards.yes_no import FITS
from sightloop.types import Images

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds a key for chat models, where one is needed."""
_LIKELIEST = 20
"""As many as servers tell."""
_SURELY_NOT = -100.0


@dataclass(frozen=True, kw_only=True)
class PostedJudge:
    """Scores of a judge that answers a plain POST, several pairs a request."""

    client: Client
    batch: int = 16

    @staticmethod
    def at(address: str, *, batch: int = 16, **patience: Any) -> PostedJudge:
        """The judge at a URL; `patience` is that of `Server`."""
        return PostedJudge(client=Client(Server(address=address, **patience)), batch=batch)

    def rewards(self, images: Images, texts: Sequence[str]) -> Float[Tensor, " B"]:
        """The score of each image with its text.

        Raises:
            ValueError: the server does not answer, or answers something else than numbers.
        """
        seen = [_png(image) for image in pil_images(images)]
        rows = chunks(range(len(texts)), self.batch)
        asked = [{"images": [seen[r] for r in some], "texts": [texts[r] for r in some]} for some in rows]
        said = self.client.ask(asked, self._scores, what="the judge")
        for some, scores in zip(rows, said, strict=True):
            if len(some) != len(scores):
                raise ValueError(
                    f"the judge at {self.client.server.address} gave {len(scores)} scores for {len(some)} "
                    "texts; it must give one for each"
                )
        return torch.tensor([score for scores in said for score in scores], dtype=torch.float32)

    def _scores(self, answer: Any) -> list[float]:
        scores = cast("Any", answer).get("scores") if isinstance(answer, Mapping) else answer
        if not isinstance(scores, list) or not all(map(_is_number, cast("list[Any]", scores))):
            raise ValueError(
                f"the judge at {self.client.server.address} answered {shortly(answer)}; it must answer "
                '{"scores": [one finite number a text]}'
            )
        return [float(score) for score in cast("list[Any]", scores)]


@dataclass(frozen=True, kw_only=True)
class ServedYesNo:
    """A chat model behind an OpenAI-compatible server, asked as `YesNoJudge` asks one in the process."""

    client: Client
    model: str
    question: str = FITS

    @staticmethod
    def at(named: str, *, question: str = FITS, **patience: Any) -> ServedYesNo:
        """The judge `MODEL@URL`; the URL ends before `/chat/completions`. `patience` is that of `Server`.

        Raises:
            ValueError: it is not named so.
        """
        model, url = split_model(named)
        patience = {"key": os.environ.get(KEY, "")} | patience
        server = Server(address=f"{url.rstrip('/')}/chat/completions", **patience)
        return ServedYesNo(client=Client(server), model=model, question=question)

    def log_yes(self, images: Images, questions: Sequence[str]) -> Float[Tensor, " B"]:
        """Log-probability (nats) of yes against no for each image and its question.

        Raises:
            ValueError: the server does not answer, or tells no log-probabilities.
        """
        asked = [
            self._request(image, question)
            for image, question in zip(pil_images(images), questions, strict=True)
        ]
        return torch.tensor(self.client.ask(asked, self._read, what=f"the judge {self.model!r}"))

    def rewards(self, images: Images, texts: Sequence[str]) -> Float[Tensor, " B"]:
        """Probability that the image shows the text."""
        return self.log_yes(images, [self.question.replace("{text}", text) for text in texts]).exp()

    def _request(self, image: Image.Image, question: str) -> dict[str, Any]:
        shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(image)}"}}
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": [shown, {"type": "text", "text": question}]}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _LIKELIEST,
        }

    def _read(self, answer: Any) -> float:
        try:
            likeliest = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = [(str(one["token"]).strip().lower(), float(one["logprob"])) for one in likeliest]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.model!r} at {self.client.server.address} tells no log-probabilities of its first "
                f"word ({shortly(answer)}); a judge is read by them"
            ) from error
        yes, no = (_sum_of([value for word, value in found if word == wanted]) for wanted in ("yes", "no"))
        if yes == no == -math.inf:
            # Neither is among the likeliest words: nothing speaks for yes.
            return _SURELY_NOT
        odds = yes - no
        return max(_SURELY_NOT, -math.log1p(math.exp(-odds)) if odds > _SURELY_NOT else odds)


def _sum_of(log_probs: Sequence[float]) -> float:
    return float(torch.tensor(log_probs, dtype=torch.float64).logsumexp(0)) if log_probs else -math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
