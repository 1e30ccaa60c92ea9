"""Every learned kind in each neck, under autocast and torch.compile, in files and in cost tables."""

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

from afictl import build_detector, build_interpolator, load_preset, substitute_interpolator
from afictl.detectors import model_cost
from afictl.interpolators import learned_kinds
from afictl.necks import build_neck, input_levels
from afictl.presets import BiFPNConfig, FPNConfig, PAFPNConfig
from afictl.weights import load_detector, load_interpolator, save_detector
from tests.helpers.backbone_maps import NARROW, features
from tests.helpers.interpolator_options import FEW_KINDS, OPTIONS

NECKS = {
    "fpn": FPNConfig(channels=8),
    "pafpn": PAFPNConfig(channels=8),
    "bifpn": BiFPNConfig(channels=8, repeats=1),
}
COMPILED = ("afi", "carafe", "dysample")
"""Kinds of different structure, which are compiled in every run of the tests; the others in the slow one."""
EVERY_KIND = pytest.mark.parametrize("kind", learned_kinds())


def build(kind, channels=8):
    torch.manual_seed(0)
    return build_interpolator(kind, channels, **OPTIONS.get(kind, {}))


@EVERY_KIND
@pytest.mark.parametrize("neck", ["fpn", "pafpn", "bifpn"])
@pytest.mark.parametrize(
    ("precision", "size"),
    [
        pytest.param("float32", (133, 171), id="float32-odd"),
        pytest.param("bfloat16", (160, 192), id="bfloat16-even"),
        pytest.param("float32", (160, 192), id="float32-even", marks=pytest.mark.slow),
        pytest.param("bfloat16", (133, 171), id="bfloat16-odd", marks=pytest.mark.slow),
    ],
)
def test_every_parameter_has_a_gradient_in_every_neck(kind, neck, precision, size):
    interpolator = build(kind)
    config = NECKS[neck]
    pyramid = build_neck(config, NARROW, interpolator)
    maps = features({level: NARROW[level] for level in input_levels(config)}, *size, images=2)
    maps = {level: value.requires_grad_() for level, value in maps.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        levels = pyramid(maps)
    assert {str(value.dtype) for value in levels.values()} == {f"torch.{precision}"}
    sum((value.float() * torch.randn(value.shape)).sum() for value in levels.values()).backward()
    for name, parameter in interpolator.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), name
    assert all(value.grad.isfinite().all() and value.grad.any() for value in maps.values())


@pytest.mark.parametrize("kind", FEW_KINDS)
@pytest.mark.parametrize("neck", ["fpn", "pafpn", "bifpn"])
def test_training_reduces_the_loss_in_every_neck(kind, neck):
    interpolator = build(kind)
    config = NECKS[neck]
    pyramid = build_neck(config, NARROW, interpolator)
    maps = features({level: NARROW[level] for level in input_levels(config)}, 133, 171, images=2)
    with torch.no_grad():
        teacher = build_neck(config, NARROW, build_interpolator("nearest", 8))
        targets = {level: value.roll(1, -1) for level, value in teacher(maps).items()}
    optimizer, losses = torch.optim.Adam(interpolator.parameters(), lr=3e-3), []
    for _ in range(12):
        loss = sum((value - targets[level]).square().mean() for level, value in pyramid(maps).items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[6] < losses[0]


@pytest.mark.parametrize("neck", ["fpn", "pafpn", "bifpn", "torchvision", "detectron2"])
@torch.no_grad()
def test_fine_map_is_the_lateral_one_before_the_sum(neck):
    """The level's lateral map, which FADE's and SAPA's authors use; the enlarged map is cropped to its size."""
    recorder, maps = Recorder(), features(NARROW, 133, 171, images=2)
    laterals = run_pyramid(neck, recorder, maps)
    assert len(recorder.calls) == len(laterals) >= 3
    for (coarse, fine), lateral in zip(recorder.calls, laterals, strict=True):
        assert torch.equal(fine, lateral)
        assert [
            2 * side - fine_side in (0, 1) for side, fine_side in zip(coarse.shape[2:], fine.shape[2:], strict=True)
        ]
    assert any(fine.shape[2] % 2 for _, fine in recorder.calls)


class Recorder(torch.nn.Module):
    """Nearest interpolation that records its arguments."""

    channels = 8

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, coarse, fine):
        self.calls.append((coarse, fine.clone()))
        return torch.nn.functional.interpolate(coarse, scale_factor=2.0)


def run_pyramid(neck, recorder, maps):
    """Run the pyramid around ``recorder`` on the backbone's ``maps`` and return the lateral maps, coarsest first."""
    if neck == "torchvision":
        fpn = FeaturePyramidNetwork(list(NARROW.values()), 8)
        substitute_interpolator(fpn, recorder)
        fpn(maps)
        return [fpn.inner_blocks[i](maps[f"res{i + 2}"]) for i in (2, 1, 0)]
    if neck == "detectron2":
        fpn = detectron2_fpn(maps)
        substitute_interpolator(fpn, recorder)
        fpn(None)
        return [conv(maps[f"res{4 - i}"]) for i, conv in enumerate(fpn.lateral_convs[1:])]
    config = NECKS[neck]
    pyramid = build_neck(config, NARROW, recorder).eval()
    pyramid(maps)
    if neck == "bifpn":
        return [pyramid.inputs(maps)[0][level] for level in ("p6", "p5", "p4", "p3")]
    return [pyramid.lateral_convs[f"p{i}"](maps[f"res{i}"]) for i in (4, 3, 2)]


def detectron2_fpn(maps):
    pytest.importorskip("detectron2")
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import FPN, Backbone

    class Maps(Backbone):
        def forward(self, _):
            return maps

        def output_shape(self):
            return {f"res{i}": ShapeSpec(channels=NARROW[f"res{i}"], stride=2**i) for i in range(2, 6)}

    return FPN(Maps(), list(maps), 8)


@EVERY_KIND
def test_gradient_reaches_both_maps(kind):
    coarse, fine = torch.randn(1, 8, 3, 4, requires_grad=True), torch.randn(1, 8, 5, 7, requires_grad=True)
    build(kind)(coarse, fine).square().sum().backward()
    assert coarse.grad.any()
    assert (fine.grad is not None) == build(kind).needs_fine


@EVERY_KIND
def test_autocast_changes_little(kind):
    interpolator, coarse, fine = build(kind), torch.randn(1, 8, 5, 6), torch.randn(1, 8, 9, 12)
    with torch.no_grad():
        exact = interpolator(coarse, fine)
        with torch.autocast("cpu", torch.bfloat16):
            rough = interpolator(coarse.bfloat16(), fine.bfloat16())
        half = interpolator.bfloat16()(coarse.bfloat16(), fine.bfloat16())
    assert rough.dtype == half.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.04, rtol=0)
    torch.testing.assert_close(half.float(), exact, atol=0.04, rtol=0)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pytest.param(kind, backend, marks=[] if backend == "aot_eager" and kind in COMPILED else pytest.mark.slow)
        for backend in ("aot_eager", "inductor")
        for kind in learned_kinds()
    ],
)
def test_every_kind_compiles(kind, backend):
    torch._dynamo.reset()
    interpolator = build(kind)
    compiled = torch.compile(interpolator, backend=backend, fullgraph=True, dynamic=False)
    coarse, fine = torch.randn(1, 8, 3, 4, requires_grad=True), torch.randn(1, 8, 5, 7)
    expected, actual = interpolator(coarse, fine), compiled(coarse, fine)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), coarse) for x in (actual, expected)))


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    preset = load_preset("faster-rcnn-r18-fpn-tiny", ["neck.channels=8", "detector.fc_width=8"])
    return build_detector(preset, num_classes=2, interpolator="nearest")


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_detector_file_restores_kind_options_and_weights(kind, detector, tmp_path):
    interpolator = build(kind)
    assert substitute_interpolator(detector, interpolator) == 3
    file = tmp_path / "detector.safetensors"
    save_detector(file, detector, {"classes": ["a", "b"], "category_ids": [1, 2], "step": 1, "metrics": {}})
    loaded = load_detector(file).detector.neck.interpolator
    for module in (loaded, load_interpolator(file)):
        assert (module.kind, module.options) == (kind, interpolator.options)
        assert interpolator.options.items() >= OPTIONS.get(kind, {}).items()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = detector.eval().neck(detector.backbone(image))
        detector.neck.interpolator = loaded
        torch.testing.assert_close(detector.neck(detector.backbone(image)), expected)


@EVERY_KIND
def test_cost_is_counted_with_the_fine_map(kind):
    with torch.device("meta"):
        preset = load_preset("faster-rcnn-r18-fpn-tiny", ["neck.channels=8", "detector.fc_width=8"])
        detector = build_detector(preset, num_classes=2, interpolator=build(kind))
    part = next(cost for cost in model_cost(detector, (64, 96)) if cost.name == "interpolator")
    assert part.parameters == sum(p.numel() for p in build(kind).parameters())
    assert part.multiply_adds > 0
