import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from afictl import UserError, build_interpolator, substitute_interpolator
from afictl.interpolators import PerStepInterpolator
from tests.helpers.upsampling_models import ConcatPyramid, Everything, TopDownPyramid, maps

WIDTHS = (8, 12, 16)
PROBE = (maps(WIDTHS),)


@pytest.fixture
def pyramid():
    torch.manual_seed(0)
    return TopDownPyramid(WIDTHS)


@pytest.fixture
def everything():
    torch.manual_seed(0)
    return Everything().eval()


def interpolators(model):
    return [part for part in model.modules() if hasattr(part, "kind")]


def test_instance_is_shared_by_all_steps(pyramid):
    dysample = build_interpolator("dysample", 8)
    assert substitute_interpolator(pyramid, dysample, probe=PROBE) == 2
    assert interpolators(pyramid) == [dysample]
    assert sum("offset.weight" in name for name in pyramid.state_dict()) == 1  # saved once


def test_kind_makes_one_for_each_step(pyramid):
    substitute_interpolator(pyramid, "dysample", probe=PROBE)
    assert len(interpolators(pyramid)) == 2
    for per_step, count in ((False, 1), (True, 2), (None, 1)):
        module = build_interpolator("dysample", 8)
        substitute_interpolator(pyramid, module, per_step=per_step, probe=PROBE)
        assert len(interpolators(pyramid)) == count
    substitute_interpolator(pyramid, "dysample", per_step=False, probe=PROBE)
    assert len(interpolators(pyramid)) == 1


def test_one_module_at_several_widths_has_an_interpolator_for_each():
    model = ConcatPyramid(WIDTHS)
    widths = []
    substitute_interpolator(model, lambda channels: widths.append(channels) or nn.Identity(), probe=PROBE)
    assert widths == [12, 8]
    with pytest.raises(UserError, match=r"for 12 channels.*upsample has 8.*factory"):
        substitute_interpolator(model, build_interpolator("dysample", 12), probe=PROBE)


def test_width_that_the_probe_did_not_have_is_an_error():
    model = nn.Upsample(scale_factor=2)
    substitute_interpolator(model, "dysample", probe=torch.rand(1, 4, 3, 5))
    with pytest.raises(UserError, match=r"8 channels.* 4 "):
        model(torch.rand(1, 8, 3, 5))


def test_odd_maps_are_cut_and_other_scales_are_errors(pyramid):
    odd = [torch.rand(1, width, *size) for width, size in zip(WIDTHS, ((13, 9), (7, 5), (4, 3)), strict=True)]
    before = pyramid(odd)
    substitute_interpolator(pyramid, "nearest", probe=PROBE)
    assert all(torch.equal(a, b) for a, b in zip(pyramid(odd), before, strict=True))
    odd[-1] = torch.rand(1, WIDTHS[-1], 2, 3)
    with pytest.raises(UserError, match=r"call 0.* 2x3 to 7x5"):
        pyramid(odd)


def test_maps_of_a_fixed_size_are_left_alone_where_they_are_half_by_chance(everything):
    squares = torch.rand(1, 3, 64, 64)  # PooledContext enlarges 2x2 to 4x4 here
    before = everything(squares)
    result = substitute_interpolator(everything, "nearest", where=lambda step: step.mode == "nearest")
    assert [(step.path, step.call) for step in result.replaced] == [("", 1)]
    assert torch.equal(everything(squares), before)
    assert any(step.path == "pool" and "2x2 to" in step.reason for step in result.unreached)


def test_steps_that_are_not_reached_say_why(everything):
    result = substitute_interpolator(everything, "dysample")
    reasons = {(step.path, step.reason) for step in result.unreached}
    assert {path for path, _ in reasons} == {"pool", "learned", "shuffle", ""}
    text = result.summary()
    for part in ("ConvTranspose2d", "PixelShuffle", "(x4)", "(x1.5)"):
        assert part in text


def test_compiled_operators_are_named_or_refused(everything):
    everything.up = torch.jit.trace(nn.Upsample(scale_factor=2), torch.rand(1, 8, 4, 6))
    result = substitute_interpolator(everything, "dysample")
    assert [(step.path, step.call) for step in result.replaced] == [("", 1)]
    assert "up" in [step.path for step in result.unreached]
    result.undo()
    with pytest.raises(UserError, match="compiled"):
        substitute_interpolator(torch.compile(everything), "dysample")


def test_forward_of_an_instance_is_named(everything):
    everything.up.forward = everything.up.forward
    result = substitute_interpolator(everything, "dysample")
    assert any(step.path == "up" and "'forward'" in step.reason for step in result.unreached)


def test_where_chooses_steps_and_other_interpolators_stay(pyramid):
    substitute_interpolator(pyramid, build_interpolator("carafe", 8), probe=PROBE)
    result = substitute_interpolator(pyramid, "dysample", probe=PROBE, where=lambda step: step.call == 0)
    assert result == 1
    pyramid(*PROBE)
    kinds = [pyramid.interpolators[site.keys[8]].kind for _, site in sorted(pyramid.interpolate_calls.items())]
    assert kinds == ["dysample", "carafe"]
    with pytest.raises(UserError, match="'where'"):
        substitute_interpolator(pyramid, "dysample", probe=PROBE, where=lambda step: False)


def test_state_of_the_model_is_that_before_the_probe():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Upsample(scale_factor=2))
    model[1].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = substitute_interpolator(model, "nearest")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert f"{result}" == "1"


def test_what_a_forward_pass_leaves_in_the_model_is_removed():
    class Lazy(nn.Sequential):
        def forward(self, images):
            self.sizes = [*getattr(self, "sizes", []), images.shape]
            self[0].register_forward_hook(lambda *_: None)  # as transformers, which could not be pickled any more
            return super().forward(images)

    model = Lazy(nn.Upsample(scale_factor=2))
    substitute_interpolator(model, "nearest")
    assert not hasattr(model, "sizes")
    assert not model[0]._forward_hooks


def test_interpolators_get_type_and_mode_of_the_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Upsample(scale_factor=2)).double().eval()
    substitute_interpolator(model, "dysample")
    assert {value.dtype for value in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    "probe", [torch.rand(1, 4, 3, 5), (torch.rand(1, 4, 3, 5),), {"input": torch.rand(1, 4, 3, 5)}], ids=type
)
def test_probe_is_an_argument_or_arguments(probe):
    assert substitute_interpolator(nn.Upsample(scale_factor=2), "dysample", probe=probe) == 1


def test_probe_as_a_list_is_one_argument():
    class Images(nn.Upsample):
        def forward(self, images):
            return super().forward(torch.stack(images))

    assert substitute_interpolator(Images(scale_factor=2), "nearest", probe=[torch.rand(3, 4, 6)]) == 1
    assert substitute_interpolator(Images(scale_factor=2), "nearest") == 1  # tried by itself


@pytest.mark.parametrize(
    ("interpolator", "options", "message"),
    [
        ("dysampel", {}, "dysample"),
        ("dysample", {"probe": torch.rand(3)}, "TopDownPyramid .*probe"),
        ("dysample", {"probe": None}, "TopDownPyramid .*probe"),
        (lambda channels: None, {}, "None for 8 channels"),
        (lambda channels: build_interpolator("nearest", 4), {}, "4 channels.* 8"),
        (PerStepInterpolator([build_interpolator("nearest", 8)]), {}, "steps of a pyramid"),
    ],
)
def test_errors_leave_the_model_unchanged(pyramid, interpolator, options, message):
    with pytest.raises(UserError, match=message):
        substitute_interpolator(pyramid, interpolator, **{"probe": PROBE, **options})
    assert type(pyramid) is TopDownPyramid
    assert "interpolators" not in dict(pyramid.named_children())
    assert not pyramid._forward_hooks


def test_undo_leaves_copies_alone(pyramid):
    result = substitute_interpolator(pyramid, "dysample", probe=PROBE)
    twin = copy.deepcopy(pyramid)
    result.undo()
    with pytest.raises(UserError, match="undo"):
        result.undo()
    assert len(interpolators(twin)) == 2
    assert len(interpolators(pyramid)) == 0


@pytest.mark.parametrize(
    "model", [lambda: TopDownPyramid(WIDTHS), lambda: ConcatPyramid(WIDTHS)], ids=["call", "module"]
)
def test_compiled_and_exported_models_compute_the_same(model):
    torch.manual_seed(0)
    model = model()
    substitute_interpolator(model, "dysample", probe=PROBE)
    for value in model.parameters():
        nn.init.normal_(value, std=0.1)
    expected = model(*PROBE)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(model, PROBE).module()
    for actual in (compiled(*PROBE), exported(*PROBE)):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(actual, expected, strict=True))
    sum(map(torch.sum, compiled(*PROBE))).backward()
    assert all(value.grad is not None for value in model.parameters())


def test_data_parallel_model_trains_the_interpolators(pyramid):
    substitute_interpolator(pyramid, "dysample", probe=PROBE)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(pyramid)
        assert all(torch.equal(a, b) for a, b in zip(parallel(*PROBE), pyramid(*PROBE), strict=True))
        sum(map(torch.sum, parallel(*PROBE))).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(value.grad.abs().sum() > 0 for part in interpolators(pyramid) for value in part.parameters())


def test_other_models_and_the_library_function_are_untouched(pyramid):
    function, twin = F.interpolate, copy.deepcopy(pyramid)
    before = twin(*PROBE)
    substitute_interpolator(pyramid, "bicubic", probe=PROBE)
    assert not torch.equal(pyramid(*PROBE)[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(twin(*PROBE), before, strict=True))
    assert F.interpolate is function
    assert type(twin) is TopDownPyramid


def test_interpolators_in_a_model_stay(everything):
    everything.learned = nn.Sequential(everything.learned, build_interpolator("afi-lite", 4))
    result = substitute_interpolator(everything, "dysample")
    assert [step.path for step in result.replaced] == ["up"]
    assert {"learned.1", ""} <= {step.path for step in result.unreached}
    everything(torch.rand(1, 3, 64, 96))


def test_nested_modules_count_their_own_calls():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TopDownPyramid(WIDTHS)

        def forward(self, inputs):
            fine, *_ = self.inner(inputs)
            return F.interpolate(fine, scale_factor=2.0, mode="bilinear")

    model = Outer()
    before = model(*PROBE)
    for mode in ("bilinear", "nearest"):  # the interpolators call interpolate, too
        substitute_interpolator(model, mode, probe=PROBE, where=lambda step, mode=mode: step.mode == mode)
    assert [len(part.interpolate_calls) for part in (model, model.inner)] == [1, 2]
    assert torch.equal(model(*PROBE), before)
