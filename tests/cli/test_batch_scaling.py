"""``--scale-lr``: the learning rate follows the total batch."""

import pytest

from afictl import UserError, load_preset
from afictl.cli.batch_scaling import scaled_overrides
from afictl.training.optimization import batch_notes, learning_rate

PRESET = "faster-rcnn-r50-fpn"  # lr 0.02 for 16 images


def test_the_rate_is_proportional_to_the_batch():
    recipe = load_preset(PRESET, scaled_overrides(PRESET, ["train.batch_size=4", "train.warmup_steps=0"])).train
    assert (recipe.lr, recipe.lr_batch_size) == (0.02, 16)
    assert learning_rate(recipe, 0) == pytest.approx(0.005)
    assert learning_rate(recipe, 215_000) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("overrides", "fact"),
    [
        ([], "batch is that of the preset, 16"),
        (["train.batch_size=16"], "batch is that of the preset, 16"),
        (["train={batch_size: 4, lr: 0.1}"], r"--set train\.lr"),
        (["train.batch_size=4", "train.lr_batch_size=8"], r"--set train\.lr_batch_size"),
    ],
)
def test_a_flag_without_effect_is_refused(overrides, fact):
    with pytest.raises(UserError, match=f"--scale-lr.*{fact}"):
        scaled_overrides(PRESET, overrides)


def test_the_batch_of_a_preset_file_counts(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: {PRESET}\ntrain: {{batch_size: 8, lr: 0.01}}\n")
    assert load_preset(str(file), scaled_overrides(str(file), ["train.batch_size=2"])).train.base_lr == 0.0025


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        ([], None),
        (["train.batch_size=8", "train.lr=0.01"], None),
        (["train.batch_size=8"], ("is 8", "lr=0.02", "for 16", "--scale-lr would set 0.01")),
        (["train.batch_size=8", "train.lr_batch_size=16"], ("0.01 = 0.02 x 8/16",)),
    ],
)
def test_the_log_says_where_batch_and_rate_do_not_belong_together(overrides, facts):
    notes = batch_notes(load_preset(PRESET, overrides))
    assert len(notes) == bool(facts)
    assert all(fact in notes[0] for fact in facts or ())
