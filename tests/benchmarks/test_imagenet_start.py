"""The benchmark of initial weights, on generated images with a tiny network."""

import json

import timm
from safetensors.torch import save_file

from benchmarks import imagenet_start
from tests.helpers.tiny_runs import SMALL

SETTINGS = [
    *(value for value in SMALL if not value.startswith(("backbone.name", "interpolator", "stage", "train"))),
    *("backbone.name=test_efficientnet", "train.batch_size=2"),
]


def test_both_starts_are_trained_once_and_continued(tmp_path, shapes_dir, capsys):
    weights = tmp_path / "test_efficientnet.safetensors"
    save_file(timm.create_model("test_efficientnet").state_dict(), weights)
    arguments = ["--data", str(shapes_dir), "--backbone-weights", str(weights), "--output", str(tmp_path / "runs")]
    arguments += ["--steps", "2", "--seeds", "1", "--json", str(tmp_path / "figures.json")]
    arguments += [word for setting in SETTINGS for word in ("--set", setting)]
    imagenet_start.main(arguments)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [len(runs) for runs in figures["results"].values()] == [1, 1]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["imagenet-seed0", "random-seed0"]
    log = (tmp_path / "runs" / "imagenet-seed0" / "log.txt").read_text()
    assert "test_efficientnet.safetensors: " in log
    imagenet_start.main(arguments)
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
    assert "difference in AP" in capsys.readouterr().out
