import json
import re
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

from afictl import AFInterpolator, PatchDiscriminator, UserError, load_preset
from afictl.data import eval_batches, load_dataset, make_shapes
from afictl.detectors import Detector
from afictl.interpolators import INTERPOLATORS, Interpolator, build_interpolator
from afictl.tensor_files import read_tensors, save_tensors
from afictl.training import InitialWeights, finetune, pretrain
from afictl.training.feature_distance import describe_distance, measure_feature_distance
from afictl.weights import load_detector, save_detector
from tests.helpers.changed_data import change_annotations, rename_disc, renumber
from tests.helpers.interpolator_options import FEW_KINDS, OPTIONS
from tests.helpers.tiny_runs import SMALL, assert_same_states, with_steps

NARROW = "backbone.options={channels: [8, 16, 32, 64]}"
ONE_STEP = [f"{stage}.{key}=1" for stage in ("stage1", "stage2") for key in ("steps", "eval_every")]
ANNOTATIONS = "annotations/instances_train2017.json"


def same_weights(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Few images, which fill their batches without padding."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=2, size=64)


@pytest.fixture(scope="module")
def preset():
    """A Mask R-CNN with a narrow backbone, whose files are small."""
    return load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, NARROW))


@pytest.fixture(scope="module")
def guide_run(tmp_path_factory, fabric, preset, data):
    folder = tmp_path_factory.mktemp("runs") / "guide"
    finetune(fabric, preset, data, folder, InitialWeights("nearest"))
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, fabric, data, guide_run):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(fabric, guide_run, data, folder)
    return folder


def test_both_stages_write_a_run_and_one_interpolator_file(pretrained):
    for stage in ("stage1", "stage2"):
        assert {"config.yaml", "metrics.jsonl", "state.pt", "best.safetensors", "interpolator.safetensors"} <= {
            path.name for path in (pretrained / stage).iterdir()
        }
    result = AFInterpolator.load(pretrained / "interpolator.safetensors")
    assert result.channels == 16
    first = AFInterpolator.load(pretrained / "stage1" / "interpolator.safetensors")
    assert not same_weights(result, first)


@pytest.mark.parametrize("kind", FEW_KINDS)
def test_every_learned_kind_is_pretrained_and_put_into_a_detector(kind, fabric, preset, guide_run, data, tmp_path):
    options = [f"interpolator.options={OPTIONS[kind]}"] if kind in OPTIONS else []
    result = pretrain(fabric, guide_run, data, tmp_path / "run", kind=kind, overrides=[*ONE_STEP, *options])
    levels = ["p3", "p4", "p5"] if INTERPOLATORS[kind].needs_fine else ["p2", "p3", "p4", "p5"]
    distance = json.loads((tmp_path / "run" / "stage1" / "feature_distance.json").read_text())
    assert list(distance) == ["nearest", "bilinear", "bicubic", kind]
    assert all(list(values) == levels for values in distance.values())
    record = json.loads((tmp_path / "run" / "stage1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert record[f"l1/{kind}"] == pytest.approx(sum(v["l1"] for v in distance[kind].values()) / len(levels))

    interpolator, first = (
        Interpolator.load(path) for path in (result, tmp_path / "run" / "stage1" / "interpolator.safetensors")
    )
    assert interpolator.kind == kind
    assert not same_weights(interpolator, first)

    unchanged = with_steps(preset, steps=1, warmup_steps=0, lr=1e-12)
    initial = InitialWeights(str(tmp_path / "run"), weights=guide_run)
    finetune(fabric, unchanged, data, tmp_path / "detector", initial)
    in_detector = load_detector(tmp_path / "detector").detector.neck.interpolator
    in_file = Interpolator.load(tmp_path / "detector" / "interpolator.safetensors")
    for module in (in_detector, in_file):
        assert (type(module), module.config) == (type(interpolator), interpolator.config)
        torch.testing.assert_close(module.state_dict(), interpolator.state_dict(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["nearest", "bicubic", "carafee"])
def test_a_kind_without_parameters_is_refused(kind, fabric, tmp_path):
    with pytest.raises(UserError, match=f"--interpolator {kind}: ") as error:
        pretrain(fabric, tmp_path / "guide", tmp_path / "data", tmp_path / "run", kind=kind)
    assert "\n" not in str(error.value)


def test_files_of_earlier_versions_are_read(fabric, guide_run, data, tmp_path):
    """The layout of an interpolator file and of stage 1's state when AFI was the only kind, written out."""
    torch.manual_seed(5)
    interpolator, discriminator = AFInterpolator(16, blocks=1, growth=4), PatchDiscriminator(16)
    description = {
        "format": "afi-interpolator",
        "version": 1,
        "config": {"channels": 16, "blocks": 1, "growth": 4, "residual_scale": 0.2},
    }
    save_file(interpolator.state_dict(), tmp_path / "old.safetensors", metadata={"afictl": json.dumps(description)})
    assert same_weights(Interpolator.load(tmp_path / "old.safetensors"), interpolator)
    state = {
        "version": 1,
        "stage": "stage1",
        "step": 1,
        "generator": {f"module.{name}": value for name, value in interpolator.state_dict().items()},
        "discriminator": {f"module.{name}": value for name, value in discriminator.state_dict().items()},
    }
    (tmp_path / "run" / "stage1").mkdir(parents=True)
    torch.save(state, tmp_path / "run" / "stage1" / "state.pt")
    overrides = [*ONE_STEP, "stage2.lr=1e-12", "stage2.warmup_steps=0", f"interpolator.options={OPTIONS['afi']}"]
    result = pretrain(fabric, guide_run, data, tmp_path / "run", stages=(2,), overrides=overrides)
    torch.testing.assert_close(AFInterpolator.load(result).state_dict(), interpolator.state_dict(), rtol=0, atol=1e-6)


def test_files_of_afi_keep_their_layout(pretrained):
    """Runs of earlier versions resume, and earlier versions read new files."""
    config = yaml.safe_load((pretrained / "stage1" / "config.yaml").read_text())
    assert list(config) == ["command", "preset", "data", "guide", "seed", "hardware", "classes", "contents"]
    state = torch.load(pretrained / "stage1" / "state.pt", weights_only=True)
    assert {"generator", "discriminator", "generator_optimizer", "discriminator_optimizer"} <= set(state)
    assert {name.split(".")[0] for name in state["generator"]} == {"module"}
    assert read_tensors(pretrained / "interpolator.safetensors")[1]["format"] == "afi-interpolator"


def test_stage_1_reports_the_distance_to_the_guide_of_each_method(pretrained, guide_run, data):
    distance = json.loads((pretrained / "stage1" / "feature_distance.json").read_text())
    assert set(distance) == {"nearest", "bilinear", "bicubic", "afi"}
    guide = load_detector(guide_run).detector
    sums: dict = {}
    for batch in eval_batches(load_dataset(data, "val"), guide.input, workers=0, half_view=True):
        with torch.no_grad():
            real, coarse = guide.pyramid(batch.images), guide.pyramid(batch.half_images)
        for level, target in real.items():
            for kind in ("nearest", "bilinear"):
                fake = F.interpolate(coarse[level], scale_factor=2, mode=kind)[
                    ..., : target.shape[2], : target.shape[3]
                ]
                sums.setdefault((kind, level), []).append((fake - target).abs().mean().item())
    assert {level for _, level in sums} - set(distance["nearest"]) == {"p6"}  # of one position
    for (kind, level), values in sums.items():  # 64-pixel images fill their batch, so there is no padding
        if level == "p6":
            continue
        assert distance[kind][level]["l1"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_stage_1_reports_levels_and_the_accuracy_of_the_discriminator(pretrained):
    *_, losses, record = (
        json.loads(line) for line in (pretrained / "stage1" / "metrics.jsonl").read_text().splitlines()
    )
    assert "discriminator_accuracy" not in losses
    accuracies = [record[f"discriminator_accuracy/p{i}"] for i in range(2, 6)]  # p6 has one position: 64 pixels
    assert record["discriminator_accuracy"] == pytest.approx(sum(accuracies) / 4)
    assert all(0 <= value <= 1 for value in accuracies)
    assert record["adversarial_gradient"] > 0
    assert {f"{measure}/afi/p{i}" for measure in ("l1", "cosine") for i in range(2, 6)} < set(record)
    log = (pretrained / "stage1" / "log.txt").read_text()
    assert re.search(rf"discriminator: .* {100 * record['discriminator_accuracy']:.1f} % \(p2 .*by chance 50 %", log)


def test_stage_2_reports_levels_and_the_accuracy_of_the_discriminator(pretrained, guide_run, data):
    guide, student = load_detector(guide_run).detector, load_detector(pretrained / "stage2" / "last.safetensors")
    differences: dict = {}
    for batch in eval_batches(load_dataset(data, "val"), guide.input, workers=0, half_view=True):
        with torch.no_grad():
            real, fake = guide.pyramid(batch.images), student.detector.pyramid(batch.half_images)
        for level, target in real.items():
            differences.setdefault(level, []).append((fake[level] - target[..., ::2, ::2]).abs().mean().item())
    record = json.loads((pretrained / "stage2" / "metrics.jsonl").read_text().splitlines()[-1])
    for level, values in differences.items():  # 64-pixel images fill their batch, so there is no padding
        assert record[f"l1/afi/{level}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert record["l1/afi"] == pytest.approx(sum(record[f"l1/afi/p{i}"] for i in range(2, 7)) / 5)
    assert all(0 <= record[f"discriminator_accuracy/p{i}"] <= 1 for i in range(2, 5))  # p5 and p6 have one position
    assert "box/AP" in record
    log = (pretrained / "stage2" / "log.txt").read_text()
    assert re.search(rf"\nafi .* {record['l1/afi']:.4f} ", log)
    assert "discriminator: classifies" in log


def test_distance_of_a_fresh_interpolator_is_that_of_bilinear(guide_run, data):
    guide = load_detector(guide_run).detector
    fresh, index = AFInterpolator(16), load_dataset(data, "val")
    distance = measure_feature_distance(guide, fresh, index, limit=2, workers=0, progress=lambda done, total: None)
    for level, values in distance["afi"].items():
        assert values["l1"] == pytest.approx(distance["bilinear"][level]["l1"], rel=1e-2)


def test_stage_2_trains_a_detector_for_half_size_images(pretrained, guide_run):
    guide, student = load_detector(guide_run), load_detector(pretrained / "stage2")
    assert student.preset.detector.anchor_sizes == tuple(s / 2 for s in guide.preset.detector.anchor_sizes)
    assert student.preset.input.test_size == guide.preset.input.test_size // 2
    assert student.preset.interpolator.kind == "afi"


def test_guide_with_another_interpolator_than_nearest_is_logged(fabric, preset, data, tmp_path, pretrained):
    finetune(fabric, with_steps(preset, steps=1), data, tmp_path / "guide", InitialWeights("carafe"))
    pretrain(fabric, tmp_path / "guide", data, tmp_path / "out", stages=(1,), overrides=("stage1.steps=1",))
    log = (tmp_path / "out" / "stage1" / "log.txt").read_text()
    assert re.search(rf"guide {tmp_path / 'guide'}: \d+ tensors", log)
    assert re.search(f"warning: .*{tmp_path / 'guide'} .* carafe", log)
    assert AFInterpolator.load(tmp_path / "out" / "interpolator.safetensors").options["blocks"] == 3  # not carafe's
    assert "warning" not in (pretrained / "stage1" / "log.txt").read_text()


def test_description_of_the_distance_names_kind_and_best_baseline():
    distances = {"nearest": 3.0, "bilinear": 2.0, "bicubic": 2.5, "transposed-conv": 1.0}
    distance = {kind: {"p3": {"l1": l1, "cosine": 0.5}} for kind, l1 in distances.items()}
    _, *table, verdict = describe_distance(distance, "transposed-conv").splitlines()
    assert len({len(line) for line in table}) == 1
    assert re.search(r"^transposed-conv .* bilinear,.* -50\.0 %$", verdict)
    distance["transposed-conv"] = distance["bilinear"]
    assert re.search(r"no closer .* \+0\.0 %; .*stage1\.steps", describe_distance(distance, "transposed-conv"))


def test_the_guide_is_not_trained(guide_run, fabric, data, tmp_path, monkeypatch):
    guides = []
    to_device = fabric.to_device

    def spy(value):
        if isinstance(value, Detector):
            guides.append((value, {name: tensor.clone() for name, tensor in value.state_dict().items()}))
        return to_device(value)

    monkeypatch.setattr(fabric, "to_device", spy)
    pretrain(fabric, guide_run, data, tmp_path / "again")
    ((guide, before),) = guides
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "features"),
    [("afi", "levels"), ("fade", "sums"), pytest.param("sapa", "levels", marks=pytest.mark.slow)],
)
def test_a_resumed_stage_1_equals_an_uninterrupted_one_bit_for_bit(kind, features, fabric, data, guide_run, tmp_path):
    def interrupt(logger, step, *args):
        if step == 3:
            raise KeyboardInterrupt
        return 0.0

    overrides = [
        "stage1.checkpoint_every=2",
        f"stage1.features={features}",
        f"interpolator.options={OPTIONS[kind]}",
    ]

    def train(folder, resume=False):
        pretrain(fabric, guide_run, data, folder, kind=kind, stages=(1,), overrides=overrides, resume=resume)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.log_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "resumed")
    train(tmp_path / "resumed", resume=True)
    train(tmp_path / "uninterrupted")
    resumed, uninterrupted = (tmp_path / run / "stage1" for run in ("resumed", "uninterrupted"))
    networks = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
    assert_same_states(resumed, uninterrupted, (*networks, "metrics"))


def test_stage_1_on_sums_is_another_run_than_on_levels(fabric, guide_run, data, tmp_path):
    def train(features, stages=(1, 2), resume=False):
        overrides = [*ONE_STEP, f"stage1.features={features}"]
        pretrain(fabric, guide_run, data, tmp_path / "run", stages=stages, overrides=overrides, resume=resume)

    train("sums")
    distance = json.loads((tmp_path / "run" / "stage1" / "feature_distance.json").read_text())
    assert all(list(levels) == ["p3", "p4", "p5"] for levels in distance.values())
    with pytest.raises(UserError, match=r"the run has preset\.stage1\.features sums, now levels$"):
        train("levels", resume=True)
    train("sums", resume=True)


def test_a_run_from_before_there_were_sums_is_resumed_on_levels(fabric, guide_run, data, tmp_path):
    def train(*overrides, resume=True):
        pretrain(fabric, guide_run, data, tmp_path, stages=(1,), overrides=[*ONE_STEP, *overrides], resume=resume)

    train("stage1.features=levels", resume=False)
    file = tmp_path / "stage1" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["preset"]["interpolator"]["kind"] == "afi"
    config["preset"]["interpolator"]["kind"] = "nearest"  # the guide's, as they recorded it
    del config["preset"]["stage1"]["features"]
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"preset\.stage1\.features levels, now sums$"):
        train("stage1.features=sums")
    train()


def test_stage_2_alone_needs_a_finished_stage_1(fabric, guide_run, data, tmp_path):
    with pytest.raises(UserError, match=r"--stages 1,2$"):
        pretrain(fabric, guide_run, data, tmp_path / "run", stages=(2,))


def test_stage_2_alone_continues_after_stage_1(pretrained, fabric, guide_run, data, tmp_path):
    folder = tmp_path / "run"
    pretrain(fabric, guide_run, data, folder, stages=(1,))
    pretrain(fabric, guide_run, data, folder, stages=(2,))
    separate, both = (AFInterpolator.load(run / "interpolator.safetensors") for run in (folder, pretrained))
    assert same_weights(separate, both)


def test_stage_2_has_the_guide_the_data_and_the_interpolator_of_stage_1(fabric, guide_run, data, tmp_path):
    guide, own_data = tmp_path / "guide.safetensors", tmp_path / "data"
    shutil.copy(guide_run / "last.safetensors", guide)
    change_annotations(data, own_data, lambda split, content: None)

    def train(stages, guide=guide, data=own_data, options=OPTIONS["afi"]):
        overrides = [*ONE_STEP, f"interpolator.options={options}"]
        pretrain(fabric, guide, data, tmp_path / "run", stages=stages, overrides=overrides)

    def pop_object(split, content):
        content["annotations"].pop()

    train((1,))
    record = tmp_path / "run" / "stage1" / "config.yaml"
    tensors, description = read_tensors(guide)
    other_guide, other_data = tmp_path / "other.safetensors", change_annotations(data, tmp_path / "other", pop_object)
    save_tensors(other_guide, {**tensors, "neck.output_convs.p2.bias": torch.ones(16)}, description)
    options = "{blocks: 1, growth: 4, residual_scale: 0.5}"
    for changes, key in (
        ({"guide": other_guide}, "guide"),
        ({"data": other_data}, "data"),
        ({"options": options}, "preset.interpolator.options.residual_scale"),
    ):
        with pytest.raises(
            UserError, match=f"^{record}: stage 1 was trained with other settings: the run has {key} .*, now "
        ):
            train((2,), **changes)
    for file, other in ((guide, other_guide), *((own_data / name, other_data / name) for name in [ANNOTATIONS])):
        shutil.copy(other, file)
        with pytest.raises(UserError, match=f"^{file}: its content has changed since {record} was written"):
            train((2,))
        shutil.copy(guide_run / "last.safetensors", guide)
    assert not (tmp_path / "run" / "stage2").exists()


def test_a_detector_is_finetuned_with_the_result(pretrained, fabric, preset, guide_run, data, tmp_path):
    initial = InitialWeights(str(pretrained), weights=guide_run)
    finetune(fabric, with_steps(preset, steps=1, warmup_steps=0), data, tmp_path / "run", initial)
    loaded, trained = load_detector(tmp_path / "run"), AFInterpolator.load(pretrained / "interpolator.safetensors")
    assert loaded.preset.interpolator.options == trained.options
    change = [
        (a - b).abs().max()
        for a, b in zip(loaded.detector.neck.interpolator.parameters(), trained.parameters(), strict=True)
    ]
    assert 0 < max(change) < 1e-2  # one small step away from the pre-trained weights


def test_overrides_reach_the_views_and_the_interpolator(fabric, guide_run, data, tmp_path):
    overrides = ["input.test_size=32", "interpolator.options={blocks: 2, growth: 6}", "stage1.steps=1"]
    pretrain(fabric, guide_run, data, tmp_path / "run", stages=(1,), overrides=overrides)
    assert AFInterpolator.load(tmp_path / "run" / "interpolator.safetensors").options["growth"] == 6
    config = yaml.safe_load((tmp_path / "run" / "stage1" / "config.yaml").read_text())
    assert config["preset"]["input"]["test_size"] == 32


def test_options_of_the_guides_interpolator_are_not_those_of_the_new_one(fabric, guide_run, data, tmp_path):
    guide = load_detector(guide_run, build_interpolator("dysample-plus", 16, groups=2))
    save_detector(tmp_path / "guide.safetensors", guide.detector, guide.metadata)
    assert load_detector(tmp_path / "guide.safetensors").preset.interpolator.options == {"groups": 2}
    for stages in ((1,), (2,)):
        pretrain(fabric, tmp_path / "guide.safetensors", data, tmp_path / "run", stages=stages, overrides=ONE_STEP)
    interpolator = AFInterpolator.load(tmp_path / "run" / "interpolator.safetensors")
    assert interpolator.options == AFInterpolator(16).options
    overrides = [*ONE_STEP, "interpolator.options.groups=2"]
    with pytest.raises(UserError, match="'afi' has no option 'groups'"):
        pretrain(fabric, tmp_path / "guide.safetensors", data, tmp_path / "other", overrides=overrides)


@pytest.mark.parametrize("override", ["interpolator.kind=carafe", "interpolator={kind: carafe, options: {}}"])
def test_kind_in_the_preset_is_refused(fabric, guide_run, shapes_dir, tmp_path, override):
    with pytest.raises(UserError, match=r"--set interpolator\.kind: .*--interpolator carafe"):
        pretrain(fabric, guide_run, shapes_dir, tmp_path / "run", overrides=[override])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["neck.channels=8", "backbone.frozen_stages=1"])
def test_layers_of_a_trained_guide_cannot_be_changed(fabric, guide_run, data, tmp_path, setting):
    with pytest.raises(UserError, match=f"--set {setting.split('.')[0]}"):
        pretrain(fabric, guide_run, data, tmp_path / "run", overrides=[setting])
    assert not (tmp_path / "run").exists()


def test_stage_2_refuses_an_unfinished_stage_1(pretrained, fabric, guide_run, data, tmp_path):
    shutil.copytree(pretrained / "stage1", tmp_path / "run" / "stage1")
    with pytest.raises(UserError, match="step 4 of 9"):
        pretrain(fabric, guide_run, data, tmp_path / "run", stages=(2,), overrides=["stage1.steps=9"])


def test_a_guide_of_other_classes_is_refused(fabric, guide_run, data, tmp_path):
    with pytest.raises(UserError, match="coin"):
        pretrain(fabric, guide_run, rename_disc(data, tmp_path / "data"), tmp_path / "run")


def test_a_guide_is_an_input_of_a_run_by_its_content(fabric, guide_run, data, tmp_path):
    guide = tmp_path / "guide"
    shutil.copytree(guide_run, guide)
    pretrain(fabric, guide, data, tmp_path / "run", overrides=ONE_STEP)
    renumbered = change_annotations(data, tmp_path / "data", renumber)
    guide.rename(tmp_path / "moved")
    pretrain(fabric, tmp_path / "moved", renumbered, tmp_path / "run", overrides=ONE_STEP, resume=True)
    file = tmp_path / "moved" / "best.safetensors"
    tensors, description = read_tensors(file)
    save_tensors(file, {**tensors, "neck.output_convs.p2.bias": torch.ones(16)}, description)
    (tmp_path / "moved").rename(guide)
    with pytest.raises(UserError, match=f"^{guide}/best.safetensors: its content has changed"):
        pretrain(fabric, guide, data, tmp_path / "run", overrides=ONE_STEP, resume=True)
    content = json.loads((renumbered / "annotations" / "instances_train2017.json").read_text())
    content["annotations"].pop()
    (renumbered / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"--resume with other settings: the run has data "):
        pretrain(fabric, guide_run, renumbered, tmp_path / "run", overrides=ONE_STEP, resume=True)
