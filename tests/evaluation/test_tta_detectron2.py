"""Test-time augmentation of detectron2's models: against detectron2's, and one view against plain detection."""

import pytest
import torch

from afictl.data.transforms import resize_for, view
from afictl.detectors import build_detector, to_original
from afictl.evaluation.tta import TestTimeAugmentation as Augmentation
from afictl.evaluation.tta import detect_augmented
from tests.evaluation.test_tta import photo
from tests.helpers.detectron2_presets import ZOO, small_preset

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

SIZE = 120, 150


@torch.no_grad()
def build(tmp_path, kind):
    """An untrained model whose boxes and masks differ from view to view."""
    detector = build_detector(small_preset(tmp_path, kind, "input.test_size=96"), 3, "nearest")
    generator = torch.Generator().manual_seed(0)
    for name, value in detector.named_parameters():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        if name.endswith("stem.conv1.weight"):
            value.mul_(detector.preset.input.std[0])
    return detector.eval()


def config(tmp_path, kind, *pairs):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / f"{kind}.yaml"))
    cfg.merge_from_list([*pairs, "MODEL.ROI_HEADS.NUM_CLASSES", 3])
    return cfg


def view_mapper(image, augmentation):
    """A mapper for detectron2's class that resizes as afictl does: detectron2 uses Pillow, which rounds differently."""
    from detectron2.data.transforms import HFlipTransform, NoOpTransform, ResizeTransform, TransformList

    def mapper(_):
        views = []
        for height, width in augmentation.sizes(SIZE):
            for flip in augmentation.flips:
                steps = [ResizeTransform(*SIZE, height, width), HFlipTransform(width) if flip else NoOpTransform()]
                pixels = view(image, (height, width), flip).flip(0)
                views.append({"image": pixels, "height": height, "width": width, "transforms": TransformList(steps)})
        return views

    return mapper


@torch.no_grad()
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("kind", ["mask", "cascade", "gn"])
def test_detections_equal_those_of_detectron2(tmp_path, kind, flip):
    from detectron2.modeling import GeneralizedRCNNWithTTA

    detector, image = build(tmp_path, kind), photo(*SIZE)
    augmentation = Augmentation((64, 96, 128), 400, flip)
    reference = GeneralizedRCNNWithTTA(
        config(tmp_path, kind), detector.model, view_mapper(image, augmentation), len(augmentation.flips)
    )
    (output,) = reference([{"image": image.flip(0), "height": SIZE[0], "width": SIZE[1]}])
    expected, detection = output["instances"], detect_augmented(detector, image, augmentation)
    assert len(detection["boxes"]) == len(expected) == 9
    assert torch.equal(detection["labels"], expected.pred_classes + 1)
    torch.testing.assert_close(detection["boxes"], expected.pred_boxes.tensor, rtol=0, atol=1e-3)
    torch.testing.assert_close(detection["scores"], expected.scores, rtol=0, atol=1e-5)
    masks = detector.paste_masks(detection["mask_probs"], detection["boxes"], SIZE)
    assert (masks != expected.pred_masks).sum(dim=(1, 2)).max() <= 3  # border pixels
    assert masks.sum() > 1000


@pytest.mark.parametrize("size_hw", [(480, 640), (640, 427), (101, 999), (333, 500)])
def test_views_equal_those_of_detectron2(tmp_path, size_hw):
    from detectron2.modeling.test_time_augmentation import DatasetMapperTTA

    small_preset(tmp_path, "mask")
    record = {"image": torch.zeros(3, *size_hw, dtype=torch.uint8), "height": size_hw[0], "width": size_hw[1]}
    shapes = [tuple(item["image"].shape[1:]) for item in DatasetMapperTTA(config(tmp_path, "mask"))(record)]
    assert list(dict.fromkeys(shapes)) == Augmentation().sizes(size_hw)
    assert len(shapes) == 2 * len(Augmentation().min_sizes)


@torch.no_grad()
@pytest.mark.parametrize("kind", list(ZOO))
def test_one_view_of_the_test_size_equals_plain_detection(tmp_path, kind):
    detector, image = build(tmp_path, kind), photo(*SIZE)
    resized = resize_for(detector.input, image)
    expected = to_original(detector.detect([resized])[0], tuple(resized.shape[1:]), SIZE)
    detection = detect_augmented(detector, image, Augmentation((96,), detector.input.max_size, flip=False))
    assert detection.keys() == expected.keys()
    assert ("mask_probs" in detection) == (kind != "retinanet")
    assert len(detection["boxes"]) == 9
    for key, value in expected.items():
        torch.testing.assert_close(detection[key], value, rtol=0, atol=1e-3 if key == "boxes" else 1e-4)


@pytest.mark.parametrize("kind", ["mask", "retinanet"])
def test_no_detections_are_empty_tensors(tmp_path, kind):
    preset = small_preset(tmp_path, kind, "detector.score_threshold=1.0")
    detection = detect_augmented(build_detector(preset, 3).eval(), photo(), Augmentation((64, 96)))
    assert {len(value) for value in detection.values()} == {0}
    assert kind == "retinanet" or detection["mask_probs"].shape == (0, 28, 28)
