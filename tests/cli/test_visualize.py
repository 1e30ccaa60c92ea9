"""``afictl visualize``: files of each subcommand, and errors."""

import re
import shutil

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.runs import data_of
from afictl.cli.visualize import app
from afictl.data import load_dataset
from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator, build_interpolator
from afictl.weights import load_detector, save_detector
from tests.helpers.changed_data import rename_disc


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_detections_of_a_dataset_and_two_weights(untrained_run, shapes):
    weights = ("--weights", untrained_run, "--weights", untrained_run / "best.safetensors")
    result = call("detections", *weights, "--data", shapes, "--limit", 2)
    assert result.exit_code == 0
    assert "2 pictures" in result.output
    ids = load_dataset(shapes, "val").image_ids[:2]
    files = sorted((untrained_run / "detections").glob("*.png"))
    assert [file.name for file in files] == sorted(f"{image_id}.png" for image_id in ids)
    assert Image.open(files[0]).width > 3 * 960


def test_default_dataset_is_that_of_the_run(untrained_run, shapes):
    assert "4 pictures" in call("--weights", untrained_run / "best.safetensors").output
    names = {path.stem for path in (untrained_run / "detections").glob("*.png")}
    assert names == {str(image_id) for image_id in load_dataset(shapes, "val").image_ids}


def test_all_images_of_a_folder_are_drawn(untrained_run, tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(9):
        Image.new("RGB", (64, 48), (90, 60, 30)).save(tmp_path / "photos" / f"{k}.jpg")
    arguments = ("--weights", untrained_run, "--images", tmp_path / "photos", "--output", tmp_path / "drawn")
    assert "9 pictures" in call(*arguments).output
    assert "2 pictures" in call(*arguments, "--limit", 2, "--slice", 48).output


def test_a_photograph_without_annotations(untrained_run, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (120, 80), (90, 60, 30)).save(photo)
    arguments = ("--images", photo, "--threshold", 0.0, "--output", tmp_path / "drawn")
    assert call("--weights", untrained_run, *arguments).exit_code == 0
    picture = Image.open(tmp_path / "drawn" / "photo.png")
    assert 960 < picture.width < 2 * 960


@pytest.mark.parametrize("form", ["png", "html"])
@pytest.mark.parametrize("command", ["detections", "features", "gradcam"])
def test_a_damaged_image_is_told_before_the_first_picture(untrained_run, tmp_path, command, form):
    """Its header is whole."""
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("a", "b"):
        Image.fromarray(pixels.numpy()).save(photos / f"{name}.png")
    (photos / "b.png").write_bytes((photos / "b.png").read_bytes()[:4000])
    source = ("--guide" if command == "features" else "--weights", untrained_run)
    output = tmp_path / "drawn"
    with pytest.raises(UserError, match=r"b\.png .*truncated.* no picture"):
        call(command, *source, "--images", photos, "--output", output, "--format", form)
    assert not output.exists()


def test_a_threshold_below_that_of_the_detector_is_reported(untrained_run, shapes):
    loaded = load_detector(untrained_run)
    stricter = loaded.preset.detector.model_copy(update={"score_threshold": 0.9})
    loaded.detector.preset = loaded.preset.model_copy(update={"detector": stricter})
    save_detector(untrained_run / "best.safetensors", loaded.detector, loaded.metadata)
    fact = "0.9, its detector.score_threshold"
    assert fact in call("--weights", untrained_run, "--limit", 1, "--threshold", 0.5).output
    assert fact not in call("--weights", untrained_run, "--limit", 1, "--threshold", 0.9).output


def test_a_detector_of_other_classes_is_the_same_error_as_in_eval(untrained_run, shapes, tmp_path):
    from afictl.cli.main import app as afictl

    data = rename_disc(shapes, tmp_path / "data")
    with pytest.raises(UserError, match="coin") as visualize_error:
        call("--weights", untrained_run, "--data", data)
    words = ["eval", "--weights", str(untrained_run), "--data", str(data)]
    with pytest.raises(UserError) as eval_error:
        CliRunner().invoke(afictl, words, catch_exceptions=False)
    assert str(visualize_error.value) == str(eval_error.value)


@pytest.fixture
def other_run(untrained_run):
    """The same detector with other weights in its box predictor."""
    loaded = load_detector(untrained_run)
    torch.manual_seed(5)
    torch.nn.init.normal_(loaded.detector.head.roi_heads.box_predictor.cls_score.weight, std=0.5)
    folder = untrained_run.parent / "other"
    folder.mkdir()
    save_detector(folder / "best.safetensors", loaded.detector, loaded.metadata)
    return folder


def file_names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_only_different_ranks_the_images(untrained_run, other_run, tmp_path):
    arguments = ("--weights", untrained_run, "--weights", other_run, "--threshold", 0.3, "--output", tmp_path / "out")
    call("detections", *arguments)
    assert len(file_names(tmp_path / "out")) == 4
    result = call("detections", *arguments, "--only-different", "--limit", 2)
    ranking = re.findall(r"^\S+ \(image (\d+)\): (\S+) differing detections$", result.output, re.MULTILINE)
    assert len(ranking) == 2
    assert float(ranking[0][1]) >= float(ranking[1][1]) > 0
    assert file_names(tmp_path / "out") == [
        f"{rank}-{image_id}.png" for rank, (image_id, _) in enumerate(ranking, start=1)
    ]


def test_without_differences_no_file_changes(untrained_run, tmp_path):
    call("detections", "--weights", untrained_run, "--output", tmp_path / "out")
    names = file_names(tmp_path / "out")
    equal_weights = ("--weights", untrained_run, "--weights", untrained_run / "best.safetensors")
    with pytest.raises(UserError, match=r"4 images .*--threshold 0\.5"):
        call("detections", *equal_weights, "--only-different", "--output", tmp_path / "out")
    assert file_names(tmp_path / "out") == names
    with pytest.raises(UserError, match="--only-different"):
        call("detections", "--weights", untrained_run, "--only-different")


def test_features_of_kinds_runs_and_weights(untrained_run, other_run, tmp_path):
    torch.manual_seed(0)
    AFInterpolator(64).save(tmp_path / "interpolator.safetensors")
    kinds = [("--interpolator", kind) for kind in ("bilinear", "carafe", tmp_path / "interpolator.safetensors")]
    arguments = ("--guide", untrained_run, *sum(kinds, ()), "--weights", other_run, "--levels", "p3", "--limit", 1)
    result = call("features", *arguments, "--format", "html")
    assert "1 picture" in result.output
    (page,) = (untrained_run / "features").glob("*.html")
    for title in ("bilinear", "carafe (untrained)", f"{tmp_path.name} (afi)", "other (nearest)", "target"):
        assert f"p3, {title}" in page.read_text()


def test_default_features_are_those_of_fixed_interpolation(untrained_run):
    assert "2 pictures" in call("features", "--guide", untrained_run, "--limit", 2).output
    assert len(file_names(untrained_run / "features")) == 2


def test_gradcam_of_two_runs(untrained_run, other_run):
    result = call("gradcam", "--weights", untrained_run, "--weights", other_run, "--limit", 2)
    assert "2 pictures" in result.output
    assert f"pictures of all 2 go to {untrained_run / 'gradcam'}" in result.output
    ids = load_dataset(data_of(untrained_run), "val").image_ids[:2]
    assert file_names(untrained_run / "gradcam") == sorted(f"{image_id}-gradcam.png" for image_id in ids)


def test_gradcam_without_detection_or_object_is_an_error(untrained_run, tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "black.png")
    arguments = ("--weights", untrained_run, "--images", tmp_path / "black.png", "--output", tmp_path / "out")
    with pytest.raises(UserError, match=r"1 images .*no detection .*1\.0"):
        call("gradcam", *arguments, "--threshold", 1.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["detections", "gradcam", "features"])
def test_runs_of_one_name_have_different_titles(untrained_run, other_run, tmp_path, command):
    loaded = load_detector(other_run)
    runs = []
    for kind in ("carafe", "dysample"):
        runs.append(tmp_path / kind / "seed0")
        runs[-1].mkdir(parents=True)
        detector = build_detector(loaded.preset, len(loaded.classes), build_interpolator(kind, 64))
        save_detector(runs[-1] / "best.safetensors", detector, loaded.metadata)
    option = "--interpolator" if command == "features" else "--weights"
    arguments = [word for run in runs for word in (option, run)]
    arguments += ["--guide", untrained_run, "--levels", "p3"] if command == "features" else ["--threshold", 0]
    source = ("--data", data_of(untrained_run), "--limit", 1, "--output", tmp_path / "out", "--format", "html")
    call(command, *arguments, *source)
    page = (tmp_path / "out" / f"{command}.html").read_text()
    for name in ("carafe/seed0", "dysample/seed0"):
        assert re.search(rf"<figcaption>(p3, )?{name}<", page)


@pytest.mark.parametrize("form", ["png", "svg", "html"])
def test_training_of_two_runs(tmp_path, form):
    for name in ("nearest", "afi"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            '{"step": 1, "loss_mask": 1.0, "lr": 0.1}\n{"step": 2, "box/AP": 9}\n'
        )
    result = call("training", tmp_path / "nearest", tmp_path / "afi", "--format", form)
    assert "2 runs" in result.output
    assert file_names(tmp_path / "nearest" / "training") == [f"training.{form}"]


def test_class_names_are_escaped_in_a_page(untrained_run):
    loaded = load_detector(untrained_run)
    classes = ["<script>alert(1)</script>", '"><img src=//x onerror=y>', "&lt;", "ok"]
    save_detector(untrained_run / "best.safetensors", loaded.detector, {**loaded.metadata, "classes": classes})
    image = untrained_run / "<b>.png"
    Image.new("RGB", (96, 96), (90, 60, 30)).save(image)
    for command in ("detections", "gradcam"):
        call(command, "--weights", untrained_run, "--images", image, "--threshold", 0.0, "--format", "html")
        (page,) = (untrained_run / command).glob("*.html")
        text = page.read_text()
        assert "<script" not in text
        assert "<img src=//x" not in text
        assert "<b>" not in text


def test_errors_of_options_and_files(untrained_run, tmp_path, shapes):
    with pytest.raises(UserError, match=r"--data .*--images "):
        call("--weights", untrained_run, "--data", shapes, "--images", tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.jpg"):
        call("--weights", untrained_run, "--images", tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="nowhere"):
        call("--weights", tmp_path / "nowhere", "--data", shapes)
    with pytest.raises(UserError, match="--levels p9"):
        call("features", "--guide", untrained_run, "--levels", "p9")
    for levels, fact in (("", "--levels ''"), ("p3,", "--levels ''"), ("p3, p3", "p3 .*twice")):
        with pytest.raises(UserError, match=fact):
            call("features", "--guide", untrained_run, "--levels", levels)
    with pytest.raises(UserError, match="bilinaer"):
        call("features", "--guide", untrained_run, "--interpolator", "bilinaer")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        call("training", untrained_run)
    with pytest.raises(UserError, match="--format pdf"):
        call("training", untrained_run, "--format", "pdf")
    assert call("gradcam", "--weights", untrained_run, "--format", "svg").exit_code == 2
    assert not (untrained_run / "features").exists()
    assert not (untrained_run / "training").exists()


@pytest.mark.parametrize("command", ["detections", "gradcam", "features"])
def test_a_split_of_image_files_is_an_error(untrained_run, shapes, command):
    weights = ("--guide" if command == "features" else "--weights", untrained_run)
    images = ("--images", shapes / "val2017")
    with pytest.raises(UserError, match=r"--split .* --images"):
        call(command, *weights, *images, "--split", "val")


@pytest.mark.parametrize("command", ["detections", "gradcam", "features"])
def test_errors_of_output_and_images_come_before_loading(untrained_run, tmp_path, monkeypatch, command):
    monkeypatch.setattr("afictl.weights.load_detector", lambda *_, **__: pytest.fail("loaded before the checks"))
    run = ("--guide" if command == "features" else "--weights", untrained_run)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=f"--output .* {tmp_path / 'file'} "):
        call(command, *run, "--output", tmp_path / "file" / "out")
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (96, 96)).save(folder / "a.png")
    (folder / "b.png").write_text("no image")
    with pytest.raises(UserError, match=r"b\.png"):
        call(command, *run, "--images", folder, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_without_curves_is_an_error(tmp_path):
    run = tmp_path / "grid" / "afi" / "seed0"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match="afi/seed0"):
        call("training", run)
    with pytest.raises(UserError, match=f"metrics.jsonl.*{run}"):
        call("training", tmp_path / "grid")
    assert not (run / "training").exists()


@pytest.mark.parametrize("command", ["detections", "features", "gradcam"])
def test_images_in_a_subfolder_are_told_where_they_are(untrained_run, shapes, tmp_path, command):
    data = shutil.copytree(shapes, tmp_path / "data")
    folder = data / "val2017"
    folder.rename(data / "a")
    folder.mkdir()
    (data / "a").rename(folder / "a")
    flag = "--guide" if command == "features" else "--weights"
    with pytest.raises(UserError, match=f"4 of its 4 images .* is in {folder / 'a'}: "):
        call(command, flag, untrained_run, "--data", data)
