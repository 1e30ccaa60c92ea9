import json

import pytest
import torch
from PIL import Image
from torchvision.ops import clip_boxes_to_image

from afictl import UserError, build_detector, load_preset, load_weights, predict, substitute_interpolator
from afictl.data.transforms import resize_for
from afictl.detectors import model_cost
from afictl.weights import load_detector, save_detector
from tests.helpers.slow_cases import others_slow
from tests.helpers.targets import no_object, one_object, random_image

pytest.importorskip("transformers")
pytest.importorskip("scipy")  # with which transformers matches predictions and objects
from transformers import RTDetrImageProcessor

from tests.helpers import transformers_models as models

KINDS = {"rt_detr": models.rt_detr, "rt_detr_v2": models.rt_detr_v2, "d_fine": models.d_fine}
CLASSES = {0: "disc", 1: "square", 2: "cross"}


def save(kind, folder, **settings):
    """A model with random weights and varied scores in a folder as transformers saves it, for images of 64 x 64."""
    torch.manual_seed(0)
    model = KINDS[kind]()
    model.config.id2label = dict(CLASSES)
    for value in filter(lambda value: value.ndim > 1, model.parameters()):
        torch.nn.init.xavier_normal_(value)  # the library's own weights are so small that all queries are alike
    model.save_pretrained(folder)
    processor = RTDetrImageProcessor(size={"height": 64, "width": 64}, **settings)
    processor.save_pretrained(folder)
    return model.eval(), processor


def build(folder, *overrides, interpolator="nearest"):
    return build_detector(load_preset(f"transformers:{folder}", overrides), 3, interpolator)


@torch.no_grad()
@pytest.mark.parametrize("kind", others_slow(KINDS, ("rt_detr_v2", "d_fine")))
def test_detections_are_those_of_the_library_and_its_image_processor(kind, tmp_path):
    model, processor = save(kind, tmp_path, do_normalize=kind == "rt_detr_v2")
    picture = (random_image(90, 120) * 255).byte()
    inputs = processor(images=Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt")
    (expected,) = processor.post_process_object_detection(model(**inputs), 0.0, [(90, 120)])
    detector = build(tmp_path).eval()
    assert load_weights(detector, tmp_path).complete
    (prediction,) = predict(detector, [picture])
    expected["boxes"] = clip_boxes_to_image(expected["boxes"], (90, 120))  # as predictions of every detector
    assert len(prediction["boxes"]) == 10
    for key, shift in {"boxes": 0, "scores": 0, "labels": 1}.items():
        torch.testing.assert_close(prediction[key], expected[key] + shift, rtol=0, atol=1e-4)
    loaded = load_detector(tmp_path)  # for eval, predict and visualize, without a preset
    assert loaded.classes == tuple(CLASSES.values())
    save_detector(tmp_path / "run.safetensors", loaded.detector, {"classes": list("abc"), "category_ids": [1, 2, 3]})
    (same,) = predict(load_detector(tmp_path / "run.safetensors").detector, [picture])
    assert torch.equal(same["boxes"], prediction["boxes"])


@pytest.mark.parametrize("kind", others_slow(KINDS, ("rt_detr", "d_fine")))
def test_losses_are_those_of_the_library_and_train_the_interpolator(kind, tmp_path):
    model, _ = save(kind, tmp_path)
    detector = build(tmp_path, interpolator="dysample").train()
    load_weights(detector, tmp_path)
    pictures, targets = [random_image(64, 96), random_image(64, 96)], [one_object(64, 96, label=3), no_object(64, 96)]
    (x1, y1, x2, y2) = targets[0]["boxes"][0].tolist()
    centre = torch.tensor([[(x1 + x2) / 2 / 96, (y1 + y2) / 2 / 64, (x2 - x1) / 96, (y2 - y1) / 64]])
    labels = [
        {"class_labels": torch.tensor([2]), "boxes": centre},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]
    torch.manual_seed(1)  # of the noise in the denoising queries
    losses = detector(pictures, targets)
    state = detector.model.state_dict()
    substituted = {name for name in state if ".interpolators." in name}
    assert len(substituted) == 2
    torch.manual_seed(1)
    expected = detector.model(torch.stack(pictures), labels=labels)
    torch.testing.assert_close(sum(losses.values()), expected.loss, rtol=1e-5, atol=1e-5)
    assert {"loss_vfl", "loss_bbox", "loss_giou"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(value.grad.abs().sum() > 0 for value in detector.neck.interpolator.parameters())
    assert all(value.isfinite() for value in detector(pictures, [no_object(64, 96)] * 2).values())
    assert [cost.parameters > 0 for cost in model_cost(detector, (64, 96))] == [True] * 4
    assert model.config.num_labels == detector.num_classes


@torch.no_grad()
def test_an_interpolator_is_substituted_in_the_detector_and_its_preset(tmp_path):
    models.rt_detr().config.save_pretrained(tmp_path)
    detector = build(tmp_path).eval()
    (before,) = detector([random_image(64, 96)])
    result = substitute_interpolator(detector, "carafe")
    assert (result, detector.neck.interpolator.kind, detector.preset.interpolator.kind) == (2, "carafe", "carafe")
    save_detector(tmp_path / "a.safetensors", detector, {"classes": list("abc"), "category_ids": [1, 2, 3]})
    (changed,), (loaded,) = (
        model([random_image(64, 96)]) for model in (detector, load_detector(tmp_path / "a.safetensors").detector)
    )
    assert torch.equal(changed["scores"], loaded["scores"])
    assert not torch.equal(changed["scores"], before["scores"])
    with pytest.raises(UserError, match="per_step"):
        substitute_interpolator(detector, "carafe", per_step=True)
    result.undo()
    assert torch.equal(detector([random_image(64, 96)])[0]["boxes"], before["boxes"])


@torch.no_grad()
def test_sizes_and_normalisation_are_those_of_the_image_processor(tmp_path):
    processor = RTDetrImageProcessor(size={"height": 64, "width": 64}, do_normalize=True)
    for part in (models.rt_detr().config, processor):
        part.save_pretrained(tmp_path)
    config = load_preset(f"transformers:{tmp_path}").input
    picture = (random_image(50, 70) * 255).byte()
    inputs = processor(images=Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    torch.testing.assert_close((resize_for(config, picture) - mean) / std, inputs, rtol=0, atol=1e-5)
    assert load_preset("transformers:rt_detr").input.test_size == 640
    assert load_preset("transformers:DFineForObjectDetection").input.square


@pytest.mark.parametrize(
    ("settings", "interpolator", "message"),
    [
        ([], "sapa", "needs the fine map"),
        (["neck.interpolators=per-step"], "nearest", "neck.interpolators is 'shared'"),
        (["backbone.pretrained=true"], "nearest", "backbone.pretrained is False"),
        (["neck.channels=16"], "nearest", "neck.channels is 32"),
        (["detector.source='{model_type: detr}'"], "nearest", "rt_detr, rt_detr_v2, d_fine .* not 'detr'"),
        (["detector.source='{model_type: rt_detr, d_model: wide}'"], "nearest", "detector.source: .*d_model"),
    ],
)
def test_what_the_model_cannot_have_is_refused(tmp_path, settings, interpolator, message):
    models.rt_detr().config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        build(tmp_path, *settings, interpolator=interpolator)


def test_images_with_fewer_positions_than_queries_are_refused(tmp_path):
    config = models.rt_detr().config
    config.num_queries = 22
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"num_queries: the model selects 22 .* a small image has 21; .*min_sizes"):
        build(tmp_path, "input.min_sizes=[24]")
    small, large = torch.rand(3, 24, 24), torch.rand(3, 48, 48)
    detector = build(tmp_path, "input.min_sizes=[48]", "input.test_size=48").eval()
    with torch.no_grad():
        detector([large])
        with pytest.raises(UserError, match=r"a small image has 21"):
            detector([small])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "detr"}, "model_type"),
        ("config.json", {"hidden_size": 3}, "model_type"),
        ("config.json", {"model_type": "rt_detr", "backbone": "resnet18"}, "backbone_config"),
        ("preprocessor_config.json", {"size": {"height": 64, "width": 32}}, "preprocessor_config.json: size"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(tmp_path, file, content, message):
    models.rt_detr().config.save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"{tmp_path.name}.*{message}"):
        load_preset(f"transformers:{tmp_path}")


def test_an_unknown_name_suggests_a_type():
    with pytest.raises(UserError, match=r"transformers:rt_detr_v3: .* did you mean 'rt_detr_v2'"):
        load_preset("transformers:rt_detr_v3")


def test_weights_need_their_configuration(tmp_path):
    save("rt_detr", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_queries": 10**6, "learn_initial_query": True}))
    with pytest.raises(UserError, match=r"model\.safetensors: config\.json describes 32,\d+,\d+ values"):
        load_detector(tmp_path)
    file.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: .* config\.json"):
        load_detector(tmp_path)
