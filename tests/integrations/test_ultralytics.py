"""The real package, where it is installed."""

import pytest
import torch

from tests.helpers.substitution_checks import CHECKS, Case, build, substitute

pytestmark = pytest.mark.ultralytics
tasks = pytest.importorskip("ultralytics.nn.tasks")

IMAGES = (torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)),)


def case(file, *steps, model=tasks.DetectionModel):
    return Case(lambda: model(file, verbose=False), IMAGES, list(steps))


CASES = {
    "YOLOv8": case("yolov8n.yaml", ("model.10", 256), ("model.13", 128)),
    "YOLO11": case("yolo11n.yaml", ("model.11", 256), ("model.14", 128)),
    "YOLO26": case("yolo26n.yaml", ("model.11", 256), ("model.14", 128)),
    "RT-DETR": case("rtdetr-l.yaml", ("model.13", 256), ("model.18", 256), model=tasks.RTDETRDetectionModel),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", CASES)
def test_model_with_interpolators(name, check):
    CHECKS[check](CASES[name])


def test_fused_model_computes_nearly_the_same():
    model = build(CASES["YOLO11"])
    substitute(model, CASES["YOLO11"])
    with torch.no_grad():
        before = model(*IMAGES)[0]
        after = model.fuse(verbose=False)(*IMAGES)[0]
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-3)
