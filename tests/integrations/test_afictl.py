import pytest
import torch

from afictl import AFInterpolator, UserError, build_detector, build_interpolator, load_preset, substitute_interpolator

SMALL = ("neck.channels=16", "detector.fc_width=32", "backbone.pretrained=false")


def build(*overrides):
    torch.manual_seed(0)
    preset = load_preset("faster-rcnn-r18-fpn-tiny", (*SMALL, *overrides))
    return build_detector(preset, num_classes=3, interpolator="nearest").eval()


@torch.no_grad()
def compute(detector):
    return list(detector.pyramid([torch.linspace(0, 1, 3 * 64 * 50).view(3, 64, 50)]).values())


NECKS = {
    "fpn": (("neck.kind=fpn",), 3),
    "fpn p3": (("neck.kind=fpn", "neck.top=p5"), 2),
    "pafpn": (("neck.kind=pafpn",), 3),
    "bifpn": (("neck.kind=bifpn", "neck.repeats=2"), 8),
}


@pytest.mark.parametrize("neck", NECKS)
def test_the_interpolator_of_every_neck_is_replaced(neck, assert_substitutes):
    overrides, steps = NECKS[neck]
    detector = build(*overrides)

    def loss(model):
        images = [torch.rand(3, 128, 128), torch.rand(3, 128, 128)]
        return sum(value.square().mean() for value in model.pyramid(images).values())

    assert_substitutes(detector, compute, lambda m: m.neck, 16, steps, loss)


@pytest.mark.parametrize("neck", NECKS)
def test_returned_number_is_that_of_the_upsampling_calls(neck):
    overrides, steps = NECKS[neck]
    detector, calls = build(*overrides), []
    interpolator = build_interpolator("nearest", 16)
    interpolator.register_forward_hook(lambda *_: calls.append(1))
    assert substitute_interpolator(detector, interpolator) == len(calls) + steps
    compute(detector)
    assert len(calls) == steps


def test_preset_names_the_interpolator_as_if_built_with_it():
    detector, afi = build(), AFInterpolator(16, blocks=1, growth=4)
    before = detector.preset
    substitute_interpolator(detector, afi)
    assert detector.preset == build_detector(before, num_classes=3, interpolator=afi).preset
    assert detector.preset.interpolator.options == afi.options
    assert before.interpolator.kind != "afi" or before.interpolator.options != afi.options


def test_kind_is_built_at_the_width_of_the_neck_and_undone_in_the_preset():
    detector = build()
    before, interpolator = detector.preset, detector.neck.interpolator
    result = substitute_interpolator(detector, "dysample")
    assert (detector.neck.interpolator.kind, detector.neck.interpolator.channels) == ("dysample", 16)
    assert detector.preset.interpolator.kind == "dysample"
    assert [(step.path, step.mode, step.runs) for step in result.replaced] == [("neck", "nearest", 3)]
    result.undo()
    assert detector.preset is before
    assert detector.neck.interpolator is interpolator


def test_detector_inside_another_module_is_updated():
    detector = build()
    assert substitute_interpolator(torch.nn.Sequential(detector), build_interpolator("bilinear", 16)) == 3
    assert detector.preset.interpolator.kind == "bilinear"


def test_refused_interpolators_do_not_change_the_detector():
    detector = build()
    preset, interpolator = detector.preset, detector.neck.interpolator
    with pytest.raises(UserError, match=r"8 channels.* 16"):
        substitute_interpolator(detector, AFInterpolator(8, blocks=1, growth=4))
    with pytest.raises(UserError, match=r"Upsample .*kind.*channels.*options"):
        substitute_interpolator(detector, torch.nn.Upsample(scale_factor=2))
    assert detector.preset is preset
    assert detector.neck.interpolator is interpolator
