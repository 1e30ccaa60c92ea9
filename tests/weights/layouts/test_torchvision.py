import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import detection, resnet50
from torchvision.ops import FrozenBatchNorm2d

from afictl import UserError, build_detector
from afictl.presets import list_torchvision_presets
from afictl.weights import load_backbone_weights, load_detector, read_checkpoint
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.conversion import convert
from afictl.weights.layouts import to_afictl
from tests.helpers.slow_cases import others_slow
from tests.helpers.torchvision_files import build_torchvision, old_names, save_torchvision

NAMES = [name.partition(":")[2] for name in list_torchvision_presets()]
FIRST = [name for name in NAMES if not name.endswith("_v2")]
LIMITS = {"box_score_thresh": 0.05, "rpn_post_nms_top_n_test": 40, "box_detections_per_img": 9}


def afictl_names(tensors):
    """Under the names of afictl, without the batch counters, which frozen norms do not have."""
    return {f"model.{key}": value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def without_counters(tensors):
    return {key: value for key, value in tensors.items() if not key.endswith("num_batches_tracked")}


def convert_layout(tensors, tmp_path):
    return to_afictl(Checkpoint(tmp_path / "file.pth", dict(tensors), {}))


@pytest.mark.parametrize(("name", "count"), [*((name, 3) for name in NAMES), ("retinanet_resnet50_fpn_v2", 90)])
def test_models_are_recognised_by_their_content(name, count, tmp_path):
    with torch.device("meta"):
        tensors = build_torchvision(name, 1 + count).state_dict()
    checkpoint = convert_layout({key: torch.zeros(value.shape) for key, value in tensors.items()}, tmp_path)
    assert without_counters(checkpoint.tensors).keys() == afictl_names(tensors).keys()
    assert checkpoint.metadata["preset"]["name"] == f"torchvision:{name}"
    assert checkpoint.metadata["preset"]["backbone"]["norm"] == "batch"
    classes = checkpoint.metadata["classes"]
    assert len(classes) == count
    if count == 90:
        assert (classes[0], classes[11], classes[89]) == ("person", "N/A", "toothbrush")
        assert checkpoint.metadata["category_ids"][89] == 90


@torch.no_grad()
def test_state_dict_gives_the_detections_of_its_model_also_after_conversion(tmp_path):
    file, converted_file = tmp_path / "model.pth", tmp_path / "converted.safetensors"
    model = save_torchvision(file, "maskrcnn_resnet50_fpn", 4, min_size=61, max_size=83, **LIMITS)
    settings = ("detector.proposals_test=40", "detector.max_detections=9")
    report = convert(
        tmp_path / "model.pth", tmp_path / "converted.safetensors", classes="cat,dog,cow", settings=settings
    )
    assert report[0] == "recognised: torchvision's maskrcnn_resnet50_fpn"
    assert "matched, 0 missing, 0 unexpected, 0 mismatched" in report[2]
    loaded = load_detector(converted_file)
    assert loaded.classes == ("cat", "dog", "cow")
    image = torch.rand(3, 61, 83)
    (detections,), (expected,) = loaded.detector([image]), model([image])
    expected["masks"] = expected["masks"][:, 0] > 0.5
    assert len(expected["boxes"])
    assert all(torch.equal(detections[key], expected[key]) for key in expected)
    converted = read_checkpoint(converted_file).tensors
    assert all(torch.equal(converted[key], value) for key, value in afictl_names(model.state_dict()).items())


@pytest.mark.parametrize("name", others_slow(FIRST, ("maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")))
def test_names_of_old_files_are_converted(name, tmp_path):
    model = build_torchvision(name, 4)
    old = old_names(model.state_dict())
    assert "backbone.fpn.inner_blocks.0.weight" in old
    converted, expected = without_counters(convert_layout(old, tmp_path).tensors), afictl_names(model.state_dict())
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[key], value) for key, value in expected.items())


@torch.no_grad()
@pytest.mark.parametrize("name", others_slow(FIRST, ("maskrcnn_resnet50_fpn", "fcos_resnet50_fpn")))
def test_first_coco_weights_are_converted_to_the_default_eps(name, tmp_path):
    """torchvision sets the eps of their norms to 0; FCOS came later and keeps the usual one."""
    model = build_torchvision(name, 91)
    body = model.backbone.body
    frozen = {key: value for key, value in body.state_dict().items() if "num_batches" not in key}
    for key, value in frozen.items():
        if key.endswith("running_var"):
            value.uniform_(1e-7, 1e-3)  # where an eps of 1e-5 matters
        if key.endswith(".weight") and f"{key.removesuffix('weight')}running_var" in frozen:
            value.fill_(0.01)
    file = {f"backbone.body.{key}": value for key, value in frozen.items()}
    file |= {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.body.")}
    torch.save(old_names(file), tmp_path / "released.pth")
    loaded = load_detector(tmp_path / "released.pth")
    assert loaded.preset.backbone.norm == "frozen-batch"
    reference = with_eps(body, 1e-5 if name.startswith("fcos") else 0.0)
    image = torch.rand(1, 3, 64, 64)
    for features, expected in zip(loaded.detector.backbone(image).values(), reference(image).values(), strict=True):
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def with_eps(module, eps):
    """``module`` with torchvision's frozen batch norms of that eps."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(child.num_features, eps)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            with_eps(child, eps)
    return module


@pytest.mark.parametrize(
    "name", ["maskrcnn_resnet50_fpn", pytest.param("retinanet_resnet50_fpn_v2", marks=pytest.mark.slow)]
)
def test_imagenet_weights_are_loaded_into_the_body(name, tmp_path):
    donor = resnet50(weights=None)
    torch.save(donor.state_dict(), tmp_path / "resnet50.pth")
    detector = build_detector(f"torchvision:{name}", 3)
    report = load_backbone_weights(detector.backbone, tmp_path / "resnet50.pth")
    assert report.complete
    assert torch.equal(detector.model.backbone.body.layer4[2].conv3.weight, donor.layer4[2].conv3.weight)


def test_safetensors_without_a_description_are_loaded(tmp_path):
    save_file(build_torchvision("fcos_resnet50_fpn", 3).state_dict(), tmp_path / "fcos.safetensors")
    assert not any(key.startswith("model.") for key in load_file(tmp_path / "fcos.safetensors"))
    loaded = load_detector(tmp_path / "fcos.safetensors", interpolator="bicubic")
    assert loaded.classes == ("class_1", "class_2")
    assert loaded.detector.neck.interpolator.kind == "bicubic"


def test_missing_and_unexpected_tensors_are_reported(tmp_path):
    tensors = build_torchvision("retinanet_resnet50_fpn", 3).state_dict()
    del tensors["backbone.body.layer1.0.conv1.weight"]
    tensors["head.more.weight"] = torch.zeros(2)
    torch.save(tensors, tmp_path / "some.pth")
    with pytest.raises(UserError, match=r"1 missing \(model\.backbone\.body\.layer1.*1 unexpected \(head\.more"):
        load_detector(tmp_path / "some.pth")


@pytest.mark.parametrize("build", [detection.keypointrcnn_resnet50_fpn, detection.fasterrcnn_mobilenet_v3_large_fpn])
def test_other_models_are_refused(build, tmp_path):
    torch.save(build(weights=None, weights_backbone=None, num_classes=2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: .*afictl model list"):
        load_detector(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("roi_heads.box_predictor.cls_score.bias", (1,)),
        pytest.param("roi_heads.box_predictor.cls_score.bias", (), marks=pytest.mark.slow),
        pytest.param("rpn.head.cls_logits.weight", (5, 256, 1, 1), marks=pytest.mark.slow),
        ("backbone.body.conv1.weight", (64, 4, 7, 7)),
    ],
)
def test_impossible_shapes_are_refused(name, shape, tmp_path):
    tensors = dict(build_torchvision("fasterrcnn_resnet50_fpn", 4).state_dict())
    tensors[name] = torch.zeros(shape)
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd\.pth") as error:
        load_detector(tmp_path / "odd.pth")
    assert "\n" not in str(error.value)
