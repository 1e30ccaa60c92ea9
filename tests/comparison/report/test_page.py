"""The report as a file: content, self-containment and escaping."""

import base64
import hashlib
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from afictl.comparison.analysis.screen_tables import comparison_notes
from afictl.comparison.analysis.verdicts import overview_sentences
from afictl.comparison.report import write_report
from afictl.comparison.report.report_tables import NO_VALUE
from afictl.comparison.results import Comparison, ComparisonRun, MethodResult
from afictl.data import make_shapes
from afictl.data.formats.coco import load_coco_file
from tests.helpers.comparisons import NAMES, make_comparison, make_cost, with_images

HOSTILE = "<img src=x onerror=alert(1)></script><script>window.injected=1</script>\"'&{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=1, val=2, size=96)


@pytest.fixture(scope="module")
def comparison(data, tmp_path_factory):
    return make_comparison(data, tmp_path_factory.mktemp("runs"), seeds=3)


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    return render(comparison, tmp_path_factory.mktemp("report"))


def render(comparison, folder):
    path = folder / "report.html"
    write_report(comparison, path)
    assert path.stat().st_size < 10_000_000
    return path.read_text(encoding="utf-8")


def visible_text(page):
    """The text of a page without its pictures."""
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page[page.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_paths_are_relative_to_the_report_or_the_current_folder(comparison, tmp_path, monkeypatch):
    """Of other paths only the last part is shown, as the page is passed on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    settings = {
        "data": f"{tmp_path}/data",
        "start weights": f"{tmp_path}/out/a / /elsewhere{tmp_path}/b",
        "here": str(tmp_path),
    }
    changed = with_images(replace(comparison, settings=settings), tmp_path / "val")
    text = visible_text(render(changed, tmp_path / "out"))
    for part in ("start weights a / …/b", "data data", "images val", f"here …/{tmp_path.name}"):
        assert part in text
    assert str(tmp_path.parent) not in text


def test_the_table_names_the_origin_of_every_interpolator(comparison, tmp_path):
    afi = replace(
        comparison.methods[-1], source=str(tmp_path / "afi" / "interpolator.safetensors"), origin="trained: afi"
    )
    text = visible_text(render(replace(comparison, methods=(*comparison.methods[:-1], afi)), tmp_path))
    assert f"{comparison.baseline} baseline, no weights " in text
    assert f"{afi.name} trained: afi " in text
    assert str(tmp_path) not in text


def test_the_sentence_on_many_methods_precedes_their_verdicts(data, tmp_path):
    comparison = make_comparison(data, tmp_path / "runs", NAMES[:4], masks=False)
    (sentence,) = overview_sentences(comparison)
    assert f" {sentence}. bilinear" in visible_text(render(comparison, tmp_path))
    assert comparison_notes(comparison)[0] == sentence


def test_the_page_has_verdicts_accuracies_and_settings(page, comparison):
    text = visible_text(page)
    for method in comparison.methods:
        assert method.verdict in text
        assert f"{method.mean['box/AP']:.1f} ± {method.deviation['box/AP']:.1f}" in text
        assert f"{method.mean['mask/APs']:.1f} ± {method.deviation['mask/APs']:.1f}" in text
    assert "baseline" in text
    assert "of it 0.13" not in text  # of an interpolator that is not compared
    for part in ("800 steps of 4 images", "3 (0, 1, 2)", comparison.preset, comparison.annotation_file.name):
        assert part in text
    for part in ("Holm", "afictl compare --seeds 2", "2.14.1", f"…/{comparison.methods[1].runs[2].folder.name}"):
        assert part in text


def test_the_page_has_the_spread_between_seeds_and_the_power(page, comparison):
    text = visible_text(page)
    for kind in ("box", "mask"):
        assert f"Spread of {kind} AP between seeds" in text
        for method in comparison.methods:
            difference, deviation = method.difference.get(f"{kind}/AP"), method.deviation[f"{kind}/AP"]
            values = f"{difference.deviation:.2f} {difference.half_width:.2f} " if difference else NO_VALUE.text
            assert f" {method.name} 3 {deviation:.2f} {values}" in text


def test_the_sections_are_in_order(page):
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == ["verdict", "table", "cost", "curves", "classes", "images", "reproduce"]


def test_labels_begin_with_the_marker_of_their_point(page, comparison):
    section = page[page.index('<section id="cost"') : page.index('<section id="curves"')]
    groups = re.findall(r'<g class="(point [^"]*)">(.*?)</g>', section, flags=re.DOTALL)
    assert groups
    for _, group in groups:
        point_marker, label_marker = re.findall(r'<path(?: class="label-marker")? d="([^"]+)"', group)
        assert point_marker == label_marker
        marker_x = float(re.search(r'class="label-marker".*?translate\(([\d.]+),', group)[1])
        assert 6 < float(re.search(r'<text x="([\d.]+)"', group)[1]) - marker_x < 12
    names = [re.search(r"<title>(.*?)</title>", group)[1] for _, group in groups]
    count = len(comparison.methods)
    for first in range(0, len(names), count):  # the baseline is drawn last
        assert names[first + count - 1] == comparison.baseline
        assert sorted(names[first : first + count]) == sorted(method.name for method in comparison.methods)


def test_leaders_of_curves_are_dotted(page):
    section = page[page.index('<section id="curves"') : page.index('<section id="classes"')]
    leaders = re.findall(r'<path class="([^"]*leader[^"]*)"', section)
    assert set(leaders) == {"leader dots"}
    assert re.search(r"\.leader\.dots \{[^}]*stroke-dasharray: 0 5;[^}]*\}", page)
    assert "dots connect" in visible_text(page)


def test_the_star_of_a_detection_is_explained(page, comparison, tmp_path):
    explanation = "A star before the label and a wider outline "
    assert explanation in visible_text(page)
    assert explanation not in visible_text(render(with_images(comparison, tmp_path / "nowhere"), tmp_path))


def test_the_page_is_self_contained(page):
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert sum(source.startswith("data:image/") for source in sources) == 2 * 4  # images, ground truth and methods
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_the_policy_allows_only_the_script_of_the_page(page):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    policy = html.unescape(policy)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        ((content),) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_strings_of_the_data_are_escaped(data, tmp_path):
    comparison = hostile(data, tmp_path)
    page = render(comparison, tmp_path)
    assert page.count("<script") == 1
    assert "<img src=x" not in page
    assert "49" not in re.findall(r"<title>(.*)</title>", page)[0]
    text = visible_text(page)
    assert text.count(html.unescape(HOSTILE)) > 6


def hostile(data, folder):
    """A comparison in which every string that a user or a dataset can choose is markup."""
    file = data / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for number, category in enumerate(content["categories"]):
        category["name"] = f"{HOSTILE} {number}"
    images = folder / "hostile" / "val2017"
    images.mkdir(parents=True)
    for image in content["images"]:
        name = f'"><b onmouseover=alert(1)> {image["id"]}.jpg'
        (images / name).write_bytes((data / "val2017" / image["file_name"]).read_bytes())
        image["file_name"] = name
    (folder / "hostile" / "annotations").mkdir()
    (folder / "hostile" / "annotations" / file.name).write_text(json.dumps(content))
    comparison = make_comparison(folder / "hostile", folder / "runs", [HOSTILE, f"{HOSTILE} b", f"{HOSTILE} c"])
    methods = [replace(method, source=HOSTILE, origin=HOSTILE, verdict=HOSTILE) for method in comparison.methods]
    for method in methods:
        (method.runs[0].folder / "versions.json").write_text(json.dumps({"command": [HOSTILE], HOSTILE: HOSTILE}))
    return replace(comparison, preset=HOSTILE, settings={HOSTILE: HOSTILE}, methods=tuple(methods))


def only_costs(comparison):
    return [MethodResult(m.name, m.name, (), make_cost(k)) for k, m in enumerate(comparison.methods)]


def without_ap(comparison):
    methods = []
    for method in comparison.methods:
        no_values = dict.fromkeys(method.mean)
        runs = tuple(
            replace(
                run,
                metrics=no_values,
                per_class=[{"name": "disc", "objects": 0, "box/AP": None, "box/AP50": None}],
            )
            for run in method.runs
        )
        methods.append(replace(method, runs=runs, mean=no_values, deviation=no_values, difference={}, verdict=""))
    return methods


def without_cost(comparison):
    return [replace(method, cost=None) for method in comparison.methods]


def one_seed(comparison):
    methods = []
    for method in comparison.methods:
        difference = {
            name: replace(value, low=None, high=None, seeds=1, claimed=False)
            for name, value in method.difference.items()
        }
        no_values = dict.fromkeys(method.mean)
        methods.append(replace(method, runs=method.runs[:1], deviation=no_values, difference=difference))
    return methods


def without_files(comparison):
    """Runs whose folders are missing."""
    return [
        replace(method, runs=tuple(replace(run, folder=run.folder / "gone") for run in method.runs))
        for method in comparison.methods
    ]


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (only_costs, ["none: only costs", "nothing was trained", "18.40 of it 0.00"]),
        (without_ap, ["This plot needs ", "18.40 of it 0.00"]),
        (without_cost, ["This plot needs "]),
        (one_seed, ["one seed"]),
        (without_files, ["nearest is left out: predictions", "No run has logged metrics", "recorded its versions"]),
        (lambda comparison: comparison.methods[:1], ["needs trained methods in addition to the baseline"]),
    ],
)
def test_a_page_of_a_partial_comparison_names_the_gaps(comparison, tmp_path, change, texts):
    partial = with_images(replace(comparison, methods=tuple(change(comparison))), tmp_path / "nowhere")
    text = visible_text(render(partial, tmp_path))
    for part in texts:
        assert part in text
    assert "None" not in text
    assert "nan" not in text.split()


def test_a_page_says_which_curve_is_missing_and_why_without_private_paths(data, tmp_path):
    comparison = make_comparison(data, tmp_path / "runs", seeds=1, masks=False)
    run = comparison.methods[1].runs[0]
    file = run.folder / "metrics.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([first, "{broken", *others]) + "\n")
    page = render(with_images(comparison, tmp_path / "nowhere"), tmp_path)
    text = visible_text(page)
    assert f"{comparison.methods[1].name}, seed {run.seed} has no curve: " in text
    assert "metrics.jsonl: line 2" in text
    assert str(tmp_path) not in page


def test_runs_without_a_metric_that_others_have_are_named_on_the_page_and_on_screen(data, tmp_path):
    """A metric of a later version, and metrics that cannot be read."""
    comparison = make_comparison(data, tmp_path / "runs", seeds=2, masks=False)
    first, *others = comparison.methods
    assert not [note for note in comparison_notes(comparison) if note.startswith("note: ")]
    old, new = first.runs
    metrics = {key: value for key, value in old.metrics.items() if key != "box/APs"}
    old = replace(old, metrics=metrics, training_seconds=None)
    (old.folder / "metrics.jsonl").write_text("[]\n")
    comparison = replace(comparison, methods=(replace(first, runs=(old, new)), *others))
    comparison = with_images(comparison, tmp_path / "nowhere")
    lacking, fault = [note.removeprefix("note: ") for note in comparison_notes(comparison) if note.startswith("note: ")]
    assert lacking.startswith(f"results of an earlier version lack box/APs: {first.name}, seed 0;")
    assert fault.startswith(f"{first.name}, seed 0 has no curve and no training time: {old.folder}")
    text = visible_text(render(comparison, tmp_path))
    assert lacking in text
    assert "no curve and no training time" in text


def test_a_page_without_masks_has_no_mask_ap(data, tmp_path):
    comparison = with_images(make_comparison(data, tmp_path / "runs", masks=False), tmp_path / "nowhere")
    page = render(comparison, tmp_path)
    assert "Mask AP" not in page
    assert "An image is left out" in visible_text(page)


def test_size_with_a_thousand_classes_and_large_photographs(tmp_path):
    """Noise, which no codec compresses, and long class names."""
    classes = [f"{'a rather long class name ' * 4}{k}" for k in range(1500)]
    images, annotation_file = large_photographs(tmp_path / "data", classes)
    methods = []
    for k, name in enumerate(NAMES):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "predictions.json").write_text(json.dumps([large_box(image, k) for image in (1, 2)]))
        rows = [{"name": label, "objects": 3, "box/AP": 40.0 + k * (i % 7)} for i, label in enumerate(classes)]
        run = ComparisonRun(0, folder, {"box/AP": 40.0}, rows, 60.0)
        methods.append(MethodResult(name, name, (run,), make_cost(k), mean={"box/AP": 40.0 + k}))
    comparison = Comparison("preset", load_coco_file(annotation_file, images), NAMES[0], {}, tuple(methods))
    page = render(comparison, tmp_path)
    assert page.count("data:image/") == 2 * 12
    assert "1480 more classes" in visible_text(page)


def large_box(image, k):
    return {"image_id": image, "category_id": 1 + k, "bbox": [100, 100, 900, 700], "score": 0.9}


def large_photographs(folder, classes):
    images = folder / "val2017"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 2000, "height": 1500} for k in (1, 2)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 100, 900, 700], "iscrowd": 0}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
    }
    for k in (1, 2):
        Image.fromarray(pixels).save(images / f"{k}.png", compress_level=0)
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return images, file
