"""A detector that is a function of the user's: images in, a list of objects an image out.

An object is a mapping as in a detections file, `{"class": name, "box": [left, top, right, bottom], "score":
0 to 1}` with corners in pixels of the image, and `color` and `mask` (pixels, or COCO's run lengths) where
the detector knows them; or a `Detection`. Numbers may be NumPy's or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sightloop.geneval.detectors import DetectorImage, detection_of, in_geneval_words
from sightloop.geneval.rules import Detection


class FunctionDetector:
    """Sees what a function says; `mouse`, `remote` and `keyboard` of COCO get GenEval's names."""

    def __init__(
        self, function: Callable[..., Any], *, protocol: dict[str, str], takes_names: bool = False
    ) -> None:
        """Take `(images) -> objects of each`, or with `takes_names` `(images, names)`.

        `names` are the classes that matter in each image.
        """
        self.function = function
        self.protocol = protocol
        self.takes_names = takes_names
        self.vocabulary: frozenset[str] | None = None

    def detect(self, pictures: Sequence[DetectorImage]) -> list[list[Detection]]:
        """The objects of each image.

        Raises:
            ValueError: the function fails or answers in another form; it and the image are named.
        """
        images = [picture.image for picture in pictures]
        names = {"names": [picture.names for picture in pictures]} if self.takes_names else {}
        name = self.protocol["detector"]
        try:
            said = self.function(images, **names)
        except ValueError as error:
            raise ValueError(f"{pictures[0].file}: {error}") from error
        if not isinstance(said, Sequence) or len(said) != len(pictures):
            counted = f"{len(said)} answers" if isinstance(said, Sequence) else type(said).__name__
            raise ValueError(
                f"{name} gave {counted} for {len(pictures)} images; give a list of objects for each, "
                "an empty one where there is nothing"
            )
        return [_objects(each, picture, name) for each, picture in zip(said, pictures, strict=True)]


def _objects(said: Any, image: DetectorImage, name: str) -> list[Detection]:
    place = f"{name} about {image.file}"
    if not isinstance(said, Sequence) or isinstance(said, str):
        raise ValueError(f'{place}: {type(said).__name__} is no list of objects with "class", "box", "score"')
    return [_object(each, image, place) for each in said]


def _object(entry: Any, image: DetectorImage, place: str) -> Detection:
    if isinstance(entry, Detection):
        entry = {"class": entry.name, **asdict(entry), "color": entry.color}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("class"), str):
        # Numbers of classes differ between programs, and would be taken for the wrong ones.
        raise ValueError(f'{place}: {entry!r} is no object with "class", a name, "box" and "score"')
    return detection_of({**entry, "class": in_geneval_words(entry["class"], image.names)}, place)
