"""Every string that the authors' own code makes of a text, through folders as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor
from unified_folders import janus_folder, show_o_folders

from sightloop.cli import main
from sightloop.models.families import Parts
from sightloop.models.janus.policy import Janus
from sightloop.models.prompt_strings import PromptOptions
from sightloop.models.show_o.layout import SYSTEM_PROMPT
from sightloop.models.show_o.policy import ShowO
from sightloop.recipes.image_policies import load_image_policy

Case = dict[str, Any]
STYLES_WITH_ROLES = ("deepseek", "deepseek_old")
FIRST, PRO = ["User", "Assistant"], ["<|User|>", "<|Assistant|>"]


def cases_of(folder: Path) -> list[Case]:
    """All of a folder's cases."""
    return json.loads((folder / "prompt_strings" / "cases.json").read_text(encoding="utf-8"))


def kind(case: Case) -> str:
    """Cases of one kind are read from one folder."""
    return json.dumps([case["family"], case.get("sft_format"), case.get("roles")])


class Opened:
    """One policy for each kind of case, and its folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.policies: dict[str, tuple[Path, ShowO | Janus]] = {}

    def __call__(self, case: Case) -> ShowO | Janus:
        """The policy of a case's kind."""
        name = kind(case)
        if name not in self.policies:
            self.policies[name] = self._opened(case, self.place / str(len(self.policies)))
        return self.policies[name][1]

    def _opened(self, case: Case, place: Path) -> tuple[Path, Any]:
        cpu = torch.device("cpu")
        if case["family"].startswith("show-o"):
            folders = show_o_folders(place, has_tower=case["family"].endswith("w-clip-vit"))
            tower = str(folders.get("tower", ""))
            parts = Parts(magvit=folders["magvit"], tokenizer=folders["tokenizer"], tower=tower)
            return folders["model"], load_image_policy(str(folders["model"]), device=cpu, parts=parts)
        is_pro, style = case["family"] == "janus-pro", case["sft_format"]
        folder = janus_folder(place, is_pro=is_pro, sft_format=style)
        # What no folder tells, because the authors' program is handed it: only then is it an option.
        told = FIRST if style == "deepseek_old" or not is_pro else PRO
        roles = None if style not in STYLES_WITH_ROLES or case["roles"] == told else tuple(case["roles"])
        parts = Parts(prompts=PromptOptions(roles=roles))
        return folder, load_image_policy(str(folder), device=cpu, parts=parts)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Policies, opened once."""
    return Opened(tmp_path_factory.mktemp("hub"))


def read_by_janus(policy: Janus, task: str, text: str) -> str:
    """The string whose ids the policy reads, an image's frame and places as their one mark."""
    words, prompts = policy.tokenizer, policy.prompts
    row = prompts.drawing_row(text) if task == "draw" else prompts.question_row(text, True)
    whole = str(words.decode(list(row), skip_special_tokens=False)).removeprefix(str(words.bos_token))
    places = "<image_placeholder>" * prompts.num_places
    framed = whole.replace(f"<begin_of_image>{places}<end_of_image>", "<image_placeholder>")
    # The ids of the whole string, not of parts of it.
    ids = words(framed, add_special_tokens=False).input_ids
    kept = [token for token in row[1:] if task == "draw" or token not in (prompts.start, prompts.stop)]
    assert kept == [t for i in ids for t in ([i] * prompts.num_places if i == prompts.picture else [i])]
    return framed


def read_by_show_o(policy: ShowO, text: str) -> str:
    """The string whose ids stand behind an image."""
    (ids,) = policy.questions([text])
    return str(policy.tokenizer.decode(ids)).removeprefix("<|endoftext|>")


def test_every_string_is_the_authors_own(oracles: Path, opened: Opened) -> None:
    wrong: list[str] = []
    for case in cases_of(oracles):
        policy = opened(case)
        if isinstance(policy, Janus):
            found = read_by_janus(policy, case["task"], case["text"])
        else:
            found = read_by_show_o(policy, case["text"])
            # Tokenized apart, before the image.
            system = None if policy.vision is None else policy.vision.system_prompt
            assert system == (SYSTEM_PROMPT if case["family"].endswith("w-clip-vit") else None)
        if found != case["string"]:
            wrong.append(f"{kind(case)} {case['task']} {case['text']!r}: {found!r}, not {case['string']!r}")
    assert not wrong, "\n".join(wrong)


def test_an_export_makes_the_same_strings_in_transformers(
    oracles: Path, opened: Opened, tmp_path: Path
) -> None:
    processors: dict[str, Any] = {}
    for case in cases_of(oracles):
        policy, name = opened(case), kind(case)
        if not isinstance(policy, Janus):
            continue
        if name not in processors:
            folder, output = opened.policies[name][0], tmp_path / str(len(processors))
            roles = policy.prompts.strings.drawing.before.removesuffix(": ") not in (*FIRST, *PRO)
            chosen = ["--prompts.roles", *case["roles"]] if roles else []
            main(["convert", "janus", str(folder), str(output), *chosen])
            processors[name] = AutoProcessor.from_pretrained(output)
        image = [] if case["task"] == "draw" else [{"type": "image"}]
        talk = [{"role": "user", "content": [*image, {"type": "text", "text": case["text"]}]}]
        told = processors[name].apply_chat_template(talk, add_generation_prompt=True)
        assert told + "<begin_of_image>" * (case["task"] == "draw") == case["string"]
