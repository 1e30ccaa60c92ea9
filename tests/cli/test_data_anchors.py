import json
import re
import shlex

import pytest

from afictl.presets import load_preset


def test_the_flags_can_be_pasted(afictl, shapes_dir):
    code, out, _ = afictl("data", "anchors", shapes_dir, "--preset", "retinanet-r18-fpn-tiny")
    assert code == 0
    words = shlex.split(next(line for line in out.splitlines() if line.startswith("--set")))
    detector = load_preset("retinanet-r18-fpn-tiny", words[1::2]).detector
    assert detector.anchor_sizes != load_preset("retinanet-r18-fpn-tiny").detector.anchor_sizes
    shares = [float(share) for share in re.findall(r"([\d.]+)%\s*$", out, re.MULTILINE)]
    assert sum(shares[:5]) == pytest.approx(100, abs=0.5)
    assert shares[-1] > shares[-2]


def test_small_objects_get_one_note(afictl, shapes_dir):
    settings = ("--set", "input.test_size=24", "--set", "input.min_sizes=[24]")
    code, out, _ = afictl("data", "anchors", shapes_dir, "--preset", "retinanet-r18-fpn-tiny", *settings)
    assert code == 0
    assert out.count("note:") == 1
    assert out.count("--set input.test_size=") == 1


def test_detectors_without_anchors_have_size_ranges(afictl, shapes_dir):
    code, out, _ = afictl("data", "anchors", shapes_dir, "--preset", "centermask-r18-bifpn-tiny")
    assert code == 0
    assert "has no anchors" in out
    (setting,) = shlex.split(out.splitlines()[-1])[1::2]
    assert load_preset("centermask-r18-bifpn-tiny", [setting]).detector.size_ranges[0] >= 16


def test_what_cannot_be_fitted_is_refused(afictl, shapes_dir, tmp_path):
    code, _, error = afictl("data", "anchors", shapes_dir, "--preset", "torchvision:fcos_resnet50_fpn")
    assert code == 2
    assert "torchvision:fcos_resnet50_fpn" in error
    file = tmp_path / "annotations" / "instances_train2017.json"
    file.parent.mkdir()
    content = json.loads((shapes_dir / "annotations" / file.name).read_text())
    file.write_text(json.dumps({**content, "annotations": []}))
    (tmp_path / "train2017").symlink_to(shapes_dir / "train2017")
    code, _, error = afictl("data", "anchors", tmp_path, "--preset", "faster-rcnn-r18-fpn-tiny")
    assert code == 2
    assert str(file) in error
