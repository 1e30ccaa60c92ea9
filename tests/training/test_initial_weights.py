"""Initial weights of a detector from every kind of source."""

import pytest
import torch

from afictl import AFInterpolator, UserError, build_detector, load_preset
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    resolve_interpolator,
)
from afictl.weights import load_detector, read_checkpoint
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.tiny_runs import SMALL


@pytest.fixture(scope="module")
def resnet():
    """A preset with a backbone that detectron2 has too."""
    return load_preset("mask-rcnn-r18-fpn-tiny", [*SMALL, "backbone.name=resnet18"])


def build(preset, source="nearest", num_classes=4, seed=1):
    preset, interpolator = resolve_interpolator(preset, source, seed)
    return build_seeded_detector(preset, interpolator, num_classes, seed)


def with_channels(preset, channels):
    return preset.model_copy(update={"neck": preset.neck.model_copy(update={"channels": channels})})


def small_interpolator():
    return AFInterpolator(16, blocks=1, growth=4)


def test_random_weights_depend_on_the_seed_alone_but_for_the_interpolator(preset):
    states = {}
    for kind in ("nearest", "bilinear", "afi"):
        state = build(preset, kind, seed=3).state_dict()
        states[kind] = {name: value for name, value in state.items() if not name.startswith("neck.interpolator.")}
    for kind in ("bilinear", "afi"):
        assert states[kind].keys() == states["nearest"].keys()
        assert all(torch.equal(states[kind][name], value) for name, value in states["nearest"].items())


def test_weights_of_another_detector_keep_the_requested_interpolator(preset, guide_run):
    detector = build(preset, "afi")
    interpolator = detector.neck.interpolator
    before = {name: value.clone() for name, value in interpolator.state_dict().items()}
    load_initial_weights(detector, InitialWeights("afi", weights=guide_run))
    state = detector.state_dict()
    assert all(torch.equal(state[name], value) for name, value in read_checkpoint(guide_run).tensors.items())
    assert all(torch.equal(interpolator.state_dict()[name], value) for name, value in before.items())


def test_a_requested_interpolator_replaces_that_of_the_weights(resnet, foreign, tmp_path):
    requested = small_interpolator()
    requested.save(tmp_path / "interpolator.safetensors")
    for source, expected in (
        (str(tmp_path / "interpolator.safetensors"), requested),
        (None, foreign[0].neck.interpolator),
    ):
        detector = build(resnet, source)
        load_initial_weights(detector, InitialWeights(source, weights=foreign[1]))
        assert torch.equal(detector.neck.interpolator.head.weight, expected.head.weight)


@pytest.mark.parametrize("kind", ["mask-rcnn", "retinanet", "fcos"])
def test_class_layers_are_replaced_for_other_classes_of_the_same_number(kind, tmp_path):
    """The layers that would be replaced for another number of classes, and no others."""
    settings = [setting for setting in SMALL if kind == "mask-rcnn" or not setting.startswith("detector.")]
    preset = load_preset(f"{kind}-r18-fpn-tiny", settings)
    source, path = build(preset, seed=2), tmp_path / "weights.pth"
    torch.save({"model": source.state_dict(), "names": ["a", "b", "c", "d"]}, path)
    shapes = build(preset, num_classes=5).state_dict()
    for classes, reason in (
        (("a", "b", "c", "d"), ""),
        (("a", "b", "c", "e"), "has no e and the data have no d (if they are only renamed"),
        (("b", "a", "c", "d"), "has them in another order:"),
    ):
        loads = not reason
        detector = build(preset)
        lines = load_initial_weights(detector, InitialWeights("nearest", weights=path), classes)
        for name, value in source.state_dict().items():
            if value.ndim > 1:  # all biases begin equal
                expected = loads or shapes[name].shape == value.shape
                assert torch.equal(detector.state_dict()[name], value) == expected, name
        assert any(f"anew for 4 classes, as {path} {reason}" in line for line in lines) != loads


def test_unknown_classes_of_weights_are_told(preset, guide_run, tmp_path):
    torch.save(read_checkpoint(guide_run).tensors, tmp_path / "weights.pth")
    for path, is_noted in ((tmp_path / "weights.pth", True), (guide_run, False)):
        lines = load_initial_weights(
            build(preset), InitialWeights("nearest", weights=path), ("disc", "square", "triangle", "cross")
        )
        assert any("no class names" in line and "disc, square, triangle" in line for line in lines) == is_noted


def test_class_layers_are_replaced_for_another_number_of_classes(preset, guide_run):
    detector = build(preset, num_classes=7)
    loaded_line, replaced_line = load_initial_weights(detector, InitialWeights(weights=guide_run))
    assert str(guide_run) in loaded_line
    assert "box_predictor" in replaced_line
    tensors, state = read_checkpoint(guide_run).tensors, detector.state_dict()
    replaced = {name for name in tensors if tensors[name].shape != state[name].shape}
    assert {name.split(".")[2] for name in replaced} == {"box_predictor", "mask_predictor"}
    assert all(torch.equal(state[name], tensors[name]) for name in tensors.keys() - replaced)


def test_weights_of_another_width_are_an_error(preset, guide_run):
    with pytest.raises(UserError, match="mismatched") as error:
        load_initial_weights(build(with_channels(preset, 24)), InitialWeights(weights=guide_run))
    assert str(guide_run) in str(error.value)


def test_weights_of_another_preset_name_both(guide_run):
    fcos = load_preset("fcos-r18-fpn-tiny", (*SMALL[:2], "interpolator.options={blocks: 1, growth: 4}"))
    with pytest.raises(UserError) as error:
        load_initial_weights(build(fcos), InitialWeights(weights=guide_run))
    assert "mask-rcnn-r18-fpn-tiny" in str(error.value)
    assert "fcos-r18-fpn-tiny" in str(error.value)


def test_an_interpolator_file_is_no_detector(preset, tmp_path):
    file = tmp_path / "interpolator.safetensors"
    small_interpolator().save(file)
    with pytest.raises(UserError, match="--interpolator") as error:
        load_initial_weights(build(preset), InitialWeights(weights=file, partial=True))
    assert str(file) in str(error.value)


def test_the_source_of_the_interpolator_is_logged(preset, guide_run, tmp_path):
    small_interpolator().save(tmp_path / "interpolator.safetensors")
    origins = {"nearest": "nearest", "afi": "fresh afi", str(tmp_path): f"{tmp_path} (trained; 13 tensors loaded)"}
    for source, origin in origins.items():
        for weights in (None, guide_run) if source != "nearest" else (None,):
            lines = load_initial_weights(build(preset, source), InitialWeights(source, weights=weights))
            assert lines[-1] == f"interpolator: {origin}"
            assert "missing" not in "".join(lines)
            assert lines[0].endswith("; all but the interpolator") == (weights is not None)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, resnet):
    """A detector of four classes with an AF interpolator, and its checkpoint in detectron2's layout."""
    torch.manual_seed(0)
    detector = build_detector(resnet, num_classes=4)
    path = tmp_path_factory.mktemp("foreign") / "model_final.pth"
    torch.save({"model": to_detectron2(detector)}, path)
    return detector, path


def test_a_checkpoint_of_detectron2_is_loaded(resnet, foreign):
    source, path = foreign
    detector = build(resnet, None)
    assert load_initial_weights(detector, InitialWeights(weights=path)) == [
        f"{path}: {len(load_detector(path).report.matched)} tensors loaded"
    ]
    names = (
        "neck.interpolator.head.weight",
        "head.roi_heads.box_predictor.cls_score.weight",
        "backbone.net.conv1.weight",
    )
    for name in names:
        torch.testing.assert_close(detector.state_dict()[name], source.state_dict()[name])
    loaded_line, replaced_line = load_initial_weights(build(resnet, None, 7), InitialWeights(weights=path))
    assert "mismatched" in loaded_line
    assert "box_predictor" in replaced_line


def test_the_interpolator_of_a_detectron2_checkpoint_is_loaded_alone(resnet, foreign):
    source, path = foreign
    resolved, interpolator = resolve_interpolator(resnet, str(path), seed=1)
    assert resolved.interpolator.options["growth"] == 4
    assert torch.equal(interpolator.head.weight, source.neck.interpolator.head.weight)


def test_settings_that_change_the_meaning_of_the_weights_are_an_error(resnet, foreign):
    other = resnet.model_copy(update={"input": resnet.input.model_copy(update={"std": (0.5, 0.5, 0.5)})})
    with pytest.raises(UserError, match=r"model_final\.pth.*--set input\.std=\[0\.229,0\.224,0\.225\]"):
        load_initial_weights(build(other, None), InitialWeights(weights=foreign[1]))


def test_a_part_of_a_checkpoint_is_loaded_only_with_partial(resnet, foreign, tmp_path):
    tensors = to_detectron2(foreign[0])
    part = {name: value for name, value in tensors.items() if not name.startswith("roi_heads.box_predictor")}
    torch.save(part, tmp_path / "part.pth")
    detector = build(resnet, None)
    with pytest.raises(UserError, match=r"part\.pth.* 4 missing .*--partial"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "part.pth"))
    (line,) = load_initial_weights(detector, InitialWeights(weights=tmp_path / "part.pth", partial=True))
    assert "4 missing (head.roi_heads.box_predictor" in line
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "other.pth", partial=True))


def test_an_incomplete_interpolator_is_loaded_only_with_partial(preset, tmp_path):
    detector = build_seeded_detector(preset, AFInterpolator(preset.neck.channels), 4, seed=0)
    tensors = detector.state_dict()
    half = {name: value for name, value in tensors.items() if ".interpolator.group.1." not in name}
    assert len(half) < len(tensors)
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"half\.pth.* 5 missing .*--partial"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "half.pth"))
    load_initial_weights(detector, InitialWeights(weights=tmp_path / "half.pth", partial=True))


def test_an_interpolator_is_loaded_from_a_file_or_a_run(preset, tmp_path):
    trained = AFInterpolator(16, blocks=2, growth=6)
    trained.save(tmp_path / "interpolator.safetensors")
    for source in (tmp_path, tmp_path / "interpolator.safetensors"):
        resolved, interpolator = resolve_interpolator(preset, str(source), seed=0)
        assert resolved.interpolator.kind == "afi"
        assert resolved.interpolator.options["growth"] == 6
        assert all(torch.equal(a, b) for a, b in zip(interpolator.parameters(), trained.parameters(), strict=True))


@pytest.mark.parametrize(
    ("source", "fact"),
    [
        ("nearst", "did you mean 'nearest'"),
        ("wide", "8 channels"),
        ("none/run", "none/run: no such file or folder$"),
        ("none.safetensors", r"none\.safetensors: no such file or folder$"),
        ("empty", "run of pretrain"),  # a folder without an interpolator
    ],
)
def test_an_unusable_interpolator_is_an_error(preset, tmp_path, monkeypatch, source, fact):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "wide").mkdir()
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "wide" / "interpolator.safetensors")
    with pytest.raises(UserError, match=fact) as error:
        resolve_interpolator(preset, source, seed=0)
    assert source in str(error.value)
