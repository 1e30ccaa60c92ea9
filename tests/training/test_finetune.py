import json
import shutil
import signal

import pytest
import torch
import yaml

from afictl import AFInterpolator, UserError, build_detector, load_preset
from afictl.training import InitialWeights, finetune
from afictl.training.initial_weights import build_seeded_detector, load_initial_weights, resolve_interpolator
from afictl.training.logger import TrainingLogger
from afictl.weights import load_detector, read_checkpoint
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.tiny_runs import SMALL, with_steps

FILES = {"config.yaml", "versions.json", "log.txt", "metrics.jsonl", "state.pt", "best.safetensors", "last.safetensors"}


def test_a_run_folder_holds_everything_needed_to_use_and_to_repeat_it(guide_run, shapes_dir):
    names = {path.name for path in guide_run.iterdir()}
    assert names >= FILES
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = yaml.safe_load((guide_run / "config.yaml").read_text())
    assert config["data"] == str(shapes_dir)
    assert config["preset"]["train"]["steps"] == 4
    records = [json.loads(line) for line in (guide_run / "metrics.jsonl").read_text().splitlines()]
    assert {"loss_mask", "loss_classifier", "lr", "seconds_per_step"} <= records[0].keys()
    assert {"box/AP", "mask/AP"} <= records[-1].keys()
    loaded = load_detector(guide_run)
    assert loaded.classes == ("disc", "square", "triangle", "cross")
    assert loaded.preset.interpolator.kind == "nearest"


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(fabric, preset, shapes_dir, tmp_path, guide_run):
    calls = 0

    def explode(*args):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    preset = with_steps(preset, checkpoint_every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.mark_batch_loaded", explode)
        with pytest.raises(KeyboardInterrupt):
            finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)
    whole, resumed = (torch.load(run / "state.pt", weights_only=True) for run in (guide_run, tmp_path / "run"))
    for part in ("detector", "detector_optimizer", "best", "metrics", "step"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


@pytest.mark.parametrize("kind", ["kill", "signal"])
def test_an_evaluation_that_was_cut_short_is_done_first_on_resume(fabric, preset, shapes_dir, tmp_path, kind):
    def stop(*args):
        if kind == "kill":
            raise MemoryError
        signal.raise_signal(signal.SIGTERM)

    preset = with_steps(preset, checkpoint_every=2, eval_every=2)
    finetune(fabric, preset, shapes_dir, tmp_path / "whole", InitialWeights("nearest"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLogger, "log_evaluation", stop)
        with pytest.raises(MemoryError if kind == "kill" else KeyboardInterrupt):
            finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert not (tmp_path / "run" / "best.safetensors").exists()
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)
    whole, resumed = (torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("whole", "run"))
    for part in ("detector", "detector_optimizer", "best", "metrics", "measured", "step"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    best, same = (read_checkpoint(tmp_path / run / "best.safetensors") for run in ("whole", "run"))
    assert best.metadata == same.metadata
    runs = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "run")]
    evaluations = [[line for line in lines if "box/AP" in line] for lines in runs]
    assert evaluations[0] == evaluations[1]


def test_resume_without_a_state_says_so(fabric, preset, shapes_dir, tmp_path):
    finetune(fabric, with_steps(preset, steps=1), shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"no saved state in {tmp_path / 'run'}" in log


def test_everything_but_the_interpolator_starts_equal(preset):
    starts = {}
    for kind in ("nearest", "bilinear", "afi"):
        chosen, module = resolve_interpolator(preset, kind, seed=3)
        state = build_seeded_detector(chosen, module, 4, seed=3).state_dict()
        starts[kind] = {name: value for name, value in state.items() if not name.startswith("neck.interpolator.")}
    for kind in ("bilinear", "afi"):
        assert starts[kind].keys() == starts["nearest"].keys()
        assert all(torch.equal(starts[kind][name], value) for name, value in starts["nearest"].items())


def test_a_detector_starts_from_another_with_its_own_interpolator(preset, guide_run):
    chosen, module = resolve_interpolator(preset, "afi", seed=1)
    detector = build_seeded_detector(chosen, module, 4, seed=1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    load_initial_weights(detector, InitialWeights("afi", weights=guide_run))
    tensors = read_checkpoint(guide_run).tensors
    state = detector.state_dict()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_the_interpolator_asked_for_wins_over_the_one_in_the_weights(fabric, preset, shapes_dir, tmp_path):
    one_step = with_steps(preset, steps=1, eval_every=1)
    finetune(fabric, one_step, shapes_dir, tmp_path / "with-afi", InitialWeights("afi"))
    trained = AFInterpolator(16, blocks=1, growth=4)
    trained.save(tmp_path / "interpolator.safetensors")
    for source, same in ((str(tmp_path / "interpolator.safetensors"), True), (None, False)):
        chosen, module = resolve_interpolator(preset, source, seed=1)
        load_initial_weights(
            build_seeded_detector(chosen, module, 4, seed=1), InitialWeights(source, weights=tmp_path / "with-afi")
        )
        assert torch.equal(module.head.weight, trained.head.weight) is same


def test_heads_are_replaced_for_another_number_of_classes(preset, guide_run):
    chosen, module = resolve_interpolator(preset, "nearest", seed=1)
    detector = build_seeded_detector(chosen, module, 7, seed=1)
    loaded, replaced = load_initial_weights(detector, InitialWeights(weights=guide_run))
    assert str(guide_run) in loaded
    assert "box_predictor" in replaced
    tensors, state = read_checkpoint(guide_run).tensors, detector.state_dict()
    replaced = {name for name in tensors if tensors[name].shape != state[name].shape}
    assert {name.split(".")[2] for name in replaced} == {"box_predictor", "mask_predictor"}
    assert all(torch.equal(state[name], tensors[name]) for name in tensors.keys() - replaced)


def test_weights_of_another_model_are_refused(fabric, preset, guide_run):
    wider = preset.model_copy(update={"neck": preset.neck.model_copy(update={"channels": 24})})
    chosen, module = resolve_interpolator(wider, "nearest", seed=0)
    detector = build_seeded_detector(chosen, module, 4, seed=0)
    with pytest.raises(UserError, match="another model"):
        load_initial_weights(detector, InitialWeights(weights=guide_run))


def test_weights_of_another_preset_name_both(preset, guide_run):
    other = load_preset("fcos-r18-fpn-tiny", (*SMALL[:2], "interpolator.options={blocks: 1, growth: 4}"))
    chosen, module = resolve_interpolator(other, "nearest", seed=0)
    detector = build_seeded_detector(chosen, module, 4, seed=0)
    message = r"another model: it holds mask-rcnn-r18-fpn-tiny, this is fcos-r18-fpn-tiny \(\d+ tensors"
    with pytest.raises(UserError, match=message):
        load_initial_weights(detector, InitialWeights(weights=guide_run))


def test_an_interpolator_is_no_detector(preset, tmp_path):
    AFInterpolator(16, blocks=1, growth=4).save(tmp_path / "interpolator.safetensors")
    chosen, module = resolve_interpolator(preset, "nearest", seed=0)
    with pytest.raises(UserError, match=r"holds an AF interpolator, for --interpolator .*, not a detector"):
        load_initial_weights(
            build_seeded_detector(chosen, module, 4, seed=0),
            InitialWeights(weights=tmp_path / "interpolator.safetensors", partial=True),
        )


def test_the_source_of_the_interpolator_is_told(preset, guide_run, tmp_path):
    AFInterpolator(16, blocks=1, growth=4).save(tmp_path / "interpolator.safetensors")
    origins = {"nearest": "nearest", "afi": "fresh afi", str(tmp_path): f"{tmp_path} (trained; 13 tensors loaded)"}
    for source, origin in origins.items():
        for weights in (None, guide_run) if source != "nearest" else (None,):
            chosen, module = resolve_interpolator(preset, source, seed=0)
            detector = build_seeded_detector(chosen, module, 4, seed=0)
            assert (
                load_initial_weights(detector, InitialWeights(source, weights=weights))[-1] == f"interpolator: {origin}"
            )


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A detector with four classes as detectron2 would save it, with an AF interpolator inside."""
    torch.manual_seed(0)
    source = build_detector(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), num_classes=4)
    path = tmp_path_factory.mktemp("foreign") / "model_final.pth"
    torch.save({"model": to_detectron2(source)}, path)
    return source, path


def test_training_starts_from_a_detector_of_detectron2(preset, foreign):
    source, path = foreign
    chosen, module = resolve_interpolator(preset, None, seed=1)
    detector = build_seeded_detector(chosen, module, 4, seed=1)
    (line,) = load_initial_weights(detector, InitialWeights(weights=path))
    assert line == f"{path}: {len(load_detector(path).report.matched)} tensors loaded"
    names = (
        "neck.interpolator.head.weight",
        "head.roi_heads.box_predictor.cls_score.weight",
        "backbone.net.conv1.weight",
    )
    for name in names:
        torch.testing.assert_close(detector.state_dict()[name], source.state_dict()[name])
    other = build_seeded_detector(chosen, module, 7, seed=1)
    loaded, replaced = load_initial_weights(other, InitialWeights(weights=path))
    assert "mismatched" in loaded
    assert "layers of other classes start anew for 7" in replaced


def test_its_interpolator_can_be_taken_alone(preset, foreign):
    source, path = foreign
    chosen, module = resolve_interpolator(preset, str(path), seed=1)
    assert chosen.interpolator.options["growth"] == 4
    assert torch.equal(module.head.weight, source.neck.interpolator.head.weight)


def test_settings_under_which_weights_compute_something_else_are_refused(preset, foreign):
    _, path = foreign
    other = preset.model_copy(update={"input": preset.input.model_copy(update={"std": (0.5, 0.5, 0.5)})})
    chosen, module = resolve_interpolator(other, None, seed=1)
    with pytest.raises(UserError, match=r"model_final\.pth.*add --set input\.std=\[0\.229,0\.224,0\.225\]"):
        load_initial_weights(build_seeded_detector(chosen, module, 4, seed=1), InitialWeights(weights=path))


def test_a_part_of_a_checkpoint_is_taken_only_when_asked_for(preset, foreign, tmp_path):
    source, _ = foreign
    kept = {name: v for name, v in to_detectron2(source).items() if not name.startswith("roi_heads.box_predictor")}
    torch.save(kept, tmp_path / "part.pth")
    chosen, module = resolve_interpolator(preset, None, seed=1)
    detector = build_seeded_detector(chosen, module, 4, seed=1)
    with pytest.raises(UserError, match=r"another model .*4 missing .*--partial takes what fits"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "part.pth"))
    (line,) = load_initial_weights(detector, InitialWeights(weights=tmp_path / "part.pth", partial=True))
    assert "4 missing (head.roi_heads.box_predictor" in line
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="another model"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "other.pth", partial=True))


def test_an_interpolator_comes_from_a_kind_a_file_or_a_run(preset, tmp_path):
    trained = AFInterpolator(16, blocks=2, growth=6)
    trained.save(tmp_path / "interpolator.safetensors")
    for source in (tmp_path, tmp_path / "interpolator.safetensors"):
        chosen, module = resolve_interpolator(preset, str(source), seed=0)
        assert chosen.interpolator.kind == "afi"
        assert chosen.interpolator.options["growth"] == 6
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), trained.parameters(), strict=True))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nearst", "neither a kind"),  # a misspelt kind
        ("wide", "has 8 channels"),  # another width than the neck's
        ("empty", "nor a run of pretrain"),  # a folder that holds no interpolator
    ],
)
def test_unusable_interpolators_are_refused(preset, tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "wide").mkdir()
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "wide" / "interpolator.safetensors")
    with pytest.raises(UserError, match=message):
        resolve_interpolator(preset, source, seed=0)


def test_a_run_is_never_overwritten(fabric, preset, shapes_dir, guide_run, tmp_path):
    with pytest.raises(UserError, match="--resume"):
        finetune(fabric, preset, shapes_dir, guide_run, InitialWeights("nearest"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        finetune(fabric, preset, shapes_dir, tmp_path, InitialWeights("nearest"))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_that_do_not_fit_leave_no_run_behind(fabric, preset, shapes_dir, guide_run, tmp_path):
    wider = preset.model_copy(update={"neck": preset.neck.model_copy(update={"channels": 24})})
    with pytest.raises(UserError, match="another model"):
        finetune(fabric, wider, shapes_dir, tmp_path / "run", InitialWeights("nearest", weights=guide_run))
    assert not (tmp_path / "run").exists()


def test_half_an_interpolator_is_no_start(preset, tmp_path):
    detector = build_seeded_detector(preset, AFInterpolator(preset.neck.channels), 4, seed=0)
    tensors = detector.state_dict()
    half = {name: value for name, value in tensors.items() if ".interpolator.group.1." not in name}
    assert len(half) < len(tensors)
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"5 missing .*--partial"):
        load_initial_weights(detector, InitialWeights(weights=tmp_path / "half.pth"))
    load_initial_weights(detector, InitialWeights(weights=tmp_path / "half.pth", partial=True))


def test_a_signal_saves_the_state_before_the_end(fabric, preset, shapes_dir, guide_run, tmp_path, monkeypatch):
    loaded = TrainingLogger.mark_batch_loaded
    calls = []

    def interrupt(clock):
        calls.append(clock)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        loaded(clock)

    monkeypatch.setattr(TrainingLogger, "mark_batch_loaded", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").metadata["metrics"] == {}
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)
    whole, resumed = (read_checkpoint(run / "last.safetensors").tensors for run in (guide_run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_named(fabric, preset, shapes_dir, guide_run, tmp_path, damage):
    shutil.copytree(guide_run, tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(damage)
    with pytest.raises(UserError, match=r"state\.pt: cannot be resumed"):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)


def test_records_that_a_crash_left_behind_are_dropped(fabric, preset, shapes_dir, guide_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((guide_run / "config.yaml").read_text())
    (run / "metrics.jsonl").write_text('{"step": 1, "lr": 9.0}\n{"step": 2, "l')
    finetune(fabric, preset, shapes_dir, run, InitialWeights("nearest"), resume=True)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(record.get("lr") != 9.0 for record in records)


def test_splits_with_other_category_names_are_refused(fabric, preset, shapes_dir, tmp_path):
    copy = renamed(shapes_dir, tmp_path / "data", {"val2017"})
    with pytest.raises(UserError, match="instances_val2017"):
        finetune(fabric, preset, copy, tmp_path / "run", InitialWeights("nearest"))


def renamed(data, folder, splits):
    """A copy of a data set whose discs are called coins in some splits."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).symlink_to(data / split)
        text = (data / "annotations" / f"instances_{split}.json").read_text()
        new = text.replace('"disc"', '"coin"') if split in splits else text
        (folder / "annotations" / f"instances_{split}.json").write_text(new)
    return folder


def test_a_run_that_ended_before_its_first_record_gives_its_folder_back(
    fabric, preset, shapes_dir, guide_run, tmp_path
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text((guide_run / "config.yaml").read_text().replace("seed: 0", "seed: 7"))
    (run / "log.txt").write_text("error\n")
    finetune(fabric, with_steps(preset, steps=1, eval_every=1), shapes_dir, run, InitialWeights("nearest"))
    assert "error" not in (run / "log.txt").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 0


def test_resuming_with_other_settings_names_them(fabric, preset, shapes_dir, guide_run):
    with pytest.raises(UserError, match=r"preset\.train\.lr"):
        finetune(fabric, with_steps(preset, lr=0.5), shapes_dir, guide_run, InitialWeights("nearest"), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(fabric, preset, shapes_dir, tmp_path):
    wild = with_steps(preset, lr=1e30, warmup_steps=0)
    with pytest.raises(UserError, match=r"(became nan|not finite).* at step \d \(images \d.*lower the learning rate$"):
        finetune(fabric, wild, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    with pytest.raises(UserError, match=r"lower the learning rate or set clip_norm$"):
        finetune(fabric, with_steps(wild, clip_norm=None), shapes_dir, tmp_path / "other", InitialWeights("nearest"))


def test_a_mask_detector_needs_masks(fabric, preset, shapes_dir, tmp_path):
    data = tmp_path / "data"
    for split in ("train2017", "val2017"):
        (data / split).parent.mkdir(exist_ok=True)
        (data / split).symlink_to(shapes_dir / split)
    (data / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        content = json.loads((shapes_dir / "annotations" / f"instances_{split}.json").read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="segmentation"):
        finetune(fabric, preset, data, tmp_path / "run", InitialWeights("nearest"))
    assert not (tmp_path / "run").exists()


def test_a_batch_too_small_for_batch_norm_is_told(fabric, shapes_dir, tmp_path):
    small = (*SMALL, "train.batch_size=1", "neck.kind=bifpn")  # p7 of a 64 px image is one position
    preset = load_preset("faster-rcnn-r18-fpn-tiny", small)
    with pytest.raises(UserError, match="step 1: batch norm got a single value a channel; train with more images"):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
