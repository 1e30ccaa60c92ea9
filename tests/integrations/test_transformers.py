import pytest
import torch
from safetensors.torch import load_file

from afictl import substitute_interpolator
from tests.helpers.slow_cases import others_slow
from tests.helpers.substitution_checks import CHECKS, Case, assert_equal, build, run, substitute

pytest.importorskip("transformers")
pytest.importorskip("scipy")  # with which transformers matches predictions and objects
from tests.helpers import transformers_models as models

IMAGES = (torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0)),)
HYBRID = [("model.encoder", 32), ("model.encoder", 32)]
CASES = {
    "RT-DETR": Case(models.rt_detr, IMAGES, HYBRID),
    "RT-DETRv2": Case(models.rt_detr_v2, IMAGES, HYBRID),
    "D-FINE": Case(models.d_fine, IMAGES, HYBRID),
    "Mask2Former": Case(models.mask2former, IMAGES, [("model.pixel_level_module.decoder", 32)], pickles=False),
    "MaskFormer": Case(
        models.maskformer, IMAGES, [(f"model.pixel_level_module.decoder.fpn.layers.{i}", 32) for i in range(3)]
    ),
    "UPerNet": Case(
        models.upernet,
        (IMAGES[0].repeat(2, 1, 1, 1),),  # its batch norms need two
        [("decode_head", 16)] * 4,
        # Pooled maps of three sizes (those of 6x6 shrink), two levels to the finest, logits of both heads to the image.
        ("decode_head.psp_modules",) * 3 + ("decode_head",) * 2 + ("",) * 2,
        pickles=False,
    ),
    "DETR's mask head": Case(
        models.detr_segmentation, IMAGES, [(f"mask_head.fpn_stages.{i}", 32 >> i) for i in range(3)]
    ),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", others_slow(CASES, ("RT-DETR", "Mask2Former", "UPerNet", "DETR's mask head")))
def test_model_with_interpolators(case, check):
    CHECKS[check](CASES[case])


def test_default_probe_reaches_the_same_steps():
    model = build(CASES["RT-DETR"])
    assert [(step.path, step.channels) for step in substitute_interpolator(model, "nearest").replaced] == HYBRID


def test_loss_of_the_library_trains_the_interpolators():
    model = build(CASES["RT-DETR"]).train()
    substitute(model, CASES["RT-DETR"])
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])}]
    model(pixel_values=IMAGES[0], labels=labels).loss.backward()
    new = [value for name, value in model.named_parameters() if ".interpolators." in name]
    assert len(new) == 4
    assert all(value.grad.abs().sum() > 0 for value in new)


def test_saved_interpolators_load_into_a_substituted_model(tmp_path):
    case = CASES["MaskFormer"]
    model = build(case)
    substitute(model, case)
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path)
    substitute(other, case)
    saved = load_file(tmp_path / "model.safetensors")
    new = {name: tensor for name, tensor in saved.items() if ".interpolators." in name}
    assert not other.load_state_dict(new, strict=False).unexpected_keys
    assert len(new) == 6
    assert_equal(run(other.eval(), case), run(model, case))
