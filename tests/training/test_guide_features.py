"""Features of stage 1: finished levels, and the maps that a neck passes to its interpolator."""

import pytest
import torch
import torch.nn.functional as F

from afictl import build_interpolator, load_preset
from afictl.data import eval_batches, load_dataset
from afictl.detectors import build_detector
from afictl.interpolators import learned_kinds
from afictl.training.adversarial import PyramidInterpolator
from afictl.training.feature_distance import measure_feature_distance
from afictl.training.guide_features import enlarged_pairs, guide_maps
from tests.helpers.interpolator_options import OPTIONS
from tests.helpers.tiny_runs import SMALL


def build_guide(*settings):
    torch.manual_seed(0)
    preset = load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, *settings])
    return build_detector(preset, num_classes=2, interpolator="nearest").eval()


@pytest.fixture(scope="module")
def guide():
    return build_guide()


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return [torch.rand(3, 96, 64), torch.rand(3, 50, 120)]


def fpn_sums(guide, images):
    """Sums and laterals of an FPN with nearest interpolation, as its definition has them."""
    with torch.no_grad():
        features = guide.backbone(guide.batch(images).tensor)
        laterals = {f"p{i}": guide.neck.lateral_convs[f"p{i}"](features[f"res{i}"]) for i in range(2, 6)}
        sums = {"p5": laterals["p5"]}
        for fine, coarse in (("p4", "p5"), ("p3", "p4")):
            sums[fine] = laterals[fine] + F.interpolate(sums[coarse], scale_factor=2, mode="nearest")
    return sums, laterals


@torch.no_grad()
def test_levels_are_the_pyramid_with_the_next_finer_level(guide, images):
    pyramid, (maps, fine) = guide.pyramid(images), guide_maps(guide, images, "levels")
    assert list(maps) == ["p2", "p3", "p4", "p5", "p6"]
    torch.testing.assert_close(maps, pyramid)
    assert list(fine) == ["p3", "p4", "p5", "p6"]
    assert all(torch.equal(fine[f"p{i}"], pyramid[f"p{i - 1}"]) for i in range(3, 7))


@pytest.mark.parametrize("kind", ["fpn", "pafpn"])
@torch.no_grad()
def test_sums_are_the_maps_that_the_top_down_path_enlarges(kind, images):
    guide = build_guide(f"neck.kind={kind}")
    sums, laterals = fpn_sums(guide, images)
    maps, fine = guide_maps(guide, images, "sums")
    assert list(maps) == list(fine) == ["p3", "p4", "p5"]
    for i in (3, 4, 5):
        torch.testing.assert_close(maps[f"p{i}"], sums[f"p{i}"])
        torch.testing.assert_close(fine[f"p{i}"], laterals[f"p{i - 1}"])


@torch.no_grad()
def test_sums_of_a_bifpn_are_those_of_all_its_layers(images):
    guide = build_guide("neck={kind: bifpn, channels: 16, repeats: 2}")
    neck = guide.neck
    inputs, skips = neck.inputs(guide.backbone(guide.batch(images).tensor))
    maps, fine = guide_maps(guide, images, "sums")
    assert list(maps) == list(fine) == ["p4", "p5", "p6", "p7"]
    expected = {level: [] for level in maps}
    for layer in neck.layers:
        running = inputs["p7"]
        for level, finer in (("p7", "p6"), ("p6", "p5"), ("p5", "p4"), ("p4", "p3")):
            expected[level].append(running)
            running = layer.top_down[finer](inputs[finer], F.interpolate(running, scale_factor=2, mode="nearest"))
        inputs = skips = layer(inputs, skips, neck.interpolator)
    for level, values in expected.items():
        assert maps[level].shape[0] == 2 * len(images)
        torch.testing.assert_close(maps[level], torch.cat(values))
        assert fine[level].shape[2:] == tuple(2 * side for side in maps[level].shape[2:])


def test_pairs_of_several_layers_leave_the_padding_of_each_image_out():
    guide = build_guide("neck={kind: bifpn, channels: 16, repeats: 3}")
    full, half = [torch.rand(3, 256, 128), torch.rand(3, 128, 256)], [torch.rand(3, 128, 64), torch.rand(3, 64, 128)]
    with torch.no_grad():
        real, (coarse, _) = guide_maps(guide, full, "sums").maps, guide_maps(guide, half, "sums")
    fake = {level: value.repeat_interleave(2, 2).repeat_interleave(2, 3) for level, value in coarse.items()}
    pair = enlarged_pairs(guide, fake, real, full, half)["p4"]
    assert pair.fake.shape == pair.real.shape == (6, 16, 16, 16)
    for layer in range(3):
        assert pair.mask[2 * layer].nonzero().max(dim=0).values.tolist() == [0, 15, 7]
        assert pair.mask[2 * layer + 1].nonzero().max(dim=0).values.tolist() == [0, 7, 15]


def test_distance_on_sums_equals_that_of_hand_made_sums(guide, shapes_dir):
    held_out = load_dataset(shapes_dir, "val")
    distance = measure_feature_distance(
        guide,
        build_interpolator("carafe", 16),
        held_out,
        features="sums",
        limit=2,
        workers=0,
        progress=lambda done, total: None,
    )
    values: dict = {}
    for batch in eval_batches(held_out, guide.input, workers=0, limit=2, half_view=True):
        real, coarse = (fpn_sums(guide, images)[0] for images in (batch.images, batch.half_images))
        for level, target in real.items():
            fake = F.interpolate(coarse[level], scale_factor=2, mode="bilinear")
            values.setdefault(level, []).append((fake - target).abs().mean())
    assert list(distance["bilinear"]) == list(distance["carafe"]) == ["p3", "p4", "p5"]
    for level, terms in values.items():  # 64-pixel images fill their batch, so there is no padding
        assert distance["bilinear"][level]["l1"] == pytest.approx(float(torch.stack(terms).mean()), rel=1e-4)


def test_a_kind_that_needs_a_fine_map_gets_the_lateral_one(guide, shapes_dir):
    fade = build_interpolator("fade", 16)
    calls = []
    fade.register_forward_pre_hook(lambda _, maps: calls.append(maps))
    held_out = load_dataset(shapes_dir, "val")
    measure_feature_distance(
        guide, fade, held_out, features="sums", limit=1, workers=0, progress=lambda done, total: None
    )
    (batch,) = eval_batches(held_out, guide.input, workers=0, limit=1, half_view=True)
    sums, laterals = fpn_sums(guide, batch.half_images)
    for (coarse, fine), i in zip(calls, (3, 4, 5), strict=True):
        torch.testing.assert_close(coarse, sums[f"p{i}"])
        torch.testing.assert_close(fine, laterals[f"p{i - 1}"])


@pytest.mark.parametrize("kind", learned_kinds())
def test_every_kind_learns_from_the_sums_of_a_path_from_p6_with_steps(kind, images):
    guide = build_guide("neck.interpolators=per-step", "neck.top_down_from=p6")
    half = [F.interpolate(image[None], scale_factor=0.5)[0] for image in images]
    with torch.no_grad():
        real, (coarse, fine) = guide_maps(guide, images, "sums").maps, guide_maps(guide, half, "sums")
    assert list(real) == list(coarse) == list(fine) == ["p3", "p4", "p5", "p6"]
    interpolator = build_interpolator(kind, 16, **OPTIONS.get(kind, {}))
    pairs = enlarged_pairs(guide, PyramidInterpolator(interpolator)(coarse, fine), real, images, half)
    assert list(pairs) == list(real)
    for level, pair in pairs.items():
        gradients = torch.autograd.grad(
            (pair.fake - pair.real).mul(pair.mask).abs().sum(), list(interpolator.parameters()), retain_graph=True
        )
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert level == "p6" or any(gradient.any() for gradient in gradients)  # one position: all points see it


@pytest.mark.parametrize("settings", [(), ("neck.interpolators=per-step",)])
@torch.no_grad()
def test_sums_of_a_torchvision_model_are_those_of_its_pyramid(settings, images):
    """torchvision adds the enlarged map to the lateral one, and the output convolution comes after the sum."""
    torch.manual_seed(0)
    preset = load_preset("torchvision:retinanet_resnet50_fpn", ["backbone.pretrained=false", *settings])
    guide = build_detector(preset, num_classes=2, interpolator="nearest").eval()
    maps, fine = guide_maps(guide, images, "sums")
    levels, strides = guide.pyramid(images), guide.neck.strides
    assert list(maps) == list(fine) == ["p4", "p5"]
    blocks = guide.model.backbone.fpn.layer_blocks
    for block, level, finer in ((1, "p4", "p3"), (2, "p5", "p4")):
        torch.testing.assert_close(blocks[block](maps[level]), levels[level])
        finer_sum = fine[level] + F.interpolate(maps[level], size=fine[level].shape[-2:], mode="nearest")
        torch.testing.assert_close(blocks[block - 1](finer_sum), levels[finer])
        assert strides[level] == 2 * strides[finer]
