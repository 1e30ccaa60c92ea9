"""Runs of ``finetune``: their files, resumption, signals and errors."""

import shutil
import signal

import pytest
import torch
import yaml

from afictl import UserError, load_preset
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, loop
from afictl.training.logger import TrainingLogger
from afictl.weights import load_detector, read_checkpoint
from tests.helpers.changed_data import change_annotations, rename_disc
from tests.helpers.tiny_runs import SMALL, assert_same_states, interrupted_at_batch, with_steps

FILES = {"config.yaml", "versions.json", "log.txt", "metrics.jsonl", "state.pt", "best.safetensors", "last.safetensors"}


@pytest.fixture
def train(fabric, preset, shapes_dir, tmp_path):
    """``finetune`` of the shapes to the run ``run``, by default with nearest interpolation."""
    nearest = InitialWeights("nearest")

    def train(preset=preset, data=shapes_dir, output=tmp_path / "run", initial=nearest, **options):
        return finetune(fabric, preset, data, output, initial, **options)

    return train


def test_a_run_folder_holds_everything_needed_to_use_and_to_repeat_it(guide_run, shapes_dir):
    names = {path.name for path in guide_run.iterdir()}
    assert names >= FILES
    assert any(name.startswith("events.out.tfevents") for name in names)
    config = yaml.safe_load((guide_run / "config.yaml").read_text())
    assert config["data"] == str(shapes_dir)
    assert config["preset"]["train"]["steps"] == 4
    records = read_metrics(guide_run)
    assert {"loss_mask", "loss_classifier", "lr", "seconds_per_step"} <= records[0].keys()
    assert {"box/AP", "mask/AP"} <= records[-1].keys()
    assert "note: train has steps=4, " in (guide_run / "log.txt").read_text()  # the key of the recipe
    loaded = load_detector(guide_run)
    assert loaded.classes == ("disc", "square", "triangle", "cross")
    assert loaded.preset.interpolator.kind == "nearest"


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(train, preset, tmp_path, guide_run):
    preset = with_steps(preset, checkpoint_every=2)
    with interrupted_at_batch(3):
        train(preset)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    train(preset, resume=True)
    assert_same_states(guide_run, tmp_path / "run", ("detector", "detector_optimizer", "best", "metrics", "step"))
    steps = [record["step"] for record in read_metrics(tmp_path / "run")]
    assert steps == sorted(steps)


def test_a_run_with_another_rate_for_the_interpolator_resumes_bit_for_bit(train, preset, tmp_path):
    preset = with_steps(preset, checkpoint_every=2, interpolator_lr=0.1)
    train(preset, output=tmp_path / "uninterrupted", initial=InitialWeights("afi"))
    with interrupted_at_batch(3):
        train(preset, initial=InitialWeights("afi"))
    train(preset, resume=True, initial=InitialWeights("afi"))
    assert_same_states(tmp_path / "uninterrupted", tmp_path / "run", ("detector", "detector_optimizer"))


def test_a_state_of_an_optimizer_without_factors_is_resumed(train, preset, guide_run, tmp_path):
    with interrupted_at_batch(3):
        train(with_steps(preset, checkpoint_every=2))
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    for group in state["detector_optimizer"]["param_groups"]:
        del group["lr_factor"]
    torch.save(state, tmp_path / "run" / "state.pt")
    train(with_steps(preset, checkpoint_every=2), resume=True)
    assert_same_states(guide_run, tmp_path / "run", ("detector", "detector_optimizer"))


def test_a_frozen_interpolator_keeps_its_weights(train, preset, tmp_path):
    steps = with_steps(preset, steps=1, eval_every=1, warmup_steps=0, weight_decay=0.1)
    train(steps, initial=InitialWeights("afi"), output=tmp_path / "trained")
    train(with_steps(steps, interpolator_lr=0), initial=InitialWeights(str(tmp_path / "trained")))
    before, after = (read_checkpoint(tmp_path / run).tensors for run in ("trained", "run"))
    frozen = [name for name in before if name.startswith("neck.interpolator.")]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)


@pytest.fixture
def averaged_run(train, preset, tmp_path):
    """A run with averaged weights that was interrupted and resumed."""
    preset = with_steps(preset, checkpoint_every=2, ema_decay=0.9, warmup_steps=0)
    with interrupted_at_batch(3):
        train(preset, initial=InitialWeights("afi"))
    train(preset, initial=InitialWeights("afi"), resume=True)
    return tmp_path / "run"


def test_the_average_of_the_weights_is_evaluated_saved_and_resumed(train, averaged_run, preset, tmp_path):
    preset = with_steps(preset, checkpoint_every=2, ema_decay=0.9, warmup_steps=0)
    train(preset, initial=InitialWeights("afi"), output=tmp_path / "uninterrupted")
    assert_same_states(tmp_path / "uninterrupted", averaged_run, ("detector", "detector_optimizer", "average"))
    state = torch.load(averaged_run / "state.pt", weights_only=True)
    for name in ("best.safetensors", "last.safetensors"):
        tensors = read_checkpoint(averaged_run / name).tensors
        assert all(torch.equal(value, state["average"][f"module.{name}"]) for name, value in tensors.items())
    assert not torch.equal(tensors["backbone.net.conv1.0.weight"], state["detector"]["backbone.net.conv1.0.weight"])
    assert state["average"]["n_averaged"] == 4


def test_a_run_with_an_average_follows_the_flags_of_averaged_weights(averaged_run, guide_run):
    interpolator = read_checkpoint(averaged_run / "interpolator.safetensors", averaged=True)
    detector = read_checkpoint(averaged_run, averaged=True)
    assert detector.notes == interpolator.notes == ("averaged weights",)
    for name, value in interpolator.tensors.items():
        assert torch.equal(detector.tensors[f"neck.interpolator.{name}"], value)
    with pytest.raises(UserError, match="--no-ema"):
        read_checkpoint(averaged_run, averaged=False)
    with pytest.raises(UserError, match="--ema"):
        read_checkpoint(guide_run, averaged=True)


def test_a_state_without_the_average_of_its_run_is_named(train, averaged_run, preset):
    state = torch.load(averaged_run / "state.pt", weights_only=True)
    del state["average"]
    torch.save(state, averaged_run / "state.pt")
    preset = with_steps(preset, checkpoint_every=2, ema_decay=0.9, warmup_steps=0)
    with pytest.raises(UserError, match=r"state.pt: is not the state of this run"):
        train(preset, initial=InitialWeights("afi"), resume=True)


@pytest.mark.parametrize("kind", ["kill", "signal"])
def test_an_interrupted_evaluation_is_done_first_on_resume(train, preset, tmp_path, kind):
    def interrupt(*args):
        if kind == "kill":
            raise MemoryError
        signal.raise_signal(signal.SIGTERM)

    preset = with_steps(preset, checkpoint_every=2, eval_every=2)
    runs = uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "run"
    train(preset, output=uninterrupted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLogger, "log_evaluation", interrupt)
        with pytest.raises(MemoryError if kind == "kill" else KeyboardInterrupt):
            train(preset)
    assert not (resumed / "best.safetensors").exists()
    train(preset, resume=True)
    assert_same_states(
        uninterrupted, resumed, ("detector", "detector_optimizer", "best", "metrics", "measured", "step")
    )
    metadata = [read_checkpoint(run / "best.safetensors").metadata for run in runs]
    assert metadata[0] == metadata[1]
    evaluations = [[record for record in read_metrics(run) if "box/AP" in record] for run in runs]
    assert evaluations[0] == evaluations[1]


def test_resuming_without_a_state_is_logged(train, preset, tmp_path):
    train(with_steps(preset, steps=1), resume=True)
    assert f"no run to continue in {tmp_path / 'run'}" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_is_never_overwritten(train, guide_run, tmp_path):
    with pytest.raises(UserError, match="--resume") as error:
        train(output=guide_run)
    assert str(guide_run) in str(error.value)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match=f"^{tmp_path} .*--output$"):
        train(output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_that_do_not_fit_leave_no_run(train, preset, guide_run, tmp_path):
    wider = preset.model_copy(update={"neck": preset.neck.model_copy(update={"channels": 24})})
    with pytest.raises(UserError) as error:
        train(wider, initial=InitialWeights("nearest", weights=guide_run))
    assert str(guide_run) in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_signal_saves_the_state_before_the_end(train, guide_run, tmp_path, monkeypatch):
    begin_step = loop._seed_step

    def interrupt(seed, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        begin_step(seed, step)

    monkeypatch.setattr(loop, "_seed_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 3
    assert read_checkpoint(tmp_path / "run" / "last.safetensors").metadata["metrics"] == {}
    train(resume=True)
    uninterrupted, resumed = (
        read_checkpoint(run / "last.safetensors").tensors for run in (guide_run, tmp_path / "run")
    )
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut"])
def test_a_damaged_state_is_named(train, guide_run, tmp_path, damage):
    shutil.copytree(guide_run, tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(damage)
    with pytest.raises(UserError, match=r"state\.pt"):
        train(resume=True)


def without_moment(state):
    del next(iter(state["detector_optimizer"]["state"].values()))["exp_avg"]


def with_wider_moment(state):
    next(iter(state["detector_optimizer"]["state"].values()))["exp_avg"] = torch.zeros(3, 5, 7)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda state: state.update(step="4"), "'step'"),
        (lambda state: state.update(step=10**30), "'step'"),
        (lambda state: state.update(step=5), "'step'"),
        (lambda state: state.update(step=True), "'step'"),
        (lambda state: state.update(measured=9), "'step'"),
        (lambda state: state.update(best=float("nan")), "'best'"),
        (lambda state: state.update(metrics=[1]), "'metrics'"),
        (lambda state: state.update(metrics={"box/AP": "1"}), "'metrics.box/AP'"),
        (lambda state: state.update(seconds=None), "'seconds'"),
        (lambda state: state.update(scaler=[]), "'scaler'"),
        (lambda state: state.update(stage=["stage1"]), "does not say that it belongs to stage3"),
        (lambda state: state.update(detector=None), "state of this run"),
        (lambda state: state.update(detector={1: torch.ones(1)}), "state of this run"),
        (lambda state: state.update(detector_optimizer={"state": []}), "state of this run"),
        (without_moment, "optimizer"),
        (with_wider_moment, "exp_avg"),
        (lambda state: state.pop("detector_optimizer"), "state of this run"),
        (lambda state: state.clear(), "does not say that it belongs to stage3"),
    ],
)
def test_a_state_of_something_else_is_named(train, guide_run, tmp_path, change, fact):
    run = tmp_path / "run"
    shutil.copytree(guide_run, run)
    state = torch.load(run / "state.pt", weights_only=True)
    change(state)
    torch.save(state, run / "state.pt")
    before = (run / "state.pt").read_bytes(), (run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"state\.pt: ") as error:
        train(resume=True)
    assert fact in str(error.value)
    assert "\n" not in str(error.value)
    assert ((run / "state.pt").read_bytes(), (run / "metrics.jsonl").read_bytes()) == before


def write_config(run, guide_run, seed=0):
    """Make ``run`` a run folder with the settings of ``guide_run``."""
    run.mkdir()
    (run / "config.yaml").write_text((guide_run / "config.yaml").read_text().replace("seed: 0", f"seed: {seed}"))


def test_records_after_the_saved_state_are_dropped(train, guide_run, tmp_path):
    run = tmp_path / "run"
    write_config(run, guide_run)
    (run / "metrics.jsonl").write_text('{"step": 1, "lr": 9.0}\n{"step": 2, "l')
    train(resume=True)
    assert all(record.get("lr") != 9.0 for record in read_metrics(run))


def test_a_run_without_records_is_replaced(train, preset, guide_run, tmp_path):
    run = tmp_path / "run"
    write_config(run, guide_run, seed=7)
    (run / "log.txt").write_text("error\n")
    train(with_steps(preset, steps=1, eval_every=1))
    assert "error" not in (run / "log.txt").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 0


def test_resuming_with_other_settings_names_them(train, preset, guide_run):
    with pytest.raises(UserError, match=r"config\.yaml: .*preset\.train\.lr"):
        train(with_steps(preset, lr=0.5), output=guide_run, resume=True)


def test_a_loss_that_is_not_finite_names_step_and_images(train, preset, tmp_path):
    diverging = with_steps(preset, lr=1e30, warmup_steps=0)
    with pytest.raises(UserError, match=r" step \d \(images \d") as error:
        train(diverging)
    assert "clip_norm" not in str(error.value)
    with pytest.raises(UserError, match="clip_norm"):
        train(with_steps(diverging, clip_norm=None), output=tmp_path / "unclipped")


def test_a_batch_too_small_for_batch_norm_is_an_error(train):
    settings = (*SMALL, "train.batch_size=1", "neck.kind=bifpn")  # p7 of a 64 px image is one position
    with pytest.raises(UserError, match="step 1: batch norm"):
        train(load_preset("faster-rcnn-r18-fpn-tiny", settings))


def test_splits_with_other_category_names_are_an_error(train, shapes_dir, tmp_path):
    with pytest.raises(UserError, match="coin") as error:
        train(data=rename_disc(shapes_dir, tmp_path / "data", ["val2017"]))
    assert "instances_val2017" in str(error.value)


def test_a_mask_detector_needs_masks(train, shapes_dir, tmp_path):
    def remove_masks(split, content):
        for annotation in content["annotations"]:
            del annotation["segmentation"]

    with pytest.raises(UserError, match="segmentation"):
        train(data=change_annotations(shapes_dir, tmp_path / "data", remove_masks))
    assert not (tmp_path / "run").exists()
