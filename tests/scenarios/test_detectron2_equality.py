"""Equal detections of detectron2's models, of afictl's adapters of these models, and of afictl's detectors with the
converted weights, in photographs.

The weights are those of the reference numbers (``tests.helpers.golden_files``), which spread the scores.
"""

import functools
from dataclasses import dataclass, field

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from afictl import build_detector, load_preset
from afictl.data import load_dataset
from afictl.data.images import read_image
from afictl.presets import parse_preset
from afictl.weights import load_detector
from tests.helpers.golden_files import H_FULL, apply_rule_h

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

# The factor for softmax scores would drive all sigmoids to 1.
SIGMOIDS = {**H_FULL, r"cls_score\.weight$": 1.5}
FEW = {"detector.max_detections": ("TEST.DETECTIONS_PER_IMAGE", 30)}  # for speed
FEW_REGIONS = {**FEW, "detector.proposals_test": ("MODEL.RPN.POST_NMS_TOPK_TEST", 200)}


@dataclass(frozen=True)
class Case:
    config: str
    keys: str
    """List in ``golden/keys``."""
    factors: dict[str, float] = field(default_factory=lambda: H_FULL)
    settings: dict[str, tuple[str, int]] = field(default_factory=lambda: FEW_REGIONS)
    """Key of a preset -> detectron2's and the value of both."""

    @property
    def overrides(self):
        return [f"{key}={value}" for key, (_, value) in self.settings.items()]


FCOS = Case(
    "COCO-Detection/fcos_R_50_FPN_1x.py",
    "d2_fcos_R50_FPN_1x",
    {**SIGMOIDS, r"bbox_pred\.weight$": 4.0},  # distances in strides
    {"detector.max_detections": ("max_detections_per_image", 30)},
)
ADAPTED = {
    "mask": Case("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "d2_mask_rcnn_R50_FPN_3x"),
    "cascade": Case("Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml", "d2_cascade_mask_rcnn_R50_FPN_3x"),
    "retinanet": Case("COCO-Detection/retinanet_R_50_FPN_3x.yaml", "d2_retinanet_R50_FPN_3x", SIGMOIDS, FEW),
}
IMPORTED = {**ADAPTED, "fcos": FCOS}


@pytest.fixture(scope="module")
def photographs(shared_data):
    """Three photographs, uint8 (3, h, w), short side 256."""
    index = load_dataset(shared_data / "coco-mini", "val")
    return [resize(read_image(index.image_path(i)), [256]) for i in range(3)]


@pytest.fixture(scope="module")
def original(photographs):
    """A cached function from the name of a case to the weights of detectron2's model and its detections."""

    @functools.cache
    @torch.no_grad()
    def detect(name):
        model = build_detectron2_model(IMPORTED[name])
        return model.state_dict(), [model([{"image": photo.flip(0)}])[0]["instances"] for photo in photographs]

    return detect


def build_detectron2_model(case):
    from detectron2 import model_zoo
    from detectron2.config import instantiate
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config(case.config)
    if case.config.endswith(".py"):
        cfg.model.update(dict(case.settings.values()))
        model = instantiate(cfg.model)
    else:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", *(item for pair in case.settings.values() for item in pair)])
        model = build_model(cfg)
    apply_rule_h(model, lambda name: name, case.keys, case.factors)
    return model.eval()


@pytest.mark.parametrize("name", ADAPTED)
def test_adapted_models_give_the_same_detections(name, original, photographs):
    weights, instances = original(name)
    detector = build_detector(load_preset(f"detectron2:{ADAPTED[name].config}", ADAPTED[name].overrides)).eval()
    missing, unexpected = detector.model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"loss_normalizer"}
    assert_same(detector, photographs, instances)


@pytest.mark.parametrize("name", IMPORTED)
def test_afictl_detectors_with_converted_weights_give_the_same_detections(name, original, photographs, tmp_path):
    weights, instances = original(name)
    torch.save({"model": weights, "iteration": 1}, tmp_path / "model_final.pth")
    loaded = load_detector(tmp_path / "model_final.pth")
    preset = parse_preset(loaded.preset.model_dump(), IMPORTED[name].overrides)
    assert preset.detector.kind != "detectron2"
    detector = build_detector(preset, len(loaded.classes)).eval()
    detector.load_state_dict(loaded.detector.state_dict())
    assert_same(detector, photographs, instances)


@torch.no_grad()
def assert_same(detector, photographs, instances):
    for image, expected in zip(photographs, instances, strict=True):
        (detections,) = detector([image.float() / 255])
        boxes, labels, scores = expected.pred_boxes.tensor, expected.pred_classes + 1, expected.scores
        assert len(detections["boxes"]) == len(boxes) >= 20
        # Detections of nearly equal scores may be in another order.
        distances = (boxes[:, None] - detections["boxes"]).abs().amax(dim=2)
        distances[labels[:, None] != detections["labels"]] = torch.inf
        nearest = distances.argmin(dim=1)
        assert sorted(nearest.tolist()) == list(range(len(boxes)))
        assert distances.amin(dim=1).max() < 0.05
        assert (detections["scores"][nearest] - scores).abs().max() < 1e-4
        assert ("masks" in detections) == expected.has("pred_masks")
        if "masks" in detections:
            differing = (detections["masks"][nearest] != expected.pred_masks).sum(dim=(1, 2))
            assert differing.max() <= 3  # border pixels
            assert expected.pred_masks.any()
