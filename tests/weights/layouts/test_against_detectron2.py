"""Detectors of detectron2, and what ``convert`` makes of their weights, see the same in photographs."""

import pytest
import torch

from afictl.data.images import read_image
from afictl.weights import load_detector
from afictl.weights.convert import convert
from tests.golden_files import H_FULL, reference_tensors

pytestmark = pytest.mark.detectron2

SIDE = 192
PROPOSALS = 100
MODELS = {
    "d2_mask_rcnn_R50_FPN_3x": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "d2_retinanet_R50_FPN_3x": "COCO-Detection/retinanet_R_50_FPN_3x.yaml",
}


@pytest.fixture(scope="module")
def photographs(shared_data):
    """Three, RGB in 0..255, cut to a size that is quick to look at."""
    files = sorted((shared_data / "coco-mini" / "val2017").glob("*.jpg"))[:3]
    return [read_image(file)[:, :SIDE, : SIDE + 37] for file in files]


@pytest.mark.parametrize("key_list", MODELS)
def test_original_and_imported_detector_find_the_same(key_list, photographs, tmp_path):
    pytest.importorskip("detectron2")
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config(MODELS[key_list])
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = PROPOSALS
    original = build_model(cfg).eval()
    original.load_state_dict(reference_tensors(key_list, H_FULL))
    torch.save({"model": original.state_dict()}, tmp_path / "model_final.pth")
    convert(
        tmp_path / "model_final.pth",
        tmp_path / "ours.safetensors",
        settings=[f"detector.proposals_test={PROPOSALS}"],
    )
    imported = load_detector(tmp_path / "ours.safetensors").detector
    for photograph in photographs:
        height, width = photograph.shape[1:]
        pixels = {"image": photograph.flip(0).float(), "height": height, "width": width}
        with torch.no_grad():
            expected = original([pixels])[0]["instances"]
            found = imported([photograph / 255])[0]
        assert len(found["boxes"]) == len(expected) > 0
        # In the order of their scores, of which neighbours may be closer than float32 tells.
        distances = torch.cdist(found["boxes"], expected.pred_boxes.tensor, p=torch.inf)
        distances += 1e3 * (found["labels"][:, None] != expected.pred_classes + 1)
        nearest = distances.argmin(dim=1)
        assert sorted(nearest.tolist()) == list(range(len(expected)))
        assert distances.min(dim=1).values.max() < 0.05
        torch.testing.assert_close(found["scores"], expected.scores[nearest], rtol=0, atol=1e-4)
        if "masks" in found:
            assert (found["masks"] != expected.pred_masks[nearest]).float().mean() < 1e-3
