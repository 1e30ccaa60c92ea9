"""Models of the structure of mmdetection, ultralytics and detectron2, which are not installed for the tests."""

import pytest
import torch

from tests.helpers.substitution_checks import CHECKS, Case, build, substitute
from tests.helpers.upsampling_models import ConcatPyramid, Everything, LayerList, SemanticHead, TopDownPyramid, maps

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
CASES = {
    "mmdetection FPN": Case(TopDownPyramid, (maps((8, 12, 16)),), [("", 8), ("", 8)]),
    "mmdetection PAFPN": Case(lambda: TopDownPyramid(bottom_up=True), (maps((8, 12, 16)),), [("", 8), ("", 8)]),
    "mmdetection YOLOX, RTMDet": Case(ConcatPyramid, (maps((8, 12, 16)),), [("upsample", 12), ("upsample", 8)]),
    "ultralytics": Case(LayerList, (IMAGES,), [("model.3", 16), ("model.6", 8)]),
    "detectron2 semantic FPN": Case(
        SemanticHead, (maps((8, 8, 8)),), [("p3.1", 16), ("p4.1", 16), ("p4.3", 16)], ("",)
    ),
    "everything": Case(Everything, (IMAGES,), [("up", 8), ("", 8)], ("pool", "learned", "shuffle", "", "")),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_model_with_interpolators(case, check):
    CHECKS[check](CASES[case])


def test_layers_of_ultralytics_keep_their_attributes():
    model = build(CASES["ultralytics"])
    attributes = [(layer.i, layer.f, layer.type, layer.np) for layer in model.model]
    substitute(model, CASES["ultralytics"])
    assert [(layer.i, layer.f, layer.type, layer.np) for layer in model.model] == attributes
    assert all(isinstance(model.model[index], torch.nn.Upsample) for index in (3, 6))
