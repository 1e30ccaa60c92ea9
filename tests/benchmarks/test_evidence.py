import json
from itertools import pairwise

import pytest
import torch

from afictl.data import load_dataset, make_shapes
from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.interpolators import interpolator_kinds
from afictl.presets import load_preset
from benchmarks.evidence.__main__ import main
from benchmarks.evidence.branch import branch_share
from benchmarks.evidence.fidelity import rank_correlation
from benchmarks.evidence.methods import INTERPOLATORS, PRETRAINED, PRETRAININGS, TABLES
from benchmarks.evidence.pooled import differences_by_setting
from benchmarks.evidence.settings import SETTINGS
from benchmarks.evidence.table import build_rows, markdown, read_table


def test_main_table_has_every_kind():
    assert set(INTERPOLATORS) == set(interpolator_kinds())


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_settings_are_valid_presets(setting):
    flags = setting.training_flags(setting.steps)
    preset = load_preset(setting.preset, [value for flag, value in pairwise(flags) if flag == "--set"])
    assert preset.train.steps == setting.steps


def test_pretrainings_have_valid_overrides():
    for overrides in {pretraining.overrides for pretraining in PRETRAININGS.values()}:
        load_preset(SETTINGS["shapes"].preset, overrides)


def test_methods_of_tables_are_kinds_or_pretrained():
    assert {method for table in TABLES.values() for method in table} <= {*INTERPOLATORS, *PRETRAINED}


def test_commands_pretrain_what_the_methods_need(tmp_path, capsys):
    main(["shapes", "main", "--dry-run", "--output", str(tmp_path), "--interpolators", "nearest,afi-lite-stage1"])
    data, guide, pretrain, compare = capsys.readouterr().out.splitlines()
    assert "data shapes" in data
    assert "--interpolator nearest" in guide
    assert "--interpolator afi-lite" in pretrain
    assert f"--interpolators nearest,afi-lite-stage1={tmp_path}/shapes/pretrain-afi-lite/stage1 " in compare


def test_tiles_are_cut_from_the_data_of_the_user(tmp_path, capsys):
    flags = ["--data", "D", "--backbone-weights", "W", "--output", str(tmp_path)]
    main(["vehicles", "claims", "--dry-run", *flags, "--interpolators", "nearest,afi"])
    tiles, guide, compare = capsys.readouterr().out.splitlines()
    assert tiles == f"+ afictl data slice D {tmp_path}/vehicles/data --size 512"
    assert f"--data {tmp_path}/vehicles/data" in guide
    assert "input.test_size=512" in compare


def test_reuse_trains_the_guides_of_both_settings(tmp_path, capsys):
    flags = ["--data", "D", "--backbone-weights", "W", "--output", str(tmp_path)]
    main(["bccd", "reuse", "--dry-run", *flags, "--interpolators", "nearest,afi-from-r18"])
    guide, other_guide, pretrain, compare = capsys.readouterr().out.splitlines()
    assert f"--output {tmp_path}/bccd/guide" in guide
    assert f"--output {tmp_path}/bccd-r18/guide" in other_guide
    assert f"--guide {tmp_path}/bccd-r18/guide" in pretrain
    assert f"afi-from-r18={tmp_path}/bccd-r18/pretrain-afi/stage2 " in compare


def test_all_trainings_of_a_setting_have_its_precision(tmp_path, capsys):
    main(["shapes-r50", "claims", "--dry-run", "--output", str(tmp_path), "--interpolators", "nearest,afi-stage1"])
    data, *trainings = capsys.readouterr().out.splitlines()
    assert "--size 512" in data
    assert all("--precision bf16-mixed" in command for command in trainings)


def test_rank_correlation_is_spearmans():
    assert rank_correlation([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [10, 20, 30, 40]) == pytest.approx(0.9487, abs=1e-4)


def test_settings_share_guide_and_pretraining_of_another(tmp_path, capsys):
    main(["shapes-few", "conditions", "--dry-run", "--output", str(tmp_path), "--interpolators", "nearest,afi-stage1"])
    _, guide, pretrain, subset, compare = capsys.readouterr().out.splitlines()
    assert f"--output {tmp_path}/shapes/guide" in guide
    assert f"--output {tmp_path}/shapes/pretrain-afi" in pretrain
    assert subset.startswith(f"+ afictl data subset {tmp_path}/shapes/data {tmp_path}/shapes-few/data ")
    assert f"--data {tmp_path}/shapes-few/data --weights {tmp_path}/shapes/guide " in compare


def metrics(*points):
    return {str(seed): {"box/AP": value, "box/APs": value + 1} for seed, value in enumerate(points)}


def test_table_pairs_seeds_with_the_baseline():
    methods = {"nearest": metrics(50, 52, 51), "afi": metrics(51, 53, 52.1), "carafe": metrics(53, 50)}
    nearest, afi, carafe = build_rows(methods, methods["nearest"], "nearest")
    assert (nearest.difference, nearest.claimed) == (None, False)
    assert afi.difference.mean == pytest.approx(1.0333, abs=1e-4)
    assert (afi.claimed, carafe.claimed) == (True, False)
    assert (carafe.difference.mean, carafe.difference.count) == (0.5, 2)
    assert markdown(afi) == "| `afi` | 52.0 | 51.0, 53.0, 52.1 | +1.0 (0.9 to 1.2) | yes | 53.0 |"


def test_baseline_of_another_setting_is_no_row():
    (row,) = build_rows({"nearest": metrics(50, 51)}, metrics(52, 52), "")
    assert row.difference.mean == -1.5


def test_added_table_has_pairs_of_its_own(tmp_path):
    file = tmp_path / "elsewhere.json"
    row = {"name": "afi", "seeds": {"0": {"box/AP": 54.0, "box/APs": 1.0}}}
    file.write_text(json.dumps({"setting": "shapes", "methods": [row]}))
    assert read_table(file, "shapes") == {"afi": {"elsewhere 0": {"box/AP": 54.0, "box/APs": 1.0}}}
    with pytest.raises(UserError, match=r"elsewhere\.json: setting: a table of shapes, not of bccd"):
        read_table(file, "bccd")
    file.write_text("[]")
    with pytest.raises(UserError, match=r"elsewhere\.json: not a table"):
        read_table(file, "shapes")


def test_differences_of_tables_of_one_setting_are_one_row(tmp_path):
    for name, setting, points in (("a", "shapes", (52, 53)), ("b", "shapes", (54,)), ("c", "bccd", (50,))):
        rows = [{"name": "afi", "seeds": metrics(*points)}, {"name": "nearest", "seeds": metrics(51, 51, 51)}]
        (tmp_path / f"{name}.json").write_text(json.dumps({"setting": setting, "methods": rows}))
    files = sorted(tmp_path.iterdir())
    differences = differences_by_setting("afi", "nearest", files)
    assert {name: (value.mean, value.count) for name, value in differences.items()} == {
        "bccd": (-1, 1),
        "shapes": (2, 3),
    }
    with pytest.raises(UserError, match=r"a\.json: has no pair of afi and carafe"):
        differences_by_setting("afi", "carafe", files)


def test_branch_share_is_the_relative_difference_from_bilinear(tmp_path):
    make_shapes(tmp_path, train=1, val=2, size=64)
    dataset, preset = (
        load_dataset(tmp_path, "val"),
        load_preset("faster-rcnn-r18-fpn-tiny", ["backbone.pretrained=false"]),
    )
    shares = {}
    for kind in ("bilinear", "afi", "soft-nearest"):
        torch.manual_seed(0)
        shares[kind] = branch_share(build_detector(preset, 1, kind).eval(), dataset, 2)
    assert shares["bilinear"] == 0
    assert 0 < shares["afi"] < 1e-3  # published initial weights: bilinear but for a small branch
    assert 0.5 < shares["soft-nearest"] < 1  # a quarter of the map
