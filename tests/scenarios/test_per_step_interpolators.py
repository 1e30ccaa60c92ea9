"""Detectors with an interpolator for each enlargement: files, other models, cost, pictures."""

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

from afictl import UserError, build_detector, build_interpolator, load_preset, load_weights, substitute_interpolator
from afictl.comparison.cost.measurement import cost_images, measure_costs
from afictl.detectors import model_cost, step_costs
from afictl.detectors.upsampling_calls import pyramid_and_calls
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.tensor_files import read_tensors, save_tensors
from afictl.training.initial_weights import InitialWeights, load_initial_weights, resolve_interpolator
from afictl.visualization.gradcam import compute_gradcam
from afictl.visualization.level_features import enlarge_levels
from afictl.weights import load_detector, load_interpolator, save_detector
from tests.helpers.interpolator_options import FEW_KINDS, OPTIONS

PER_STEP = "neck.interpolators=per-step"
METADATA = {"classes": ["a", "b"], "category_ids": [1, 2], "step": 1, "metrics": {}}


def preset_with(*overrides):
    return load_preset("faster-rcnn-r18-fpn-tiny", ["neck.channels=8", "detector.fc_width=8", *overrides])


def build(*overrides, interpolator=None):
    torch.manual_seed(0)
    return build_detector(preset_with(*overrides), num_classes=2, interpolator=interpolator).eval()


def dysample(seed=1):
    """An interpolator whose weights are not those of the initialisation."""
    torch.manual_seed(seed)
    module = build_interpolator("dysample", 8, groups=2)
    torch.nn.init.normal_(module.offset.weight)
    return module


def distinct_steps(count=3):
    return PerStepInterpolator([dysample(seed) for seed in range(count)])


@torch.no_grad()
def pyramid(detector):
    return detector.pyramid([torch.linspace(0, 1, 3 * 64 * 50).view(3, 64, 50)])


def assert_same(one, other):
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.fixture(scope="module")
def detector():
    return build(PER_STEP, interpolator=distinct_steps())


@pytest.fixture(scope="module")
def detector_file(detector, tmp_path_factory):
    file = tmp_path_factory.mktemp("files") / "detector.safetensors"
    save_detector(file, detector, METADATA)
    return file


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory):
    """A detector whose enlargements share an interpolator, as earlier versions wrote it."""
    file = tmp_path_factory.mktemp("files") / "shared.safetensors"
    save_detector(file, build(interpolator=dysample()), METADATA)
    tensors, description = read_tensors(file)
    del description["preset"]["neck"]["interpolators"], description["preset"]["neck"]["top_down_from"]
    save_tensors(file, tensors, description)
    return file


def test_a_detector_file_restores_every_step(detector, detector_file):
    loaded = load_detector(detector_file)
    assert loaded.report.complete
    assert loaded.preset.neck.interpolators == "per-step"
    assert_same(loaded.detector, detector)
    assert_same(load_interpolator(detector_file), detector.neck.interpolator)
    assert load_detector(detector_file, "bilinear").detector.neck.interpolator.kind == "bilinear"


def test_an_interpolator_file_holds_every_step(tmp_path, detector):
    file = tmp_path / "interpolator.safetensors"
    detector.neck.interpolator.save(file)
    for load in (Interpolator.load, load_interpolator):
        module = load(file)
        assert isinstance(module, PerStepInterpolator)
        assert (module.kind, module.config) == ("dysample", {"channels": 8, "groups": 2})
        assert_same(module, detector.neck.interpolator)
    with pytest.raises(UserError, match=r"interpolator\.safetensors: .*'dysample' for each step"):
        type(dysample()).load(file)


@pytest.mark.parametrize("steps", [2, 0, "3", None])
def test_a_file_that_claims_other_steps_is_refused(steps, tmp_path, detector):
    file = tmp_path / "interpolator.safetensors"
    save_tensors(
        file, detector.neck.interpolator.state_dict(), {**detector.neck.interpolator.description, "steps": steps}
    )
    with pytest.raises(UserError, match=r"interpolator\.safetensors: "):
        Interpolator.load(file)


def test_the_file_of_a_shared_interpolator_starts_every_step(tmp_path):
    file, module = tmp_path / "interpolator.safetensors", dysample()
    module.save(file)
    for overrides, steps in (((), 3), (("neck.top_down_from=p6",), 4), (("neck.kind=bifpn", "neck.repeats=2"), 8)):
        preset, loaded = resolve_interpolator(preset_with(PER_STEP, *overrides), str(file), seed=0)
        started = build_detector(preset, num_classes=2, interpolator=loaded).neck.interpolator
        assert len(started.steps) == steps
        for step in started.steps:
            assert_same(step, module)
        assert load_weights(started, file).complete


def test_a_detector_with_a_shared_interpolator_starts_every_step(shared_file):
    started = build(PER_STEP, "interpolator.kind=dysample", "interpolator.options={groups: 2}")
    assert load_weights(started, shared_file).complete
    original = load_detector(shared_file).detector
    for step in started.neck.interpolator.steps:
        assert_same(step, original.neck.interpolator)
    for level, value in pyramid(original).items():
        assert torch.equal(pyramid(started)[level], value)
    again = build(PER_STEP, "interpolator.kind=dysample", "interpolator.options={groups: 2}")
    again.load_state_dict(original.state_dict())
    assert_same(again, started)


def test_fine_tuning_starts_every_step_from_a_shared_detector(shared_file):
    started = build(PER_STEP, "interpolator.kind=dysample", "interpolator.options={groups: 2}")
    lines = load_initial_weights(started, InitialWeights(weights=shared_file))
    assert len(lines) == 1
    assert f"{len(started.state_dict())} tensors loaded" in lines[0]


def test_a_detector_with_steps_does_not_pass_for_a_shared_one(detector_file):
    shared = build("interpolator.kind=dysample", "interpolator.options={groups: 2}")
    report = load_weights(shared, detector_file)
    assert not report.complete
    assert "neck.interpolators=per-step" in str(report)


def test_a_file_of_other_steps_is_refused_by_its_name(tmp_path, detector):
    file = tmp_path / "interpolator.safetensors"
    detector.neck.interpolator.save(file)
    assert resolve_interpolator(preset_with(PER_STEP), str(file), seed=0)[0].interpolator.kind == "dysample"
    for overrides, facts in (
        ((), r"interpolator\.safetensors: .*neck\.interpolators=per-step"),
        ((PER_STEP, "neck.top_down_from=p6"), r"interpolator\.safetensors: .*3 steps, .* 4 steps"),
    ):
        with pytest.raises(UserError, match=facts):
            resolve_interpolator(preset_with(*overrides), str(file), seed=0)


def test_substitution_keeps_or_chooses_the_sharing():
    detector, module = build(PER_STEP, interpolator="nearest"), dysample()
    assert substitute_interpolator(detector, module) == 3
    for step in detector.neck.interpolator.steps:
        assert_same(step, module)
    assert detector.preset.neck.interpolators == "per-step"
    substitute_interpolator(detector, module, per_step=False)
    assert detector.neck.interpolator is module
    assert detector.preset.neck.interpolators == "shared"
    steps = distinct_steps()
    substitute_interpolator(detector, steps)
    assert detector.neck.interpolator is steps
    assert detector.preset == build(PER_STEP, interpolator=steps).preset
    for wrong, options in ((distinct_steps(4), {}), (steps, {"per_step": False})):
        with pytest.raises(UserError, match=rf"{len(wrong.steps)} steps"):
            substitute_interpolator(detector, wrong, **options)
        assert detector.neck.interpolator is steps


def test_pyramids_of_torchvision_have_steps_of_their_own():
    torch.manual_seed(0)
    model = torch.nn.ModuleList(FeaturePyramidNetwork([4, 6, 8], 8) for _ in range(2))
    maps = {str(i): torch.rand(1, width, 32 >> i, 48 >> i) for i, width in enumerate((4, 6, 8))}
    assert substitute_interpolator(model, dysample()) == 4
    expected = [fpn(maps) for fpn in model]
    assert substitute_interpolator(model, dysample(), per_step=True) == 4
    assert sum(value.numel() for name, value in model.named_parameters() if "interpolator" in name) == 4 * sum(
        value.numel() for value in dysample().parameters()
    )
    for fpn, levels in zip(model, expected, strict=True):
        for level, value in fpn(maps).items():
            assert torch.equal(value, levels[level])
        sum(value.sum() for value in fpn(maps).values()).backward()
        assert all(step.offset.weight.grad.any() for step in fpn.interpolator.steps)


def test_a_preset_of_torchvision_has_an_interpolator_for_each_enlargement():
    preset = load_preset("torchvision:fcos_resnet50_fpn", [PER_STEP, "interpolator.kind=dysample"])
    with torch.device("meta"):
        adapted = build_detector(preset, num_classes=2)
    assert len(adapted.neck.interpolator.steps) == adapted.neck.num_upsamplers == 2
    assert adapted.interpolator_prefix == "model.backbone.fpn.interpolator."
    with pytest.raises(UserError, match=r"neck\.top_down_from"):
        build_detector(load_preset("torchvision:fcos_resnet50_fpn", ["neck.top_down_from=p6"]), num_classes=2)


def test_costs_are_those_of_all_steps():
    single = sum(value.numel() for value in dysample().parameters())
    costs = {}
    for sharing in ("shared", "per-step"):
        with torch.device("meta"):
            detector = build(f"neck.interpolators={sharing}", "neck.top_down_from=p6", interpolator=dysample())
        costs[sharing] = {part.name: part for part in model_cost(detector, (96, 96))}
    shared, per_step = (costs[sharing]["interpolator"] for sharing in ("shared", "per-step"))
    assert (shared.parameters, per_step.parameters) == (single, 4 * single)
    assert shared.multiply_adds == per_step.multiply_adds > 0
    assert costs["shared"]["neck"] == costs["per-step"]["neck"]
    steps = step_costs(detector, (96, 96))  # padded to 128
    assert [(step.name, step.workload) for step in steps] == [
        ("step 0", "16x16 to 32x32"),
        ("step 1", "8x8 to 16x16"),
        ("step 2", "4x4 to 8x8"),
        ("step 3", "2x2 to 4x4"),
    ]
    assert {step.parameters for step in steps} == {single}
    assert sum(step.multiply_adds for step in steps) == per_step.multiply_adds


def test_time_and_memory_are_measured_over_all_steps(detector):
    images = cost_images(detector.preset.input.model_copy(update={"test_size": 64, "max_size": 64}))
    cost = measure_costs({"dysample": detector}, images)["dysample"]
    assert 0 < cost.interpolator_milliseconds < cost.milliseconds
    assert cost.interpolator_peak_bytes > 0


def test_pictures_of_features_use_the_step_of_their_level():
    guide, steps = build("neck.top_down_from=p6", interpolator="nearest"), distinct_steps()
    image = torch.randint(256, (3, 80, 100), generator=torch.Generator().manual_seed(0)).byte()
    modules = {"all": steps, **{str(number): step for number, step in enumerate(steps.steps)}}
    levels = dict(zip(["p2", "p3", "p4", "p5", "p6"], ["0", "0", "1", "2", "2"], strict=True))
    for drawn in enlarge_levels(guide, modules, image, list(levels)):
        assert torch.equal(drawn.enlarged["all"], drawn.enlarged[levels[drawn.level]])
        assert not torch.equal(drawn.enlarged["0"], drawn.enlarged["1"])


def test_gradcam_of_equal_steps_is_that_of_a_shared_interpolator():
    image = torch.randint(256, (3, 80, 100), generator=torch.Generator().manual_seed(0)).byte()
    box = torch.tensor([10.0, 8.0, 60.0, 50.0])
    shared = build("neck.top_down_from=p6", interpolator=dysample())
    per_step = build("neck.top_down_from=p6", PER_STEP, interpolator=dysample())
    (level, expected), (other_level, actual) = (
        compute_gradcam(detector, image, box, 1) for detector in (shared, per_step)
    )
    assert level == other_level
    torch.testing.assert_close(actual.values, expected.values)


def test_calls_of_a_neck_with_steps_are_recorded(detector):
    _, calls = pyramid_and_calls(detector, [torch.rand(3, 64, 96)])
    assert [call.level for call in calls] == ["p5", "p4", "p3"]
    assert all(call.fine.shape[-1] == 2 * call.coarse.shape[-1] for call in calls)


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_every_kind_trains_and_is_stored_in_a_path_from_p6_with_steps(kind, tmp_path):
    narrow = ("backbone.options={channels: [8, 16, 32, 64]}", "input.min_sizes=[64]", "input.test_size=64")
    torch.manual_seed(1)
    single = build_interpolator(kind, 8, **OPTIONS.get(kind, {}))
    detector = build(PER_STEP, "neck.top_down_from=p6", *narrow, interpolator=single).train()
    steps = detector.neck.interpolator.steps
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
    images = [torch.rand(3, 64, 60), torch.rand(3, 128, 96)]
    target = {"boxes": torch.tensor([[8.0, 6.0, 40.0, 44.0]]), "labels": torch.tensor([1])}
    sum(detector(images, [target] * 2).values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.neck.parameters())
    assert all(any(parameter.grad.any() for parameter in step.parameters()) for step in steps)
    optimizer.step()
    assert not torch.equal(steps[0].state_dict()[name := next(iter(single.state_dict()))], steps[3].state_dict()[name])

    save_detector(tmp_path / "detector.safetensors", detector.eval(), METADATA)
    loaded = load_detector(tmp_path / "detector.safetensors").detector
    for level, value in pyramid(detector).items():
        assert torch.equal(pyramid(loaded)[level], value)
    parts = {part.name: part for part in model_cost(detector, (64, 64))}
    assert parts["interpolator"].parameters == 4 * sum(value.numel() for value in single.parameters())
    assert [step.workload for step in step_costs(detector, (64, 64))] == [
        "8x8 to 16x16",
        "4x4 to 8x8",
        "2x2 to 4x4",
        "1x1 to 2x2",
    ]
