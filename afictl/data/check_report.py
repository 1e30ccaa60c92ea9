"""Rules of the dataset check, with their effect on training, and the report of a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from afictl.control_characters import escape_control_characters

Effect: TypeAlias = Literal["stops", "drops", "mends", "fine"]


class Rule(NamedTuple):
    """One kind of finding."""

    title: str
    effect: Effect
    """``stops`` training, ``drops`` the object or image, ``mends`` it while reading, or is ``fine``."""
    consequence: str


RULES = {
    "annotation-file": Rule("annotation file not usable", "stops", "stops before the first step"),
    "malformed-record": Rule(
        "record without a required key, or with an invalid value", "stops", "stops: correct the file"
    ),
    "duplicate-category": Rule("category id occurs twice", "stops", "stops: give every category its own id"),
    "duplicate-name": Rule(
        "categories of the same name", "stops", "stops: classes are matched by name; give every category its own"
    ),
    "classes-differ": Rule(
        "category names differ from those of the training split", "stops", "stops: give both splits the same names"
    ),
    "duplicate-image": Rule("image id occurs twice", "stops", "stops: give every image its own id"),
    "duplicate-annotation": Rule("annotation id occurs twice", "stops", "stops: give every annotation its own id"),
    "unknown-image": Rule("object of an unknown image", "stops", "stops: add the image or remove the object"),
    "unknown-category": Rule("object of an unknown category", "stops", "stops: add the category or remove the object"),
    "boxes-implausible": Rule(
        "boxes that are not x, y, width, height in pixels", "stops", "stops before the first step: convert the boxes"
    ),
    "masks-implausible": Rule(
        "masks that do not belong to their boxes", "stops", "stops if masks are trained: correct or remove the masks"
    ),
    "no-usable-object": Rule("no object to train on", "stops", "stops before the first step"),
    "file-outside": Rule(
        "file_name outside the image folder", "stops", "stops: give file names relative to the image folder"
    ),
    "missing-file": Rule("image file missing", "stops", "stops: add the file or remove its record"),
    "unreadable-file": Rule("image file truncated or unreadable", "stops", "stops: replace the file"),
    "wrong-size": Rule("image size differs from its annotation", "stops", "stops at this image: correct its record"),
    "crowd": Rule("crowd objects", "drops", "leaves the object out; evaluation ignores detections on it"),
    "ignore": Rule(
        "objects flagged 'ignore'",
        "drops",
        "leaves the object out, as mmdetection does; COCO evaluation has no such flag and counts it: "
        "with iscrowd 1 it would ignore it",
    ),
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
        "treats the object as one without a mask: leaves it out when masks are trained",
    ),
    "mask-part-malformed": Rule(
        "mask of several polygons, of which one is not usable", "drops", "leaves that polygon out, and uses the others"
    ),
    "mask-empty": Rule(
        "mask without a pixel",
        "drops",
        "leaves the object out when masks are trained; evaluation counts it as missed, as COCO evaluation does",
    ),
    "mask-far": Rule(
        "mask far from the box of its object",
        "drops",
        "leaves the object out when masks are trained; evaluation uses the mask, as COCO evaluation does",
    ),
    "mask-flat": Rule("flat list of numbers instead of polygons", "mends", "reads the list as one polygon"),
    "mask-partly-outside": Rule("mask partly outside its image", "mends", "clips the mask to the image"),
    "unusual-flag": Rule(
        "flag that is NaN or text", "mends", "reads '1' and 'true' as set; '0', 'false', NaN and empty text as not set"
    ),
    "box-partly-outside": Rule("box partly outside its image", "mends", "clips the box to the image"),
    "exif-followed": Rule(
        "EXIF rotation, annotated as displayed", "mends", "rotates the pixels by the EXIF orientation"
    ),
    "exif-ignored": Rule(
        "EXIF rotation, annotated as stored", "mends", "ignores the EXIF orientation, as the boxes do"
    ),
    "exif-unclear": Rule(
        "EXIF orientation that keeps the image size",
        "mends",
        "follows the orientation, as nothing tells whether the boxes do; if they do not, remove the EXIF tag",
    ),
    "grey": Rule("grey images", "mends", "repeats grey as red, green and blue"),
    "cmyk": Rule("CMYK images", "mends", "converts to RGB"),
    "palette": Rule("palette images", "mends", "converts to RGB"),
    "transparent": Rule("images with transparency", "mends", "drops the transparency"),
    "several-frames": Rule("animations, and files of several pages", "mends", "reads the first frame or page"),
    "large-image": Rule(
        "images of more than 89 million pixels",
        "mends",
        "reduces the image to input.min_sizes, in which small objects vanish: cut it into tiles",
    ),
    "deep": Rule("images of 16 bits per channel", "mends", "scales to 8 bits"),
    "other-mode": Rule("images in another colour space", "mends", "converts to RGB"),
    "category-gaps": Rule("category ids with gaps", "fine", "numbers the classes 1..K and keeps the ids for results"),
    "difficult": Rule(
        "objects flagged 'difficult'",
        "fine",
        "uses the object like any other, as detectron2, mmdetection and COCO evaluation do in COCO files: "
        "with 'ignore' 1 training leaves it out",
    ),
    "category-ids-differ": Rule(
        "category ids differ from those of the training split", "fine", "matches the classes of the splits by name"
    ),
    "duplicate-file": Rule(
        "image file with several records", "fine", "treats every record as a separate image with its own objects"
    ),
    "file-in-train": Rule(
        "image file that is also in the training split", "fine", "trains and evaluates on it: AP is too high"
    ),
    "category-unused": Rule("categories without an object", "fine", "has no example of it to train or evaluate on"),
    "duplicate-object": Rule(
        "objects with the image, category and box of another",
        "fine",
        "uses every one; a detector finds one, so that evaluation counts the others as missed",
    ),
    "empty-image": Rule("images without an annotation", "fine", "leaves the image out; evaluation counts it"),
    "image-without-usable": Rule(
        "images whose objects are all left out", "fine", "leaves the image out; evaluation counts it"
    ),
    "crowded-image": Rule(
        "images of more than 100 objects",
        "fine",
        "trains on all; raise detector.max_detections, 100 in most presets; metrics count 100 of a class",
    ),
    "area-out-of-range": Rule(
        "area that is negative or infinite",
        "fine",
        "reads no area; evaluation leaves the object out of every range of areas, as COCO evaluation does",
    ),
    "areas-implausible": Rule(
        "areas that are not square pixels",
        "fine",
        "reads no area; evaluation assigns objects to APs, APm and APl by it: correct or remove 'area'",
    ),
    "boxes-in-one-part": Rule(
        "boxes in the upper left part of all images", "fine", "trains on the boxes as they are: look at a few of them"
    ),
    "no-masks": Rule("no object has a mask", "fine", "trains boxes only; a detector with a mask head is refused"),
}
"""All rules by key, the most severe first."""


class Location(NamedTuple):
    """Position of one finding; None where a field does not apply."""

    file: str | None = None
    annotation_id: object = None
    detail: str = ""

    def __str__(self) -> str:
        names = [self.file, None if self.annotation_id is None else f"annotation {self.annotation_id}"]
        location = " ".join(name for name in names if name)
        text = f"{location}: {self.detail}" if location and self.detail else location or self.detail
        return escape_control_characters(text)


@dataclass
class SplitReport:
    """Counts and findings of one split."""

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
    findings: dict[str, list[Location]] = field(default_factory=dict)
    """Locations by key of ``RULES``."""

    def add(self, rule: str, location: Location) -> None:
        """Add a finding."""
        self.findings.setdefault(rule, []).append(location)

    @property
    def fatal(self) -> list[str]:
        """Rules with findings that stop training."""
        return [rule for rule in RULES if rule in self.findings and RULES[rule].effect == "stops"]

    def as_json(self) -> dict[str, object]:
        """Plain values, with all locations."""
        findings = {
            rule: {**RULES[rule]._asdict(), "places": [location._asdict() for location in self.findings[rule]]}
            for rule in RULES
            if rule in self.findings
        }
        return {**self.__dict__, "findings": findings, "fatal": self.fatal}
