"""The command, its exit code, its figures, and rewards that are not what they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sightloop.cli import main
from sightloop.doctor.calibration import MeasuredReward, MeasuringJudge, calibration
from sightloop.doctor.environment import environment
from sightloop.doctor.findings import Finding, as_text, is_healthy
from sightloop.doctor.probes import drawn_probe, world_probe
from sightloop.doctor.rewards import PAIRS, examine_rewards
from sightloop.doctor.unirl import checked_finding
from sightloop.evaluators.image_checks import WorldCheck
from sightloop.quizzes.grammar import Quiz
from sightloop.rewards.answers import FactReward, NegativeAnswers, SubtractBlindBaseline, all_facts, share
from sightloop.rewards.custom import load_rewards, read_names
from sightloop.rewards.loading import Loading
from sightloop.rewards.phrases import BadPhrases, Repeats, load_phrases, missing_end
from sightloop.rewards.plain import caption_length
from sightloop.rewards.samples import outcome_of_texts
from sightloop.types import Images, Outcome
from sightloop.world.bundled import WEIGHTS

FUNCTIONS = """
def red(images, completions):
    wanted = ["red" in text.split()[:3] for text in completions]
    return [float((image.getpixel((112, 112))[2] < 100) == so) for image, so in zip(images, wanted)]

def same(completions, **columns):
    return [1.0] * len(completions)

def silent(completions, **columns):
    return [None] * len(completions)

def broken(completions, **columns):
    return None
"""


def swapped_judge(folder: Path) -> Path:
    """The bundled judge with the classes of its head in the other order."""
    shutil.copytree(WEIGHTS / "judge", folder)
    tensors = load_file(folder / "model.safetensors")
    for part in ("itm_head.weight", "itm_head.bias"):
        tensors[part] = tensors[part].flip(0).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_planted_fault_gives_exit_code_1_and_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = swapped_judge(tmp_path / "judge")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--recipe", "vlrm", "--judge", str(judge), "--output", str(tmp_path / "found.json")])
    said = capsys.readouterr().out
    assert stop.value.code == 1
    assert "FAIL ranks the right caption first" in said and "in the other order" in said
    assert "not measured: something above failed" in said and said.rstrip().endswith("found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["healthy"]
    assert [f["name"] for f in found["findings"] if f["mark"] == "fail"] == ["ranks the right caption first"]


def test_rewards_are_looked_at_without_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    main(["doctor", "--check", f"clip:{WEIGHTS / 'clip'}", f"{tmp_path / 'mine.py'}:red"])
    said = capsys.readouterr().out
    assert f"clip: {WEIGHTS / 'clip'}" in said and "all" in said.splitlines()[-1]
    assert "the true caption earns more than a false one for" in said
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--recipe", "vlrn"])
    assert stop.value.code == 2 and "recipe 'vlrn' does not exist; there are: vlrm" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["vlrm", "--custom-rewards", "length=0.1"], ["similarity", "reference", "repeats", "length"]),
        (["unirl-grpo", "--device", "cpu"], ["all_facts"]),
    ],
)
def test_a_recipe_is_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], names: list[str]
) -> None:
    main(["doctor", "--recipe", *words, "--output", str(tmp_path / "found.json")])
    assert "checks passed" in capsys.readouterr().out
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    calibrated = {f["name"]: f["figures"] for f in findings if f["part"] == "calibration"}
    assert set(names) <= calibrated.keys() and calibrated["weighted sum"]["spread_in_group"] > 0
    wanted = {"mean", "spread", "spread_in_group", "without_signal", "milliseconds", "megabytes", "weight"}
    assert all(wanted <= calibrated[name].keys() for name in names)


def test_the_environment_is_told() -> None:
    findings = {finding.name: finding for finding in environment()}
    assert f"torch {torch.__version__}" in findings["versions"].says
    assert findings["disk"].figures["free_gb"] > 0 and is_healthy(list(findings.values()))


def test_sound_rewards_of_texts_pass() -> None:
    rewards = {
        "missing_end": missing_end,
        "bad_phrases": BadPhrases(phrases=load_phrases()),
        "repeats": Repeats(),
        "share": SubtractBlindBaseline(reward=FactReward(grade=share)),
        "all_facts": FactReward(grade=all_facts),
        "negative_questions": NegativeAnswers(),
    }
    findings = examine_rewards(rewards, drawn_probe())
    assert [finding.mark for finding in findings] == ["pass"] * 6 and set(rewards) <= PAIRS.keys()


def turned(outcome: Outcome) -> Tensor:
    return -Repeats()(outcome)


def test_a_turned_sign_and_a_blind_reward_fail() -> None:
    for reward in (turned, lambda outcome: torch.zeros(outcome.tokens.mask.shape)):
        (found,) = examine_rewards({"repeats": reward}, drawn_probe())
        assert found.mark == "fail" and "only 0% of the right texts" in found.says
        assert "its sign is turned" in found.fix


def test_functions_of_the_user_are_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    named = read_names([f"{tmp_path / 'mine.py'}:{name}" for name in ("red", "same", "silent", "broken")])
    rewards = {one.short: one.load(Loading()) for one in named}
    red, same, silent, broken = examine_rewards(rewards, drawn_probe())
    assert red.mark == "pass" and red.figures["right"] > 0
    assert same.mark == "warn" and "says 1 about every image" in same.says
    assert silent.mark == "warn" and "says 0 about every image" in silent.says
    assert broken.mark == "fail" and "None" in broken.says


def test_every_probe_image_has_its_own_captions() -> None:
    for probe in (world_probe(), drawn_probe()):
        images, texts = probe.pairs
        assert len(images) == len(texts) == 4 * len(probe.true) and not set(probe.true[:1]) & set(
            probe.false[0]
        )
        assert torch.equal(probe.bgr().images.pixels[:, 0], probe.images.pixels[:, 2])
    scores = torch.tensor([3.0, 2.0, 1.0, 1.0, *range(12)])
    # Each true caption less the best of its own three false ones: 2, 5, 8, 11.
    assert drawn_probe().margins(scores).tolist() == [1, -3, -7, -10]


def test_a_checker_that_says_yes_to_everything_fails() -> None:
    class Kind(WorldCheck):
        def right(self, images: Images, quizzes: Sequence[Quiz]) -> list[bool]:
            return [True] * len(quizzes)

    assert checked_finding(WorldCheck()).mark == "pass"
    assert checked_finding(Kind()).mark == "fail"


def measured(*values: float) -> MeasuredReward:
    return MeasuredReward(values=torch.tensor(values).float(), seconds=0.004, megabytes=8.0)


def test_figures_of_a_calibration_by_hand() -> None:
    group = torch.tensor([7, 7, 9, 9])
    rewards = {"a": measured(1, 3, 7, 7), "b": measured(2, 6, 0, 0), "c": measured(1, 1, 1, 1)}
    findings = {f.name: f for f in calibration(rewards, group, {"a": 1.0, "b": -2.0, "c": 1.0})}
    first, second = findings["a"].figures, findings["b"].figures
    assert first["mean"] == 4.5 and first["spread_in_group"] == pytest.approx(0.5**0.5)
    assert first["without_signal"] == 0.5 and first["milliseconds"] == 1 and first["megabytes"] == 2
    # b spreads twice as much as a, and is punished.
    assert second["suggested_weight"] == pytest.approx(-0.5) and first["suggested_weight"] == 1
    assert "suggested_weight" not in findings["c"].figures and "most groups" in findings["c"].fix
    total = torch.tensor([1 - 4 + 1, 3 - 12 + 1, 7.0 + 1, 7 + 1])
    # The first prompt's sums are -2 and -8, 3 off their mean each; the second prompt's are equal.
    assert total.tolist() == [-2, -8, 8, 8]
    assert findings["weighted sum"].figures["spread_in_group"] == pytest.approx(4.5**0.5)
    dead = calibration({"c": measured(1, 1, 1, 1)}, group, {"c": 1.0})[-1]
    assert dead.mark == "fail" and "nothing can be learned" in dead.fix


def test_rewards_that_say_the_same_are_named() -> None:
    group = torch.tensor([0, 0, 1, 1])
    rewards = {"a": measured(1, 2, 3, 5), "b": measured(2, 4, 6, 10), "c": measured(1, 0, 0, 1)}
    found = {f.name: f for f in calibration(rewards, group, {}) if " and " in f.name}
    assert found["a and b"].mark == "warn" and "one of the two is enough" in found["a and b"].fix
    assert found["a and c"].mark == "info"
    wanted = float(torch.corrcoef(torch.tensor([[1.0, 2, 3, 5], [1, 0, 0, 1]]))[0, 1])
    assert found["a and c"].figures["correlation"] == pytest.approx(wanted, abs=1e-6)


def test_a_measuring_judge_keeps_what_each_reward_said() -> None:
    rewards, _ = load_rewards(["length"])
    judge = MeasuringJudge(rewards={"length": caption_length})
    images = Images(pixels=torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    outcome = outcome_of_texts(images, ["a red dog", "cat"])
    total, parts = judge(outcome)
    assert total.sum() == 0 and parts["length"].tolist() == rewards["length"](outcome).sum(1).tolist()
    assert judge.seen["length"][0].values.tolist() == [3, 1] and judge.seen["length"][0].seconds > 0


def test_findings_read_well() -> None:
    sound = Finding(part="judges", name="loads", mark="pass", says="all there")
    ill = Finding(part="judges", name="size", mark="fail", says="24, not 32", fix="write 32")
    assert as_text([sound]).splitlines() == ["judges", "  ok   loads  all there", "", "all 1 checks passed"]
    assert as_text([sound, ill]).splitlines()[2:] == [
        "  FAIL size   24, not 32",
        "              -> write 32",
        "",
        "1 of 2 checks failed",
    ]
