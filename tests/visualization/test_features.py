"""Enlarged features: distances equal to stage 1's, maps of the image."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from afictl.data import load_dataset
from afictl.data.transforms import half_size, resize_for, to_float
from afictl.data.transforms import view as resized_view
from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator, build_interpolator
from afictl.presets import load_preset
from afictl.training.feature_distance import measure_feature_distance
from afictl.visualization import dataset_pictures, feature_figures, file_pictures
from afictl.visualization.level_features import enlarge_levels, pyramid_and_fine

SIZE = 90  # odd halves


@pytest.fixture(scope="module")
def guide():
    torch.manual_seed(0)
    settings = [f"input.min_sizes=[{SIZE}]", f"input.test_size={SIZE}", "input.max_size=140"]
    return build_detector(
        load_preset("faster-rcnn-r18-fpn-tiny", settings), num_classes=4, interpolator="nearest"
    ).eval()


@pytest.fixture(scope="module")
def methods():
    torch.manual_seed(1)
    fixed = {kind: build_interpolator(kind, 64) for kind in ("nearest", "bilinear", "bicubic")}
    return {**fixed, "afi": AFInterpolator(64)}


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("wide", (127, 61)), ("tall", (60, 92))):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return file_pictures([tmp_path])


@pytest.mark.parametrize(("features", "levels"), [("levels", "p2 p3 p4 p5 p6"), ("sums", "p3 p4 p5")])
def test_distances_equal_those_of_stage_1(guide, methods, shapes_dir, monkeypatch, features, levels):
    stage1 = guide.preset.stage1.model_copy(update={"features": features})
    monkeypatch.setattr(guide, "preset", guide.preset.model_copy(update={"stage1": stage1}))
    index = load_dataset(shapes_dir, "val")
    expected = measure_feature_distance(
        guide, methods["afi"], index, features=features, limit=2, workers=0, progress=lambda done, total: None
    )
    methods["afi"].eval()
    views = [
        {view.level: view for view in enlarge_levels(guide, methods, picture.read(), [])}
        for picture in dataset_pictures(index, 2)
    ]
    for name in methods:
        assert list(expected[name]) == list(views[0]) == levels.split()
        for level, distance in expected[name].items():
            positions = [view[level].target[0].numel() for view in views]
            for measure in ("l1", "cosine"):
                values = [view[level].distance[name][measure] for view in views]
                assert np.average(values, weights=positions) == pytest.approx(distance[measure], rel=1e-5)


def test_sums_of_a_level_that_the_neck_does_not_enlarge_are_an_error(pictures):
    preset = load_preset("faster-rcnn-r18-fpn-tiny", ["stage1.features=sums"])
    guide = build_detector(preset, num_classes=2, interpolator="nearest").eval()
    methods = {"nearest": build_interpolator("nearest", 64)}
    with pytest.raises(UserError, match=r"--levels p2: .*p3, p4, p5$"):
        next(feature_figures(guide, methods, pictures, ["p2", "p3"]))
    figure = next(feature_figures(guide, methods, pictures))
    assert [panel.title for panel in figure.panels if "target" in panel.title] == [f"p{i}, target" for i in (3, 4, 5)]


def test_errors_are_the_mean_absolute_difference_to_the_target(guide, methods, pictures):
    for picture in pictures:
        for view in enlarge_levels(guide, methods, picture.read(), ["p2", "p4"]):
            for name, value in view.enlarged.items():
                torch.testing.assert_close(view.error[name], (value - view.target).abs().mean(dim=0))
            h, w = view.target.shape[1:]
            assert view.coarse.shape[1:] == ((h + 1) // 2, (w + 1) // 2)
            nearest = view.coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :h, :w]
            torch.testing.assert_close(view.enlarged["nearest"], nearest)


def test_a_figure_has_a_row_a_level_with_distances(guide, methods, pictures):
    figure, _ = feature_figures(guide, methods, pictures, ["p4", "p3"])
    assert figure.name == "tall-features"
    assert figure.columns == 11
    assert len(figure.panels) == 2 * 11 + 1
    assert figure.panels[-1].title == "image"
    assert [panel.title for panel in figure.panels[:6]] == [
        "p3, half-size image",
        *(f"p3, {name}" for name in methods),
        "p3, target",
    ]
    assert len({panel.picture.size for panel in figure.panels if "scale" not in panel.title}) == 1
    (view, _) = enlarge_levels(guide, methods, pictures[0].read(), ["p3", "p4"])
    numbers = view.distance["bilinear"]
    assert figure.panels[7].note == f"L1 {numbers['l1']:.3f}   cosine {numbers['cosine']:.3f}"
    assert figure.draw().width > 11 * figure.panels[0].picture.width


def test_a_figure_of_many_methods_has_two_rows_a_level(guide, methods, pictures):
    figure = next(feature_figures(guide, {**methods, "other": methods["nearest"]}, pictures, ["p4", "p3"]))
    assert figure.columns == 7
    assert len(figure.panels) == 2 * 2 * 7 + 1
    assert [panel.title for panel in figure.panels[14::7]] == ["p4, half-size image", "error of nearest", "image"]


def test_nearest_has_the_colours_of_the_coarse_map(guide, methods, pictures):
    """Equal features have equal colours."""
    figure = next(feature_figures(guide, methods, pictures[1:], ["p2"]))
    coarse, nearest = (np.asarray(figure.panels[i].picture) for i in (0, 1))
    assert (coarse == nearest).all(axis=2).mean() > 0.9  # an odd map ends before the coarse square does


@pytest.mark.parametrize(
    ("kind", "channels", "levels", "fact"),
    [
        ("nearest", 64, ["p1"], "--levels p1:"),
        ("afi", 32, [], "x .*32 .*64"),
        ("nearest", 64, ["p2", ""], "--levels '': .*p2"),
        ("nearest", 64, ["p3", "p2", "p3"], "--levels: p3 "),
        ("fade", 64, ["p6", "p2"], "x: .*p2, p6.*--levels"),
    ],
)
def test_unsuitable_levels_and_interpolators_are_errors(guide, pictures, kind, channels, levels, fact):
    with pytest.raises(UserError, match=fact):
        next(feature_figures(guide, {"x": build_interpolator(kind, channels)}, pictures, levels))


def test_finer_maps_are_used_where_the_neck_has_them(guide, pictures):
    methods = {kind: build_interpolator(kind, 64) for kind in ("fade", "nearest", "sapa")}
    figure, _ = feature_figures(guide, methods, pictures)
    assert [panel.title for panel in figure.panels[:4]] == [
        "p2, half-size image",
        "p2, fade",
        "p2, nearest",
        "p2, sapa",
    ]
    missing = [panel.title for panel in figure.panels if panel.note == "no finer map"]
    assert missing == [
        *("p2, fade", "p2, sapa", "error of fade", "error of sapa"),
        *("p6, fade", "p6, sapa", "error of fade", "error of sapa"),
    ]
    assert re.search("fade, sapa: .* p2, p6,", figure.text)
    (figure, _) = feature_figures(guide, {"fade": methods["fade"]}, pictures)
    assert {panel.title[:2] for panel in figure.panels if "target" in panel.title} == {"p3", "p4", "p5"}


def test_fade_gets_the_lateral_map_of_the_half_size_image(guide, pictures):
    fade = build_interpolator("fade", 64).eval()
    image = pictures[0].read()
    full = resize_for(guide.input, image)
    half = to_float(resized_view(image, half_size(full.shape[1:]), flip=False))
    with torch.no_grad():
        lateral = guide.neck.lateral_convs["p2"](guide.backbone(guide.batch([half]).tensor)["res2"])
        expected = fade(guide.pyramid([half])["p3"], lateral)
    (features,) = enlarge_levels(guide, {"fade": fade}, image, ["p3"])
    h, w = features.target.shape[1:]
    torch.testing.assert_close(features.enlarged["fade"], expected[0, :, :h, :w])


@pytest.mark.parametrize(
    ("preset", "levels"),
    [
        ("faster-rcnn-r18-fpn-tiny", ["p3", "p4", "p5"]),
        ("mask-rcnn-r18-pafpn-tiny", ["p3", "p4", "p5"]),
        ("retinanet-r18-fpn-tiny", ["p4", "p5"]),
        ("faster-rcnn-r18-bifpn-tiny", ["p4", "p5", "p6", "p7"]),
        ("torchvision:fcos_resnet50_fpn", ["p4", "p5"]),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (90, 61), (200, 140)])
def test_finer_maps_of_a_neck_have_twice_the_size(preset, levels, size):
    guide = build_detector(load_preset(preset), num_classes=2, interpolator="bilinear").eval()
    pyramid, fine = pyramid_and_fine(guide, torch.zeros(3, *size))
    assert sorted(fine) == levels
    for level, value in fine.items():
        assert value.shape[-2:] == torch.Size(2 * side for side in pyramid[level].shape[-2:])
    assert not guide.neck.interpolator._forward_pre_hooks


def test_finer_maps_of_a_bifpn_are_inputs_of_its_last_layer():
    torch.manual_seed(0)
    preset = load_preset("faster-rcnn-r18-bifpn-tiny", ["neck.repeats=3"])
    guide = build_detector(preset, num_classes=2, interpolator="nearest").eval()
    image = torch.rand(3, 60, 90)
    layer_inputs = []
    guide.neck.layers[-1].register_forward_pre_hook(lambda _, inputs: layer_inputs.append(inputs[0]))
    _, fine = pyramid_and_fine(guide, image)
    for level, finer in (("p4", "p3"), ("p5", "p4"), ("p6", "p5"), ("p7", "p6")):
        torch.testing.assert_close(fine[level], layer_inputs[0][finer], rtol=0, atol=0)
