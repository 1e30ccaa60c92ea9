"""Training on labelled and pseudo-labelled images together."""

import json
import shutil
from itertools import islice

import pytest
import torch
import yaml
from lightning_fabric import Fabric

from afictl import UserError, load_preset
from afictl.data import load_coco
from afictl.training import InitialWeights, PseudoLabels, finetune
from afictl.training.optimization import TrainableModule
from afictl.training.pseudo import Mixed
from afictl.training.sync_batch_norm import synchronize_batch_norms
from tests.helpers.ranks import on_two_ranks
from tests.helpers.tiny_runs import SMALL
from tests.training.test_finetune import with_steps

BOXES_ONLY = (*SMALL, "detector.kind=faster-rcnn")


@pytest.fixture(scope="module")
def pseudo_file(tmp_path_factory, shapes_dir):
    """The held-out images of the shapes with their labels as if a teacher had found them, classes in another order."""
    return write_pseudo(tmp_path_factory.mktemp("pseudo") / "pseudo.json", shapes_dir)


def write_pseudo(path, shapes_dir, **changes):
    content = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())
    shift = {category["id"]: 40 - category["id"] for category in content["categories"]}
    for category in content["categories"]:
        category["id"] = shift[category["id"]]
    for annotation in content["annotations"]:
        annotation.update(category_id=shift[annotation["category_id"]], score=0.9, source="pseudo")
    content["info"] = {"image_folder": str(shapes_dir / "val2017")}
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.mark.parametrize(
    ("batch_size", "ratio", "shares"),
    [(4, 1, (2, 2)), (4, 3, (1, 3)), (4, 0.33, (3, 1)), (3, 2, (1, 2)), (16, 1.667, (6, 10)), (512, 1, (256, 256))],
)
def test_every_batch_has_the_ratio(batch_size, ratio, shares):
    assert PseudoLabels("", ratio=ratio).shares(batch_size) == shares


@pytest.mark.parametrize(
    ("batch_size", "ratio", "message"),
    [
        (4, 2, r"--pseudo-ratio 2: a batch of 4 .* so; choose 3 \(1 labelled \+ 3\) or 1 \(2 labelled \+ 2\), or"),
        (16, 0.01, r"choose 0\.0667 \(15 labelled \+ 1\) or 0\.143"),
        (1, 1, "a batch of 1 cannot be shared so; it takes two at least"),
        (4, 0, "--pseudo-ratio 0"),
    ],
)
def test_a_ratio_that_no_batch_can_have_is_refused(batch_size, ratio, message):
    with pytest.raises(UserError, match=message):
        PseudoLabels("", ratio=ratio).shares(batch_size)


def test_labels_are_matched_by_name(pseudo_file, shapes_dir):
    preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    mixture = PseudoLabels(pseudo_file).load(load_coco(shapes_dir, "train"), preset, masks=True)
    truth = load_coco(shapes_dir, "val")
    assert mixture.parts[1].classes == truth.classes
    for i in range(len(truth)):
        assert mixture.parts[1].objects(i).labels.equal(truth.objects(i).labels)


def batches(number, pseudo, shapes_dir, fabric=None, start=0, seed=3, settings=()):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    preset = load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, "train.batch_size=4", *settings))
    mixture = pseudo.load(load_coco(shapes_dir, "train"), preset, masks=True)
    return list(islice(mixture.batches(fabric, preset, seed)(start), number))


def test_a_batch_is_a_function_of_seed_and_step(pseudo_file, shapes_dir):
    pseudo = PseudoLabels(pseudo_file, ratio=3)
    whole = batches(6, pseudo, shapes_dir)
    later = batches(2, pseudo, shapes_dir, start=4, settings=["loader.workers=3"])
    for batch, other in zip(whole[4:], later, strict=True):
        assert batch.image_ids == other.image_ids
        assert all(a.equal(b) for a, b in zip(batch.images, other.images, strict=True))
        assert all(a["boxes"].equal(b["boxes"]) for a, b in zip(batch.targets, other.targets, strict=True))
    assert batches(1, pseudo, shapes_dir, seed=4)[0].image_ids != whole[0].image_ids
    seen = [image_id for batch in whole for image_id in batch.image_ids[1:]]
    assert [seen.count(image_id) for image_id in range(1, 7)] == [3] * 6  # 18 of 6 images: each three times


def test_the_shares_of_the_ranks_make_up_both_groups(pseudo_file, shapes_dir):
    class Rank:
        world_size = 2
        device = "cpu"

        def __init__(self, rank):
            self.global_rank = rank

    pseudo = PseudoLabels(pseudo_file)
    whole = batches(3, pseudo, shapes_dir)
    shares = [batches(3, pseudo, shapes_dir, Rank(rank)) for rank in (0, 1)]
    for batch, first, second in zip(whole, *shares, strict=True):
        labelled, others = zip(first.image_ids, second.image_ids, strict=True)
        assert batch.image_ids == [*labelled, *others]


class Counting(torch.nn.Module):
    """A detector whose loss is the mean of its images."""

    def forward(self, images, targets):
        assert len(images) == len(targets)
        return {"loss_box": torch.stack(images).mean(), "loss_class": torch.tensor(2.0)}


@pytest.mark.parametrize(("weight", "box"), [(0, (3, 0)), (1, (1.5, 4)), (3, (0.75, 6))])
def test_the_losses_of_the_groups_are_averaged_by_their_weights(weight, box):
    images = [torch.tensor(value) for value in (2.0, 4.0, 8.0)]
    losses = Mixed(Counting(), labelled=2, weight=weight)(images, [{}] * 3)
    assert [float(losses["loss_box"]), float(losses["loss_pseudo_box"])] == pytest.approx(box)
    assert float(losses["loss_class"] + losses["loss_pseudo_class"]) == pytest.approx(2)


def test_without_weight_the_detector_is_that_of_the_labelled_images_alone(fabric, shapes_dir, pseudo_file, tmp_path):
    plain = load_preset("faster-rcnn-r18-fpn-tiny", BOXES_ONLY)
    mixed = with_steps(plain, batch_size=6)
    finetune(fabric, plain, shapes_dir, tmp_path / "plain", InitialWeights("nearest"))
    pseudo = PseudoLabels(pseudo_file, weight=0, ratio=2)
    finetune(fabric, mixed, shapes_dir, tmp_path / "mixed", InitialWeights("nearest"), pseudo=pseudo)
    alone, beside = (
        torch.load(tmp_path / run / "state.pt", weights_only=True)["detector"] for run in ("plain", "mixed")
    )
    statistics = [name for name in alone if "running_" in name or "num_batches" in name]
    assert statistics
    assert not torch.equal(alone[statistics[0]], beside[f"detector.{statistics[0]}"])  # they see both kinds of images
    for name in alone.keys() - set(statistics):
        torch.testing.assert_close(beside[f"detector.{name}"], alone[name], rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory, fabric, shapes_dir, pseudo_file):
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"), pseudo=PseudoLabels(pseudo_file, 0.5))
    return folder


def test_a_run_records_what_it_trained_on(mixed_run, pseudo_file):
    config = yaml.safe_load((mixed_run / "config.yaml").read_text())
    assert config["pseudo"] == {"file": str(pseudo_file), "weight": 0.5, "ratio": 1.0}
    log = (mixed_run / "log.txt").read_text()
    assert "6 pseudo-labelled images of weight 0.5; a batch holds 1 labelled and 1 pseudo-labelled" in log
    records = [json.loads(line) for line in (mixed_run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_mask", "loss_pseudo_mask", "loss_pseudo_classifier"} <= records[0].keys()
    assert "box/AP" in records[-1]


def test_a_resumed_run_equals_an_uninterrupted_one(fabric, preset, shapes_dir, pseudo_file, mixed_run, tmp_path):
    def stop(*args):
        if (tmp_path / "run" / "state.pt").is_file():
            raise MemoryError

    pseudo = PseudoLabels(pseudo_file, 0.5)
    preset = with_steps(preset, checkpoint_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.mark_batch_loaded", stop)
        with pytest.raises(MemoryError):
            finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=pseudo)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True, pseudo=pseudo)
    whole, resumed = (torch.load(run / "state.pt", weights_only=True) for run in (mixed_run, tmp_path / "run"))
    for part in ("detector", "detector_optimizer", "metrics", "step"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"weight": 1.0}, r"pseudo\.weight"),
        ({"ratio": 3.0}, r"pseudo\.ratio"),
        ({"file": "other"}, r"pseudo\.file"),
        (None, "pseudo"),
    ],
)
def test_resuming_with_other_pseudo_labels_is_refused(
    fabric, preset, shapes_dir, pseudo_file, mixed_run, tmp_path, changes, named
):
    wide = with_steps(preset, batch_size=4 if changes and "ratio" in changes else 2)
    other = None
    if changes is not None:
        if "file" in changes:
            changes = {"file": shutil.copy(pseudo_file, tmp_path / "other.json")}
        other = PseudoLabels(**{"file": pseudo_file, "weight": 0.5, **changes})
    with pytest.raises(UserError, match=named):
        finetune(fabric, wide, shapes_dir, mixed_run, InitialWeights("nearest"), resume=True, pseudo=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"info": {}}, r"pseudo\.json: key 'info\.image_folder' is missing"),
        ({"info": {"image_folder": "/nowhere"}}, "its image folder /nowhere does not exist"),
        ({"categories": [{"id": 1, "name": "coin"}], "annotations": []}, r"does not have 'coin'"),
        ({"images": "none"}, r"pseudo\.json: 'images' must be a list"),
        ({"annotations": []}, r"pseudo\.json: holds no label to train on; make it with a lower --threshold"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(fabric, preset, shapes_dir, tmp_path, changes, message):
    file = write_pseudo(tmp_path / "pseudo.json", shapes_dir, **changes)
    with pytest.raises(UserError, match=message) as error:
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=PseudoLabels(file))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_labels_without_masks_do_not_train_masks(fabric, preset, shapes_dir, pseudo_file, tmp_path):
    annotations = json.loads(pseudo_file.read_text())["annotations"]
    boxes = [{name: value for name, value in item.items() if name != "segmentation"} for item in annotations]
    pseudo = PseudoLabels(write_pseudo(tmp_path / "pseudo.json", shapes_dir, annotations=boxes))
    with pytest.raises(UserError, match="no pseudo label has a mask, which mask-rcnn-r18-fpn-tiny trains on"):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=pseudo)
    assert not (tmp_path / "run").exists()


def test_images_that_are_not_there_are_told_before_the_run_begins(fabric, preset, shapes_dir, tmp_path):
    """Of those that would be drawn: an image without a label may be gone."""
    images = shutil.copytree(shapes_dir / "val2017", tmp_path / "images")
    content = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())
    first, second, last = (content["images"][k] for k in (0, 2, -1))
    (images / "inside").mkdir()
    (images / last["file_name"]).rename(images / "inside" / "moved.jpg")
    last["file_name"] = "inside/moved.jpg"
    annotations = [item for item in content["annotations"] if item["image_id"] != first["id"]]
    info = {"image_folder": str(images)}
    changes = {
        "info": info,
        "images": content["images"],
        "annotations": annotations,
        "categories": content["categories"],
    }
    pseudo = PseudoLabels(write_pseudo(tmp_path / "pseudo.json", shapes_dir, **changes))
    count = len({item["image_id"] for item in annotations})
    (images / first["file_name"]).unlink()
    assert pseudo.load(load_coco(shapes_dir, "train"), preset, masks=True)
    (images / "inside" / "moved.jpg").unlink()
    (images / second["file_name"]).unlink()
    message = (
        rf"pseudo\.json: 2 of its {count} labelled images cannot be found in {images}, the first {second['file_name']};"
    )
    with pytest.raises(UserError, match=message):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=pseudo)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("batch_size", "ratio", "processes", "message"),
    [
        (2, 1, 2, r"a batch of 2 is split into 1 labelled and 1 pseudo-labelled images, and 2 devices must .*=4 would"),
        (4, 3, 2, r"into 1 labelled and 3 pseudo-labelled .*--set train\.batch_size=8 would do"),
        (16, 1.667, 4, r"into 6 labelled and 10 pseudo-labelled .*--set train\.batch_size=32 would do"),
    ],
)
def test_both_parts_of_a_batch_are_shared_by_the_devices(batch_size, ratio, processes, message):
    pseudo = PseudoLabels("", ratio=ratio)
    with pytest.raises(UserError, match=message) as error:
        pseudo.shares(batch_size, processes)
    advised = int(str(error.value).rpartition("=")[2].split()[0])
    assert all(share % processes == 0 for share in pseudo.shares(advised, processes))


def test_devices_that_cannot_share_leave_no_run(preset, shapes_dir, pseudo_file, tmp_path):
    class Two:
        world_size = 2

    with pytest.raises(UserError, match="2 devices must share each of the two evenly"):
        finetune(
            Two(), preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=PseudoLabels(pseudo_file)
        )


def test_a_file_that_was_moved_with_its_images_finds_them(shapes_dir, tmp_path):
    shutil.copytree(shapes_dir / "val2017", tmp_path / "images")
    info = {"image_folder": "/nowhere", "image_folder_from_here": "../images"}
    (tmp_path / "labels").mkdir()
    file = write_pseudo(tmp_path / "labels" / "pseudo.json", shapes_dir, info=info)
    preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    mixture = PseudoLabels(file).load(load_coco(shapes_dir, "train"), preset, masks=False)
    assert mixture.parts[1].image_path(0).is_file()


class Small(torch.nn.Module):
    """A detector that guesses the mean label of each image."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.norm = torch.nn.BatchNorm2d(4)
        self.out = torch.nn.Linear(4, 1)

    def forward(self, images, targets):
        guesses = self.out(self.norm(self.conv(torch.stack(images))).relu().mean(dim=(2, 3)))[:, 0]
        wanted = torch.stack([target["labels"].float().mean() for target in targets])
        return {"loss_class": (guesses - wanted).square().mean()}


def train(fabric, folder, shapes_dir):
    """Two steps on batches of two and two images; returns all weights."""
    preset = load_preset("faster-rcnn-r18-fpn-tiny", (*SMALL, "train.batch_size=4"))
    mixture = PseudoLabels(folder / "pseudo.json", weight=0.5).load(load_coco(shapes_dir, "train"), preset, masks=False)
    torch.manual_seed(0)
    detector = Small()
    synchronize_batch_norms(fabric, detector)
    recipe = preset.train.model_copy(update={"optimizer": "sgd", "lr": 0.1})
    model = TrainableModule(fabric, mixture.module(fabric, detector), recipe, recipe.clip_norm)
    for batch in islice(mixture.batches(fabric, preset, 0)(0), 2):
        model.backward(model.module(batch.images, batch.targets).values())
        model.optimizer_step()
    return detector.state_dict()


def half(fabric, folder, shapes_dir):
    torch.save(train(fabric, folder, shapes_dir), folder / f"{fabric.global_rank}.pt")


def test_two_processes_train_as_one(shapes_dir, tmp_path):
    write_pseudo(tmp_path / "pseudo.json", shapes_dir)
    on_two_ranks(half, tmp_path, shapes_dir)
    whole = train(Fabric(accelerator="cpu", devices=1), tmp_path, shapes_dir)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(ranks[0][name], ranks[1][name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
