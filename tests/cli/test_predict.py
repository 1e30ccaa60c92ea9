"""``afictl predict``: inputs, formats, drawings and skipped files."""

import csv
import json
import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.eval import eval_command
from afictl.cli.predict import predict_command
from afictl.data import load_dataset, read_image
from afictl.data.media_files import find_media
from afictl.errors import UserError

app = typer.Typer()
app.command("predict")(predict_command)
app.command("eval")(eval_command)


def call(*arguments, lines=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=lines, catch_exceptions=False)


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def images(shapes):
    """Four images of the validation split."""
    return shapes / "val2017"


@pytest.fixture(scope="module")
def every_format(untrained_detector, images, tmp_path_factory):
    """The predictions on the folder of images in all formats, and drawings."""
    output = tmp_path_factory.mktemp("predictions") / "new" / "all"
    formats = [word for form in ("coco", "yolo", "csv", "jsonl") for word in ("--format", form)]
    result = call("predict", "--weights", untrained_detector, images, "--output", output, *formats, "--draw",
                  "--threshold", 0.1, "--batch-size", 3)  # fmt: skip
    assert result.exit_code == 0, result.output
    return output


def test_coco_results_are_those_of_eval(untrained_detector, shapes, every_format, tmp_path):
    call("eval", "--weights", untrained_detector, "--output", tmp_path, "--devices", 1, "--batch-size", 3)
    expected = [record for record in json.loads((tmp_path / "predictions.json").read_text()) if record["score"] >= 0.1]
    results = json.loads((every_format / "predictions.json").read_text())
    assert results == expected
    assert len(results) > 0
    dataset = load_dataset(shapes, "val")
    info = json.loads((every_format / "image_info.json").read_text())
    assert [record["id"] for record in info["images"]] == dataset.image_ids  # the file names are numbers
    assert [[record["height"], record["width"]] for record in info["images"]] == dataset.sizes_hw.tolist()
    assert {record["name"]: record["id"] for record in info["categories"]} == dict(
        zip(dataset.classes, dataset.category_ids, strict=True)
    )
    scored = call("eval", "--predictions", every_format / "predictions.json", "--data", shapes)
    assert scored.exit_code == 0


def test_yolo_labels_csv_and_json_lines_have_the_same_detections(every_format, images, tmp_path):
    info = json.loads((every_format / "image_info.json").read_text())
    results = json.loads((every_format / "predictions.json").read_text())
    boxes = np.array([record["bbox"] for record in results])
    names = {record["id"]: record["name"] for record in info["categories"]}

    dataset = _yolo_dataset(every_format, images, tmp_path / "yolo")
    assert [dataset.classes[k - 1] for k in dataset.arrays["labels"].tolist()] == [
        names[record["category_id"]] for record in results
    ]
    np.testing.assert_allclose(dataset.arrays["xywh"].numpy(), boxes, atol=0.001)

    with (every_format / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image_id"]) for row in rows] == [record["image_id"] for record in results]
    assert [row["class"] for row in rows] == [names[record["category_id"]] for record in results]
    written = [[float(row[key]) for key in ("x", "y", "width", "height")] for row in rows]
    np.testing.assert_allclose(written, boxes, atol=0.006)
    assert {row["file"] for row in rows} <= {str(path) for path in images.iterdir()}

    lines = [json.loads(line) for line in (every_format / "predictions.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in sorted(images.iterdir())]
    detections = [{**d, "image_id": line["image_id"]} for line in lines for d in line["detections"]]
    assert [d.pop("class") for d in detections] == [names[record["category_id"]] for record in results]
    assert detections == results


def _yolo_dataset(output, images, folder):
    """The labels with the images as a dataset, without the confidences, which datasets do not have."""
    shutil.copytree(images, folder / "images" / "val")
    (folder / "labels" / "val").mkdir(parents=True)
    for file in (output / "labels").iterdir():
        lines = [line.split() for line in file.read_text().splitlines()]
        assert all(0.1 <= float(words[5]) <= 1 for words in lines)
        (folder / "labels" / "val" / file.name).write_text("".join(f"{' '.join(words[:5])}\n" for words in lines))
    names = (output / "classes.txt").read_text().split()
    (folder / "data.yaml").write_text(json.dumps({"val": "images/val", "names": names}))
    return load_dataset(folder, "val")


def test_drawings_have_the_names_and_sizes_of_the_images(every_format, images):
    for path in images.iterdir():
        drawing = read_image(every_format / "drawn" / f"{path.stem}.jpg")
        image = read_image(path)
        assert drawing.shape == image.shape
        assert (drawing.int() - image.int()).abs().float().mean() > 3


def test_inputs_are_files_folders_patterns_and_standard_input(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b[1].png", "notes.txt", "in/a.png", "in/deep/c.JPG", "in/.hidden.png", "in/film.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def sources(*arguments, lines=()):
        return [(str(file.path), file.name) for file in find_media(arguments, lines)]

    assert sources("notes.txt") == [("notes.txt", "notes")]  # whatever its suffix
    inside = [("in/a.png", "a"), ("in/deep/c.JPG", "deep/c"), ("in/film.mp4", "film")]
    assert sources("in") == inside
    assert sources("a.png", "in") == [("a.png", "a"), ("in/a.png", "a-2"), *inside[1:]]
    assert sources("in", "./in/a.png") == inside
    assert sources("*") == [("a.png", "a"), ("b[1].png", "b[1]")]
    assert sources("b[1].png") == [("b[1].png", "b[1]")]
    assert [name for _, name in sources("**/*.png")] == ["a", "b[1]", "a-2"]
    assert sources("-", lines=["in\n", "\n", "a.png\r\n"]) == [*inside, ("a.png", "a-2")]
    for arguments, lines, fact in [
        (["none.png"], [], "none.png: no such"),
        (["-"], ["a.png\n", "none.png\n"], "line 2: none.png"),
        (["-"], ["\n"], "standard input"),
        (["*.jpeg"], [], r"\*\.jpeg: matches no file"),
        (["*.txt"], [], r"\*\.txt: matches no image"),
        (["in/.none"], [], "in/.none"),
    ]:
        with pytest.raises(UserError, match=fact):
            find_media(arguments, lines)


def test_broken_images_are_named_and_skipped(untrained_detector, images, tmp_path):
    good = sorted(images.iterdir())[:2]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    (tmp_path / "text.png").write_text("text")
    output = tmp_path / "out"
    lines = "\n".join(map(str, [good[0], tmp_path / "broken.jpg", good[1], tmp_path / "text.png"]))
    result = call("predict", "--weights", untrained_detector, "-", "--output", output, "--format", "jsonl",
                  "--batch-size", 2, "--threshold", 0, lines=lines)  # fmt: skip
    assert result.exit_code == 1
    assert f"skipped: image {tmp_path / 'broken.jpg'} " in result.stderr
    assert f"skipped: image {tmp_path / 'text.png'} " in result.stderr
    records = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [(record["file"], record["image_id"]) for record in records] == [(str(good[0]), 1), (str(good[1]), 2)]
    with pytest.raises(UserError, match=r"no input can be read.*broken\.jpg"):
        call("predict", "--weights", untrained_detector, tmp_path / "broken.jpg", "--output", tmp_path / "none")
    assert files_of(tmp_path) == ["broken.jpg", "out/predictions.jsonl", "text.png"]


@pytest.mark.parametrize("views", [("--tta", "--tta-sizes", "64,96", "--no-tta-flip"), ("--slice", 64)])
def test_views_of_an_image_are_those_of_eval(untrained_detector, images, tmp_path, views):
    image = min(images.iterdir())
    call("eval", "--weights", untrained_detector, "--output", tmp_path / "eval", "--limit", 1, *views)
    call("predict", "--weights", untrained_detector, image, "--output", tmp_path / "out", *views, "--threshold", 0)
    results = [json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("eval", "out")]
    assert results[0] == results[1] != []


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--output", "USED"], "used is in use"),
        (["--format", "jsn"], "--format jsn: .*'json"),
        (["--format", "csv", "--format", "csv"], "--format csv: .*twice"),
        (["--tta-sizes", "64"], "--tta-sizes .*--tta"),
        (["--tta", "--batch-size", "2"], "--batch-size .*--tta"),
        (["--overlap", "0.5"], "--overlap .*--slice"),
        (["--slice", "64", "--tta", "--tta-sizes", "64"], "--slice .*--tta"),
        (["none.jpg"], "none.jpg: no such file"),
        (["--weights", "none"], "none"),
        (["--set", "input.test_sise=64"], "input.test_sise"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(untrained_detector, images, tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    words = {"--weights": untrained_detector, "--output": "out"}
    for name in arguments[::2]:
        words.pop(name, None)
    changes = ["used" if word == "USED" else word for word in arguments]
    with pytest.raises(UserError, match=fact) as error:
        call("predict", *(word for pair in words.items() for word in pair), images, *changes)
    assert "\n" not in str(error.value)
    assert files_of(tmp_path) == ["used/file"]


RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def video(images, tmp_path_factory):
    """The four images as a video of eight frames; its sides are odd."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("video") / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 95, 93, "bgr0"
        for file in [path for path in sorted(images.iterdir()) for _ in range(2)]:
            frame = av.VideoFrame.from_image(Image.open(file).convert("RGB").crop((0, 0, 95, 93)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_video_is_predicted_and_drawn_frame_by_frame(untrained_detector, images, video, tmp_path):
    import av

    output = tmp_path / "out"
    frame = tmp_path / "frame.png"
    Image.open(max(images.iterdir())).convert("RGB").crop((0, 0, 95, 93)).save(frame)
    result = call("predict", "--weights", untrained_detector, video, frame, "--output", output, "--draw", "--format",
                  "jsonl", "--format", "yolo", "--threshold", 0.1, "--batch-size", 3)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 images and 8 frames" in result.output
    assert "images and frames: 9 of 9" in result.output
    first, *frames = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert "frame" not in first
    assert [record["frame"] for record in frames] == list(range(8))
    assert [record["image_id"] for record in frames] == list(range(2, 10))
    np.testing.assert_allclose([record["time_s"] for record in frames], np.arange(8) / float(RATE), atol=0.001)
    for record in frames[-2:]:  # batches of other sizes are rounded differently on some processors
        for detection, expected in zip(record["detections"], first["detections"], strict=True):
            assert detection["bbox"] == pytest.approx(expected["bbox"], abs=1e-4)
            assert detection["score"] == pytest.approx(expected["score"], abs=1e-6)
    assert first["detections"] != frames[0]["detections"]
    labels = [f"labels/film/{k:06d}.txt" for k in range(8)]
    drawn = ["drawn/film.mp4", "drawn/frame.jpg"]
    assert files_of(output) == sorted(["classes.txt", *drawn, *labels, "labels/frame.txt", "predictions.jsonl"])
    with av.open(str(output / "drawn" / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (96, 94, 8)
        assert abs(stream.average_rate - RATE) < 0.1
        picture = next(container.decode(stream)).to_ndarray(format="rgb24")[:93, :95]
    original = read_image(min(images.iterdir())).permute(1, 2, 0).numpy()[:93, :95]
    assert np.abs(picture.astype(int) - original).mean() > 3


def test_damaged_video_ends_early_and_is_named(untrained_detector, video, tmp_path):
    data = video.read_bytes()
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data[: len(data) // 2])
    (tmp_path / "broken.mp4").write_bytes(b"broken " * 20)
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile damaged.mkv\n")  # FFmpeg would read the other file
    output = tmp_path / "out"
    result = call("predict", "--weights", untrained_detector, tmp_path, "--output", output, "--draw")
    assert result.exit_code == 1
    for name in ("broken.mp4", "list.avi"):
        assert f"skipped: video {tmp_path / name} cannot be read" in result.stderr
    images = json.loads((output / "image_info.json").read_text())["images"]
    assert 1 <= len(images) < 8
    assert files_of(output / "drawn") == ["damaged.mp4"]


def test_video_of_a_phone_is_turned_upright(tmp_path):
    av = pytest.importorskip("av")
    from afictl.data.videos import read_frames

    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16] = 255
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, pix_fmt="yuv420p")
        stream.width, stream.height = 64, 48
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # the matrix of the track header, ISO/IEC 14496-12
    data[start : start + 36] = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 48 << 16, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    (frame,) = read_frames(path)
    image = frame.read()
    assert image.shape == (3, 64, 48)
    assert image[:, 4, -4].min() > 200  # the upper left corner, turned clockwise
    assert image[:, 4, 4].max() < 50


def test_without_pyav_the_error_names_the_extra(untrained_detector, images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "film.mp4").touch()
    with pytest.raises(UserError, match=r"film\.mp4 .*pip install 'afictl\[video\]'"):
        call("predict", "--weights", untrained_detector, images, tmp_path / "film.mp4", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_predict_the_same(untrained_detector, images, video, every_format, tmp_path):
    output = tmp_path / "two"
    command = [sys.executable, "-m", "afictl", "predict", "--weights", untrained_detector, images, video, "--draw"]
    options = ["--output", output, "--devices", "2", "--batch-size", "3", "--threshold", "0.1", "--format", "jsonl"]
    one = call("predict", *command[4:], *options[:1], tmp_path / "one", *options[4:])
    assert one.exit_code == 0
    subprocess.run(list(map(str, [*command, *options])), check=True, env=None)
    assert (output / "predictions.jsonl").read_bytes() == (tmp_path / "one" / "predictions.jsonl").read_bytes()
    assert files_of(output) == files_of(tmp_path / "one")


def test_a_folder_without_images_and_videos_names_the_suffixes_of_both(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no file in \.jpg.*\.mp4"):
        find_media([str(tmp_path)], ())
