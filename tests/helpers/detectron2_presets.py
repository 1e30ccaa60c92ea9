"""Small copies of configurations of detectron2's model zoo, as presets and as detectors."""

import copy

import torch

from afictl import build_detector, load_preset

ZOO = {
    "mask": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "retinanet": "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    "cascade": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "gn": "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
}
SMALL = {
    "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "FPN": {"OUT_CHANNELS": 32},
    "ROI_BOX_HEAD": {"FC_DIM": 32, "CONV_DIM": 32},
    "ROI_MASK_HEAD": {"CONV_DIM": 32},
    "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 16, "SCORE_THRESH_TEST": 0.0},
    "RPN": {"POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 40},
    "RETINANET": {"NUM_CONVS": 1, "SCORE_THRESH_TEST": 0.0},
}
SMALL_OPTIONS = (
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (16,), "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.0),
    *("TEST.DETECTIONS_PER_IMAGE", 5),
)
"""For ``merge_from_list`` of a configuration."""


def small_preset(tmp_path, kind="mask", *overrides, **model):
    """The preset of a small copy of a configuration of the model zoo, with ``model`` in its node MODEL."""
    from detectron2 import model_zoo

    # RetinaNet's configuration computes its anchors in Python; the copy holds the results.
    cfg = model_zoo.get_config(ZOO[kind])
    cfg.MODEL.merge_from_other_cfg(type(cfg)({**copy.deepcopy(SMALL), **model}))
    cfg.TEST.DETECTIONS_PER_IMAGE = 9
    path = tmp_path / f"{kind}.yaml"
    path.write_text(cfg.dump())
    return load_preset(f"detectron2:{path}", overrides)


def build_small(tmp_path, kind="mask", *overrides, interpolator="nearest", **model):
    """A detector of three classes made of ``small_preset``, with the same weights every time."""
    return set_weights(build_detector(small_preset(tmp_path, kind, *overrides, **model), 3, interpolator))


@torch.no_grad()
def set_weights(detector):
    """Set the same random weights every time, for which pixels of 0..255 give maps of moderate values."""
    generator = torch.Generator().manual_seed(0)
    for name, value in detector.named_parameters():
        if value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
        if name.endswith("stem.conv1.weight"):
            value.mul_(detector.preset.input.std[0])
    return detector.eval()
