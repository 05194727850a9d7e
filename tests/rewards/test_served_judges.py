"""Judges behind HTTP: equal to the same judge in the process, whatever happens on the way."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.tiny_captioners import llava
from PIL import Image
from rewards.test_yes_no_judge import knows_yes_and_no
from rewards.tiny_clips import SIDE, blip_matcher_folder

from sightloop.recipes.inputs import inputs_of
from sightloop.recipes.vlrm.config import SHAPES
from sightloop.rewards.custom import load_rewards, read_names
from sightloop.rewards.samples import outcome_of_texts
from sightloop.rewards.served.client import Server
from sightloop.rewards.served.judges import KEY, PostedJudge, ServedYesNo
from sightloop.rewards.similarity import ItmSimilarity
from sightloop.rewards.yes_no import YesNoJudge
from sightloop.types import Images

TEXTS = ["a red dog", "cat", "a big blue cat", "the street"]
PATIENCE: dict[str, Any] = {"pause": 0.01, "seconds": 5.0}
Reply = tuple[int, dict[str, str], bytes]


class Loopback:
    """A server on this computer; faults come before its judge's answers, one a request."""

    def __init__(self, judge: Callable[[Any], Any]) -> None:
        self.judge = judge
        self.faults: list[Reply | str] = []
        self.asked: list[Any] = []
        self.keys: list[str | None] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        question = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.asked.append(question)
            self.keys.append(handler.headers.get("Authorization"))
            fault = self.faults.pop(0) if self.faults else None
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._send(handler, fault, question)
        except OSError:
            pass
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, handler: BaseHTTPRequestHandler, fault: Reply | str | None, question: Any) -> None:
        if fault == "hang up":
            handler.connection.close()
            return
        told = (
            (200, {}, json.dumps(self.judge(question)).encode()) if isinstance(fault, str | None) else fault
        )
        status, headers, body = told
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if fault == "drip":
            for byte in body:
                handler.wfile.write(bytes([byte]))
                handler.wfile.flush()
                time.sleep(0.05)
            return
        handler.wfile.write(body[: len(body) // 2] if fault == "cut" else body)


@contextmanager
def serving(judge: Callable[[Any], Any]) -> Iterator[tuple[Loopback, str]]:
    loopback = Loopback(judge)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            loopback.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield loopback, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pictures(number: int = 4, side: int = SIDE) -> Images:
    generator = torch.Generator().manual_seed(number)
    return Images(pixels=torch.randint(256, (number, 3, side, side), generator=generator, dtype=torch.uint8))


def opened(told: str) -> torch.Tensor:
    with Image.open(io.BytesIO(base64.b64decode(told))) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def lengths(question: Any) -> Any:
    return {"scores": [len(text) for text in question["texts"]]}


def test_a_posted_judge_says_what_it_says_in_the_process(tmp_path: Path) -> None:
    here, images = ItmSimilarity.from_pretrained(blip_matcher_folder(tmp_path)), pictures()
    lock = threading.Lock()

    def judge(question: Any) -> Any:
        seen = Images(pixels=torch.stack([opened(each) for each in question["images"]]))
        with lock:
            return {"scores": here.rewards(seen, question["texts"]).tolist()}

    with serving(judge) as (_, address):
        rewards, weights = load_rewards([f"{address}/score=0.5"])
        found = rewards["http"](outcome_of_texts(images, TEXTS)).sum(1)
        assert weights == {"http": 0.5}
    torch.testing.assert_close(found, here.rewards(images, TEXTS), rtol=1e-5, atol=1e-6)


def test_a_chat_model_behind_a_server_judges_as_in_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = YesNoJudge.from_pretrained(knows_yes_and_no(llava(tmp_path)))
    words: Any = here.processor.tokenizer
    images, lock = pictures(side=16), threading.Lock()

    def judge(question: Any) -> Any:
        shown, asked = question["messages"][0]["content"]
        seen = Images(pixels=opened(shown["image_url"]["url"].partition(",")[2])[None])
        assert (question["model"], question["max_tokens"], question["logprobs"]) == ("tiny/llava", 1, True)
        with lock, torch.no_grad():
            logits = here._next_word([here._prompt(asked["text"])], [seen.pictures()[0]])
        law = logits[0].log_softmax(0)
        told = [{"token": words.decode([n]), "logprob": float(law[n])} for n in here._yes + here._no]
        return {"choices": [{"logprobs": {"content": [{"top_logprobs": told}]}}]}

    monkeypatch.setenv(KEY, "a secret")
    with serving(judge) as (loopback, address):
        rewards, _ = load_rewards([f"openai:tiny/llava@{address}/v1"])
        found = rewards["openai"](outcome_of_texts(images, TEXTS)).sum(1)
        assert set(loopback.keys) == {"Bearer a secret"} and loopback.most > 1
        assert "secret" not in repr(ServedYesNo.at(f"tiny/llava@{address}/v1"))
    torch.testing.assert_close(found, here.rewards(images, TEXTS), rtol=1e-5, atol=1e-6)


def test_equal_questions_are_asked_once_and_several_at_a_time() -> None:
    with serving(lengths) as (loopback, address):
        judge = PostedJudge.at(address, batch=1, parallel=3, **PATIENCE)
        images = Images(pixels=pictures(1).pixels.expand(6, -1, -1, -1))
        texts = ["a", "bb", "a", "ccc", "bb", "a"]
        assert judge.rewards(images, texts).tolist() == [1, 2, 1, 3, 2, 1]
        assert len(loopback.asked) == 3 >= loopback.most
        assert judge.rewards(images, texts).tolist() == [1, 2, 1, 3, 2, 1] and len(loopback.asked) == 3
        assert judge.rewards(pictures(1), ["dddd"]).tolist() == [4] and len(loopback.asked) == 4
        batched = PostedJudge.at(address, batch=4, **PATIENCE)
        assert batched.rewards(images, texts).tolist() == [1, 2, 1, 3, 2, 1]
        assert [len(question["texts"]) for question in loopback.asked[4:]] in ([4, 2], [2, 4])


@pytest.mark.parametrize(
    "faults",
    [
        ["hang up", "cut", (503, {}, b"busy")],
        [(429, {"Retry-After": "0"}, b"slow down"), (200, {}, b"not JSON"), (200, {}, b'{"scores": [1')],
    ],
)
def test_what_passes_is_tried_again(faults: list[Any]) -> None:
    with serving(lengths) as (loopback, address):
        loopback.faults = list(faults)
        judge = PostedJudge.at(address, **PATIENCE)
        assert judge.rewards(pictures(), TEXTS).tolist() == [len(text) for text in TEXTS]
        assert len(loopback.asked) == 4


@pytest.mark.parametrize(
    ("fault", "told", "asked"),
    [
        ((401, {}, b"no key"), "refuses what it is asked: status 401 no key", 1),
        ((302, {"Location": "http://elsewhere"}, b""), "has moved to http://elsewhere; name that", 1),
        ((200, {}, b'{"scores": [1, 2]}'), "gave 2 scores for 4 texts", 1),
        ((200, {}, b'{"scores": [1, 2, 3, NaN]}'), "one finite number a text", 1),
        ((200, {}, b'{"scores": [1, 2, 3, null]}'), "one finite number a text", 1),
        ((200, {}, b'"fine"'), "one finite number a text", 1),
        ((500, {}, b"\x1b[31m\nwrong"), r"did not answer in 4 tries: status 500 \S*wrong; see", 4),
        ("drip", "did not answer in 4 tries: it took longer than 0.3 s; see", 4),
    ],
)
def test_what_does_not_pass_is_one_sentence(fault: Any, told: str, asked: int) -> None:
    with serving(lengths) as (loopback, address):
        loopback.faults = [fault] * 4
        begun = time.monotonic()
        judge = PostedJudge.at(address, pause=0.01, seconds=0.3 if fault == "drip" else 30)
        with pytest.raises(ValueError, match=told) as error:
            judge.rewards(pictures(), TEXTS)
        assert address in str(error.value) and "\n" not in str(error.value)
        assert len(loopback.asked) == asked and time.monotonic() - begun < 30


def test_nobody_listens() -> None:
    with serving(lengths) as (_, address):
        pass
    with pytest.raises(ValueError, match="did not answer in 2 tries: ConnectionRefusedError"):
        PostedJudge.at(address, pause=0.01, tries=2).rewards(pictures(1), ["a"])


def test_a_chat_model_without_log_probabilities_is_no_judge() -> None:
    answer: Any = {"choices": [{"message": {"content": "Yes"}, "logprobs": None}]}
    with serving(lambda _: answer) as (_, address):
        judge = ServedYesNo.at(f"m@{address}/v1", **PATIENCE)
        with pytest.raises(ValueError, match="tells no log-probabilities of its first word"):
            judge.rewards(pictures(1), ["a"])
        told = {"top_logprobs": [{"token": "I", "logprob": -0.1}]}
        answer = {"choices": [{"logprobs": {"content": [told]}}]}
        assert judge.rewards(pictures(1), ["a"]).tolist() == [pytest.approx(0, abs=1e-6)]
        told["top_logprobs"] = [{"token": " Yes", "logprob": -0.1}]
        assert judge.rewards(pictures(1), ["b"]).tolist() == [1]


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("http", "no address of a judge"),
        ("http:///score", "no address of a judge"),
        ("http://host:port/", "no address of a judge"),
        ("https://me:secret@host/score", "the address of 'host' holds a name or password"),
        ("openai:gpt", "write MODEL@URL"),
        ("openai:gpt@ftp://host", "write MODEL@URL"),
    ],
)
def test_addresses_that_lead_nowhere_are_refused_before_anything_is_loaded(named: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        read_names([named])
    assert "secret" not in str(error.value)


def test_an_address_is_no_file_of_a_run() -> None:

    config = replace(SHAPES, custom_rewards=("http://127.0.0.1:8000/score=1", "length=0.1"))
    assert [name for setting, name in inputs_of(config).items() if "custom" in setting] == ["length=0.1"]
    with pytest.raises(ValueError, match="seconds is 0; use more than 0"):
        Server(address="http://127.0.0.1", seconds=0)
