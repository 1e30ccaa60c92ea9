"""Files of detectron2 and AFI-GAN, from image to final boxes, against the numbers of their code."""

import pytest
import torch

from afictl.weights import load_detector
from tests.helpers.foreign_checkpoints import save_pkl
from tests.helpers.golden_detectors import REFERENCES
from tests.helpers.golden_files import H_FULL, TOLERANCE, assert_golden, reference_tensors

CASES = {"mask_rcnn_r50_fpn": ".pkl", "mask_rcnn_r50_pafpn_afi": ".pth"}


@pytest.mark.parametrize("reference", [r for r in REFERENCES if r.file in CASES], ids=lambda r: r.file)
def test_an_imported_detector_gives_the_detections_of_the_original(reference, tmp_path):
    tensors = reference_tensors(reference.keys, H_FULL)
    path = tmp_path / f"model_final{CASES[reference.file]}"
    if path.suffix == ".pkl":
        save_pkl(path, tensors)
    else:
        torch.save({"model": tensors, "iteration": 90_000}, path)
    loaded = load_detector(path)
    assert loaded.report.complete
    assert loaded.preset.name == reference.preset
    with torch.no_grad():
        detections = loaded.detector([reference.image()])[0]
    values = {"boxes": detections["boxes"], "scores": detections["scores"], "classes": detections["labels"] - 1}
    for name, value in values.items():
        # Scores are a softmax of logits near 20.
        tolerance = 1e-4 if name == "scores" else TOLERANCE
        assert_golden(reference.file, f"{reference.prefix}inst_{name}", value, tolerance)
