"""Generated COCO results: scored as by pycocotools, or refused with the place of the fault."""

import json

import pytest
from hypothesis import strategies as st

from afictl.json_files import read_json
from tests.evaluation.test_predictions import METRICS, by_pycocotools
from tests.helpers.fuzzing import COUNTS, check_property, damaged, mutated, run_checked

ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")
FORMS = ("all", "boxes", "masks", "polygons", "floats", "wrapped")


@st.composite
def result_files(draw, instances, results):
    content = draw(mutated(in_form(draw(st.sampled_from(FORMS)), instances, results)))
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    return draw(damaged(text.encode(draw(st.sampled_from(ENCODINGS)), "surrogatepass")))


def in_form(form, instances, results):
    """``results`` as other programs write them."""
    outlines = [record["segmentation"] for record in instances["annotations"]]
    match form:
        case "boxes":
            return [without(item, "segmentation") for item in results]
        case "masks":
            return [without(item, "bbox") for item in results if "segmentation" in item]
        case "polygons":
            return [{**item, "segmentation": outline} for item, outline in zip(results, outlines, strict=False)]
        case "floats":
            return [{**item, "image_id": float(item["image_id"])} for item in results]
        case "wrapped":
            return {"annotations": results}
        case _:
            return results


def without(item, key):
    return {name: value for name, value in item.items() if name != key}


@pytest.mark.parametrize("count", COUNTS)
def test_results_are_scored_as_by_pycocotools_or_refused(folder, instances, results, afictl, count):
    data, output, file = folder / "data", folder / "output", folder / "results.json"
    truth = data / "annotations" / "instances_val.json"

    def check(content):
        file.write_bytes(content)
        arguments = ("--predictions", file, "--data", data, "--output", output / "scores")
        if run_checked(afictl, folder, "eval", *arguments, names=(file.name,)).code == 0:
            compare_with_pycocotools(truth, file, json.loads((output / "scores" / "metrics.json").read_text()))

    check_property(result_files(instances, results), count, check)


def compare_with_pycocotools(truth, file, evaluation):
    plain = file.parent / "output" / "plain.json"  # pycocotools reads UTF-8 without a byte order mark alone
    plain.write_text(json.dumps(read_json(file)))
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        values = [evaluation["metrics"].get(f"{name}/{metric}", "absent") for metric in METRICS]
        if "absent" in values:
            assert name == "mask"
            continue
        expected = by_pycocotools(truth, plain, kind)
        assert [-100 if value is None else value for value in values] == pytest.approx(expected, abs=1e-9)
