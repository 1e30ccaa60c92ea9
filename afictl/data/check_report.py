"""What a check of a data set can find, and what training does about each of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Effect = Literal["stops", "drops", "mends", "fine"]


class Rule(NamedTuple):
    """One kind of finding."""

    title: str
    effect: Effect
    """``stops`` training, ``drops`` the object or image, ``mends`` it while reading, or is ``fine``."""
    consequence: str


RULES = {
    "annotation-file": Rule("annotation file not usable", "stops", "stops before the first step"),
    "malformed-record": Rule("record without a needed key, or of the wrong kind", "stops", "stops: mend the file"),
    "duplicate-category": Rule("category id occurs twice", "stops", "stops: give every category its own id"),
    "duplicate-name": Rule(
        "categories of the same name", "stops", "stops: classes are told apart by name; give every category its own"
    ),
    "classes-differ": Rule(
        "category names differ from those of the training split", "stops", "stops: give both splits the same names"
    ),
    "duplicate-image": Rule("image id occurs twice", "stops", "stops: give every image its own id"),
    "duplicate-annotation": Rule("annotation id occurs twice", "stops", "stops: give every annotation its own id"),
    "unknown-image": Rule("object of an unknown image", "stops", "stops: add the image or remove the object"),
    "unknown-category": Rule("object of an unknown category", "stops", "stops: add the category or remove the object"),
    "no-usable-object": Rule("not one object to train on", "stops", "stops before the first step"),
    "missing-file": Rule("image file missing", "stops", "stops at this image: add the file or remove its record"),
    "unreadable-file": Rule("image file truncated or unreadable", "stops", "stops at this image: replace the file"),
    "wrong-size": Rule("image size differs from its annotation", "stops", "stops at this image: mend its record"),
    "crowd": Rule("crowd objects", "drops", "leaves the object out; evaluation ignores detections on it"),
    "box-without-area": Rule("box without area", "drops", "leaves the object out"),
    "box-outside": Rule("box fully outside its image", "drops", "leaves the object out"),
    "mask-missing": Rule(
        "objects without a mask in a set that has masks",
        "drops",
        "leaves the object out when masks are trained",
    ),
    "mask-malformed": Rule(
        "mask not usable",
        "drops",
        "takes the object as one without a mask: leaves it out when masks are trained",
    ),
    "box-partly-outside": Rule("box partly outside its image", "mends", "cuts the box at the edge"),
    "exif-followed": Rule("EXIF rotation, annotated as shown", "mends", "turns the pixels as the file says"),
    "exif-ignored": Rule("EXIF rotation, annotated as stored", "mends", "reads the pixels as stored, as the boxes are"),
    "grey": Rule("grey images", "mends", "repeats grey as red, green and blue"),
    "cmyk": Rule("CMYK images", "mends", "converts to RGB"),
    "palette": Rule("palette images", "mends", "converts to RGB"),
    "transparent": Rule("images with transparency", "mends", "drops the transparency"),
    "deep": Rule("images of 16 bits a channel", "mends", "scales to 8 bits"),
    "other-mode": Rule("images in another colour space", "mends", "converts to RGB"),
    "category-gaps": Rule("category ids with gaps", "fine", "numbers the classes 1..K and keeps the ids for results"),
    "category-ids-differ": Rule(
        "category ids differ from those of the training split", "fine", "matches the classes of the splits by name"
    ),
    "duplicate-file": Rule(
        "image file with several records", "fine", "takes every record as an image of its own, with its objects alone"
    ),
    "file-in-train": Rule(
        "image file that the training split holds too", "fine", "learns it and is scored on it: AP comes out too high"
    ),
    "category-unused": Rule("categories without an object", "fine", "gets no example to learn or to score it by"),
    "empty-image": Rule("images without an annotation", "fine", "leaves the image out; evaluation counts it"),
    "image-without-usable": Rule(
        "images whose objects are all left out", "fine", "leaves the image out; evaluation counts it"
    ),
    "no-masks": Rule("no object has a mask", "fine", "trains boxes only; a detector with a mask head is refused"),
}
"""Every kind, the gravest first."""


class Place(NamedTuple):
    """Where one finding is; what does not apply is None."""

    file: str | None = None
    annotation_id: Any = None
    detail: str = ""

    def __str__(self) -> str:
        named = [self.file, None if self.annotation_id is None else f"annotation {self.annotation_id}"]
        place = " ".join(part for part in named if part)
        return f"{place}: {self.detail}" if place and self.detail else place or self.detail


@dataclass
class SplitReport:
    """What was found in one split."""

    split: str
    annotation_file: str = ""
    images: int = 0
    objects: int = 0
    usable_images: int = 0
    usable_objects: int = 0
    masks: dict[str, int] = field(default_factory=dict)
    """Number of objects whose mask is ``polygons``, ``RLE``, ``absent`` or ``malformed``."""
    histogram: dict[str, int] = field(default_factory=dict)
    """Objects that training uses, by category name."""
    images_checked: bool = False
    findings: dict[str, list[Place]] = field(default_factory=dict)
    """Places by key of ``RULES``."""

    def add(self, rule: str, place: Place) -> None:
        """Note one more place of a kind of finding."""
        self.findings.setdefault(rule, []).append(place)

    @property
    def fatal(self) -> list[str]:
        """The kinds found that stop training."""
        return [rule for rule in RULES if rule in self.findings and RULES[rule].effect == "stops"]

    def as_json(self) -> dict[str, Any]:
        """Plain values, every place listed."""
        findings = {
            rule: {**RULES[rule]._asdict(), "places": [place._asdict() for place in self.findings[rule]]}
            for rule in RULES
            if rule in self.findings
        }
        return {**self.__dict__, "findings": findings, "fatal": self.fatal}
