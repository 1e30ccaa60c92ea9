import csv
import json

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from afictl import AFInterpolator, UserError, load_preset
from afictl.comparison import Contender, Row, compare, comparison_tables, parse_contenders
from afictl.training import step
from afictl.weights import read_checkpoint
from tests.training.conftest import SMALL


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def preset():
    return load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, "train.steps=2"])


@pytest.fixture(scope="module")
def contenders(tmp_path_factory):
    file = tmp_path_factory.mktemp("interpolator") / "interpolator.safetensors"
    AFInterpolator(16, blocks=1, growth=4).save(file)
    return [Contender("nearest", "nearest"), Contender("afi", str(file))]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, fabric, preset, contenders, shapes_dir):
    folder = tmp_path_factory.mktemp("compare") / "out"
    return folder, compare(fabric, preset, shapes_dir, contenders, folder)


def test_every_contender_has_accuracy_and_price(comparison):
    folder, rows = comparison
    assert [row.name for row in rows] == ["nearest", "afi"]
    nearest, afi = rows
    assert nearest.interpolator_parameters == nearest.interpolator_multiply_adds == 0
    assert afi.parameters - nearest.parameters == afi.interpolator_parameters > 0
    assert afi.multiply_adds - nearest.multiply_adds == afi.interpolator_multiply_adds > 0
    for row in rows:
        assert row.milliseconds > row.interpolator_milliseconds > 0
        assert row.training_seconds > 0
        assert "box/AP" in row.metrics
    written = json.loads((folder / "comparison.json").read_text())
    assert [row["name"] for row in written] == ["nearest", "afi"]
    with (folder / "comparison.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["interpolator"] for row in table] == ["nearest", "afi"]
    assert float(table[1]["interpolator_parameters"]) == afi.interpolator_parameters


def test_all_see_the_same_images_in_the_same_order(fabric, preset, contenders, shapes_dir, tmp_path, monkeypatch):
    seen = []
    train_batches = step.train_batches

    def spy(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            seen.append((batch.image_ids, [float(image.sum()) for image in batch.images]))
            yield batch

    monkeypatch.setattr(step, "train_batches", spy)
    compare(fabric, preset, shapes_dir, contenders, tmp_path / "out")
    assert len(seen) == 4
    assert seen[:2] == seen[2:]


def test_the_same_command_again_trains_nothing(comparison, fabric, preset, contenders, shapes_dir, monkeypatch):
    folder, rows = comparison

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("afictl.comparison.grid.finetune", refuse)
    again = compare(fabric, preset, shapes_dir, contenders, folder)
    assert [row.metrics for row in again] == [row.metrics for row in rows]


def test_an_unfinished_contender_goes_on(fabric, preset, contenders, shapes_dir, tmp_path, comparison):
    folder = tmp_path / "out"

    def interrupt(clock, step, *args):
        if step == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.clock.Clock.stepped", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compare(fabric, preset, shapes_dir, contenders, folder)
    compare(fabric, preset, shapes_dir, contenders, folder)
    for name in ("nearest", "afi"):
        ours, whole = (read_checkpoint(run / name / "last.safetensors").tensors for run in (folder, comparison[0]))
        assert all(torch.equal(ours[key], whole[key]) for key in whole)


def test_a_folder_of_another_comparison_is_refused(comparison, fabric, contenders, shapes_dir):
    other = load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, "train.steps=3"])
    with pytest.raises(UserError, match="another preset"):
        compare(fabric, other, shapes_dir, contenders, comparison[0])


def test_another_interpolator_under_the_same_name_is_refused(comparison, fabric, preset, shapes_dir):
    with pytest.raises(UserError, match="give it another name"):
        compare(fabric, preset, shapes_dir, [Contender("nearest", "bilinear")], comparison[0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "neither a kind .* nor a run of pretrain nor a file"),
        ("wide.safetensors", "the interpolator has 8 channels"),
    ],
)
def test_every_interpolator_is_resolved_before_anything_is_trained(
    fabric, preset, shapes_dir, tmp_path, monkeypatch, source, message
):
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "wide.safetensors")
    monkeypatch.chdir(tmp_path)
    contenders = [Contender("nearest", "nearest"), Contender("mine", source)]
    with pytest.raises(UserError, match=f"^--interpolators mine={source}: {message}"):
        compare(fabric, preset, shapes_dir, contenders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(fabric, preset, contenders, shapes_dir, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match="not empty"):
        compare(fabric, preset, shapes_dir, contenders, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nearest,afi", [("nearest", "nearest"), ("afi", "afi")]),
        ("nearest, mine=runs/a", [("nearest", "nearest"), ("mine", "runs/a")]),
        ("a=runs/a,b=runs/b", [("a", "runs/a"), ("b", "runs/b")]),
    ],
)
def test_contenders(text, expected):
    assert [(c.name, c.source) for c in parse_contenders(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("nearst", "no kind"), ("afi,afi", "twice"), ("", "at least one"), ("../up=runs/a", "folder name")],
)
def test_unusable_contenders(text, message):
    with pytest.raises(UserError, match=message):
        parse_contenders(text)


def test_the_table_shows_what_is_known_and_marks_the_best():
    def row(name, ap):
        metrics = {"box/AP": ap, "box/AP50": 50.0, "box/APl": None}
        return Row(name, metrics, 2_000_000, 500_000, 3_000_000_000, 1_000_000_000, 12.34, 1.2, 120.0)

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*comparison_tables([row("nearest", 30.04), row("afi", 31.26)]))
    text = console.export_text()
    for piece in ("nearest", "31.3", "30.0", "2.00 (0.50)", "3.00 (1.00)", "12.3 (1.2)"):
        assert piece in text
    assert "APl" not in text  # unknown for every row
