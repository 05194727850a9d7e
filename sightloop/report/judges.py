"""Which figures of a run are rewards that it is trained on, and which judges only watch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sightloop.report.labels import label_of, plain
from sightloop.report.markup import Markup, element, together
from sightloop.report.run import RunRecords

_CUSTOM = (("custom_rewards",), ("judge", "custom"))
"""Where configurations keep rewards that are named as NAME=WEIGHT."""
_FILTERS = {
    "none": "true answers; no reward gives a gradient or chooses",
    "answer_correct": "true answers about drawings that were answered right, which “all facts” decides",
    "best_of_group": "true answers about the best drawing of each group, which the reward decides:",
}
"""What supervised training learns from; it has a filter where others have rewards."""


def judges(run: RunRecords) -> Markup:
    """What was trained on, measured only, and watched, as a paragraph; with a caution if a judge did both."""
    parts = [f"Trained on: {trained}." if (trained := _trained(run)) else ""]
    if measured := _measured(run):
        parts.append(f"Measured in training, not trained on: {_listed(measured)}.")
    if watched := _watched(run):
        parts.append(f"Only watched, never trained on: {watched}.")
    text = " ".join(part for part in parts if part)
    cautions = [element("p", sentence, class_="caution") for sentence in both(run)]
    return together([element("p", text, class_="note") if text else "", *cautions])


def weights(run: RunRecords) -> dict[str, float]:
    """The weight of each reward that the configuration names, 0 included."""
    given = run.config.get("rewards")
    found = {name: float(value) for name, value in given.items()} if isinstance(given, dict) else {}
    return found | dict(_custom(run.config))


def both(run: RunRecords) -> list[str]:
    """Sentences about judges that watch and are a reward too, whose figures therefore prove little."""
    chosen = {name for name, weight in weights(run).items() if weight}
    models = {name.partition(":")[2] for name in chosen} - {""}
    judge, sides = _settings(run.config, "judge"), _settings(run.config, "joint")
    if "retrieval" in chosen:
        models.add(str(judge.get("retrieval_clip")))
    found = [
        (evaluator, record.protocol["encoder"])
        for evaluator, by_step in run.evaluations.items()
        for record in list(by_step.values())[:1]
        if record.protocol.get("encoder") in models
    ]
    if "detector" in chosen and sides and judge.get("detector") == sides.get("detector"):
        found.append(("joint", str(judge.get("detector")) or "the exact checker"))
    return [
        f"The judge of {plain(evaluator)} ({model}) is a reward of this run too: its figures rise with the "
        "reward whether the policy got better or games it. Watch another judge."
        for evaluator, model in found
    ]


def _trained(run: RunRecords) -> str:
    named = weights(run)
    chosen = [f"{plain(name)} (weight {weight:g})" for name, weight in named.items() if weight]
    law = _FILTERS.get(str(run.config.get("filter")))
    if law is None:
        return _listed(chosen)
    return f"{law} {_listed(chosen)}" if law.endswith(":") else law


def _measured(run: RunRecords) -> list[str]:
    logged = {name for values in run.train.values() for name in values}
    custom = dict(_custom(run.config))
    # In supervised training no reward makes a gradient; the filter alone may read them.
    filtered = run.config.get("filter")
    return [
        plain(name)
        for name, weight in weights(run).items()
        if (not weight or filtered in ("none", "answer_correct"))
        and (name, filtered) != ("all_facts", "answer_correct")
        and (name in custom or f"reward/{name}" in logged)
    ]


def _watched(run: RunRecords) -> str:
    best = _settings(run.config, "schedule").get("best_metric")
    names = dict.fromkeys(metric.partition("/")[0] for values in run.evals.values() for metric in values)
    doing = both(run)
    sentences: list[str] = []
    for name in names:
        if any(sentence.startswith(f"The judge of {plain(name)} ") for sentence in doing):
            continue
        keeps = isinstance(best, str) and best.startswith(f"{name}/")
        what = f", whose figure “{label_of(str(best)).text}” keeps the best checkpoint and is what the alarm "
        sentences.append(
            plain(name) + (what + "of a hacked reward compares with the total reward" if keeps else "")
        )
    return "; ".join(sentences)


def _custom(config: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for *outer, last in _CUSTOM:
        place = _settings(config, *outer)
        for text in place.get(last) or ():
            name, number = str(text).rsplit("=", 1) if "=" in str(text) else (str(text), "1")
            yield name, float(number)


def _settings(config: dict[str, Any], *path: str) -> dict[str, Any]:
    for key in path:
        inner = config.get(key)
        config = inner if isinstance(inner, dict) else {}
    return config


def _listed(names: list[str]) -> str:
    return ", ".join(names)
