"""Objects beside the tensors of a checkpoint, and the wrappers and keys under which projects store the tensors."""

import argparse
import io
import pickle
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from afictl import UserError, load_weights
from afictl.weights import read_checkpoint
from tests.helpers.foreign_objects import foreign_class, foreign_objects, quantized

with ExitStack() as _stack:
    NAMES = sorted(foreign_objects(_stack))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


FORMATS = ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4})
CASES = [(name, options) for name in NAMES for options in FORMATS]
CASES.remove(("quantized", FORMATS[1]))  # the size of its storage is unknown


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_objects_beside_the_tensors_are_left_alone(name, options, tmp_path):
    source = network().state_dict()
    with ExitStack() as stack:
        content = {"state_dict": source, name: foreign_objects(stack)[name]}
        (tmp_path / "epoch_12.pth").write_bytes(saved(content, **options))
    tensors = read_checkpoint(tmp_path / "epoch_12.pth").tensors
    assert tensors.keys() == source.keys()
    for key, value in source.items():
        torch.testing.assert_close(tensors[key], value)


def test_all_objects_beside_the_tensors_of_a_pickle_of_arrays(tmp_path):
    with ExitStack() as stack:
        beside = {name: value for name, value in foreign_objects(stack).items() if name not in ("quantized", "sparse")}
        del beside["generator"], beside["scheduler"]
        content = {"model": {"a.weight": torch.ones(2).numpy()}, **beside}
        (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, 4))
    assert read_checkpoint(tmp_path / "model_final.pkl").tensors["a.weight"].tolist() == [1, 1]


def test_nothing_of_the_classes_is_executed(tmp_path):
    executed = []

    def restore(self, state):
        executed.append(state)

    with ExitStack() as stack:
        cls = foreign_class(stack, "trainer.State", __setstate__=restore, __getstate__=lambda self: {"a": 1})
        content = saved({"model": {"a.b": torch.ones(1)}, "state": cls()})
        (tmp_path / "a.pth").write_bytes(content)
        assert read_checkpoint(tmp_path / "a.pth").tensors["a.b"] == 1
    assert not executed


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: {"epoch": 1, "model_state_dict": sd, "loss": torch.tensor(0.1)},
        lambda sd: {f"_orig_mod.{k}": v for k, v in sd.items()},
        lambda sd: {"state_dict": {f"model.{k}": v for k, v in sd.items()}, "pytorch-lightning_version": "2.4.0"},
        lambda sd: {"net": {f"module._orig_mod.{k}": v for k, v in sd.items()}},
        lambda sd: {"state_dict": {f"model._orig_mod.module.{k}": v for k, v in sd.items()}},
        lambda sd: {"model": {"state_dict": sd}, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        lambda sd: {k.replace(".", "._orig_mod.", 1): v for k, v in sd.items()},
        lambda sd: {"ema": {"module": sd, "updates": 3}},
        lambda sd: {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in sd.items()}}},
        lambda sd: {"student": sd, "rng": {"cpu": torch.get_rng_state()}, "args": argparse.Namespace()},
    ],
)
def test_wrappers_are_removed(wrap, tmp_path):
    source, target = network(), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    torch.save(wrap(source.state_dict()), tmp_path / "wrapped.pth")
    report = load_weights(target, tmp_path / "wrapped.pth")
    assert report.complete, report
    torch.testing.assert_close(target.state_dict(), source.state_dict())


def fill(value):
    return {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()}


@pytest.mark.parametrize(
    ("keys", "default"),
    [
        ({"state_dict": 0, "state_dict_ema": 1}, 1),  # timm's CheckpointSaver
        ({"model": 0, "model_ema": 1}, 1),  # torchvision's references
        ({"model": 0, "ema": 1}, 1),  # YOLOv5, RT-DETR
        ({"model": 0, "ema_state": 1}, 0),  # detrex
        ({"model": 0, "ema_model": 1}, 0),
        ({"model_state_dict": 0, "ema_state_dict": 1}, 0),
        ({"message_hub": {}, "state_dict": 1, "ema_state_dict": 0}, 1),  # MMEngine exchanges them
        ({"state_dict": 1, "current_model_state": 0}, 1),  # Lightning's WeightAveraging
    ],
)
def test_averaged_weights_are_those_that_the_library_loads(keys, default, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({key: value if value == {} else fill(value) for key, value in keys.items()}, path)
    for averaged, expected in ((None, default), (True, 1), (False, 0)):
        module = network()
        report = load_weights(module, path, averaged=averaged)
        assert module[0].bias[0].item() == expected
        assert ("averaged" if expected else "trained") in report.notes[0]
        assert report.notes[0] in str(report)


def test_averages_among_the_buffers_of_mmcv_are_told_apart(tmp_path):
    path = tmp_path / "latest.pth"
    trained = {f"ema_{name.replace('.', '_')}": value for name, value in fill(0).items()}
    torch.save({"meta": {}, "state_dict": fill(1) | trained}, path)
    for averaged, expected in ((None, 1), (True, 1), (False, 0)):
        module = network()
        assert load_weights(module, path, averaged=averaged).complete
        assert module[1].weight[0, 0].item() == expected


def test_missing_kind_of_weights_is_an_error(tmp_path):
    torch.save({"model": fill(0)}, tmp_path / "plain.pth")
    torch.save({"ema": fill(0)}, tmp_path / "average.pth")
    with pytest.raises(UserError, match=r"plain\.pth: .*--ema"):
        read_checkpoint(tmp_path / "plain.pth", averaged=True)
    with pytest.raises(UserError, match=r"average\.pth: .*--no-ema"):
        read_checkpoint(tmp_path / "average.pth", averaged=False)
    assert read_checkpoint(tmp_path / "plain.pth", averaged=False).notes == ()


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ({"generator": fill(0), "discriminator": fill(1)}, ["generator", "discriminator"]),
        ({"model": argparse.Namespace()}, ["model", "argparse.Namespace"]),
        (argparse.Namespace(), ["argparse.Namespace", "state_dict()"]),
        (network(), ["whole model", "Sequential", "torch.save(model.state_dict()"]),
        ({"epoch": -1, "model": nn.DataParallel(network())}, ["under model", "DataParallel", "model.state_dict()"]),
        ({"model": None, "ema": network()}, ["under ema", "Sequential"]),
        (torch.ones(3), ["contains a tensor"]),
        ({"model": {"a.b": torch.ones(1), "a.c": torch.eye(2).to_sparse()}}, ["a.c", "sparse"]),
    ],
)
@pytest.mark.parametrize("options", FORMATS[:2], ids=str)
def test_content_that_cannot_be_chosen_is_named(content, facts, options, tmp_path):
    torch.save(content, tmp_path / "a.pth", **options)
    with pytest.raises(UserError) as error:
        read_checkpoint(tmp_path / "a.pth")
    assert all(fact in str(error.value) for fact in facts), error.value
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize("key", ["model", "beside"])
def test_quantized_tensors_of_the_legacy_format_are_named(key, tmp_path):
    """The size of their storages is unknown, so that the following storages cannot be found."""
    content = {"model": network().state_dict()} | {key: {"a.weight": quantized()}}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"a\.pth: refused: .*quantized"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_torchscript_program_is_named(tmp_path):
    torch.jit.save(torch.jit.trace(network(), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt: refused: is a TorchScript program"):
        read_checkpoint(tmp_path / "a.pt")
