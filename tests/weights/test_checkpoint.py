import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from afictl import UserError
from afictl.weights import read_checkpoint
from tests.helpers import hostile_files

TENSORS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}


def assert_same(tensors):
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("wrap", [dict, lambda t: {"model": t, "epoch": 3}, lambda t: {"state_dict": t}])
def test_bare_and_nested_pytorch_files_are_read(tmp_path, suffix, wrap):
    torch.save(wrap(TENSORS), tmp_path / f"file{suffix}")
    assert_same(read_checkpoint(tmp_path / f"file{suffix}").tensors)


def training_state():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5]).state_dict()
    numbers = {"best": np.float32(0.5), "images": np.int64(7)}
    return module, {"optimizer": optimizer.state_dict(), "iteration": 4, "scheduler": scheduler, **numbers}


def test_run_of_pretrain_is_refused_with_advice(tmp_path):
    (tmp_path / "interpolator.safetensors").write_bytes(b"")
    interpolator = f"--interpolator {tmp_path} .*{tmp_path / 'interpolator.safetensors'}"
    with pytest.raises(UserError, match=interpolator) as error:
        read_checkpoint(tmp_path)
    assert "stage2" not in str(error.value)
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "best.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=f"{interpolator}.* {tmp_path / 'stage2'} "):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_training_checkpoints_are_unwrapped(tmp_path, options):
    module, state = training_state()
    meta = {
        "config": "x = 1\n" * 10_000,
        "CLASSES": ("cat", "dog"),
        "seed": None,
        "hooks": {"a", "b"},
        "raw": b"\xff\0",
    }
    for content in (
        {"model": module.state_dict(), **state},
        {"meta": meta, "state_dict": module.state_dict(), **state},
    ):
        torch.save(content, tmp_path / "file.pth", **options)
        tensors = read_checkpoint(tmp_path / "file.pth").tensors
        assert list(tensors) == list(module.state_dict())
        assert all(torch.equal(tensors[name], value) for name, value in module.state_dict().items())


def test_all_dtypes_and_memory_layouts_are_read(tmp_path):
    shared = torch.arange(10.0)
    tensors = {str(t): torch.ones(3, dtype=t) for t in (torch.float64, torch.float16, torch.bfloat16, torch.uint16)}
    tensors |= {
        "bool": torch.ones(2) > 0,
        "complex": torch.ones(2) + 1j,
        "scalar": torch.tensor(3),
        "empty": torch.ones(0, 4),
    }
    tensors |= {"turned": torch.arange(6.0).view(2, 3).t(), "part": shared[3:5], "whole": shared, "tied": shared}
    tensors |= {"parameter": torch.nn.Parameter(torch.ones(2)), "float8": torch.ones(2).to(torch.float8_e4m3fn)}
    tensors["attributed"] = torch.ones(2)
    tensors["attributed"].note = "saved by torch.save"
    torch.save(tensors, tmp_path / "file.pth")
    stored = read_checkpoint(tmp_path / "file.pth").tensors
    for name, value in tensors.items():
        assert stored[name].dtype == value.dtype
        torch.testing.assert_close(stored[name].float(), value.detach().float()) if name != "complex" else None
    assert stored["whole"].data_ptr() == stored["tied"].data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda arrays: {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True},
        lambda arrays: {"blobs": {**arrays, "layer.weight_momentum": np.ones(2)}, "cfg": "MODEL:\n  TYPE: x"},
        OrderedDict,
    ],
)
def test_pickles_of_detectron_are_read(tmp_path, protocol, wrap):
    content = wrap({name: value.numpy() for name, value in TENSORS.items()})
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol))
    assert_same(read_checkpoint(tmp_path / "model_final.pkl").tensors)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_of_every_memory_order_are_read(tmp_path, protocol):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
        "scalar": np.array(3),
        "empty": np.zeros((0, 3), np.float32),
        "bool": np.array([True, False]),
    }
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(arrays, protocol))
    tensors = read_checkpoint(tmp_path / "file.pkl").tensors
    assert all(np.array_equal(tensors[name].numpy(), value) for name, value in arrays.items())


def test_pickle_of_python_2_is_read(tmp_path):
    raw = np.array([1.5, -2.0], np.float32).tobytes()
    array = hostile_files.array(content=hostile_files.python2_text(raw))
    (tmp_path / "R-50.pkl").write_bytes(hostile_files.mapping(array, b"U\7conv1_w"))
    tensors = read_checkpoint(tmp_path / "R-50.pkl").tensors
    assert tensors["conv1_w"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float8_e5m2])
def test_weights_that_are_not_finite_are_named(tmp_path, value, dtype):
    torch.save({"fine": torch.ones(2), "bad.weight": torch.tensor([1.0, value]).to(dtype)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"bad\.weight .*NaN"):
        read_checkpoint(tmp_path / "file.pth")


def write_tensors(path, kind):
    if kind == "safetensors":
        save_file(TENSORS, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model": {name: value.numpy() for name, value in TENSORS.items()}}, 2))
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "zip", "old"])
def test_truncated_files_are_refused(tmp_path, kind):
    content = write_tensors(tmp_path / "whole", kind)
    for length in range(0, len(content), 1 + len(content) // 150):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(UserError, match="cut: "):
            read_checkpoint(tmp_path / "cut")


@pytest.mark.parametrize("kind", ["safetensors", "pickle", "zip", "old"])
def test_format_is_detected_from_the_content(tmp_path, kind):
    for suffix in (".safetensors", ".pth", ".pkl", ""):
        write_tensors(tmp_path / f"file{suffix}", kind)
        assert_same(read_checkpoint(tmp_path / f"file{suffix}").tensors)


def test_changed_byte_of_a_zip_is_detected(tmp_path):
    content = write_tensors(tmp_path / "file.pth", "zip")
    (tmp_path / "file.pth").write_bytes(content.replace(np.float32([3, 4]).tobytes(), np.float32([3, 5]).tobytes()))
    with pytest.raises(UserError, match=r"file\.pth: .*CRC-32"):
        read_checkpoint(tmp_path / "file.pth")


def test_foreign_safetensors_have_no_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "file.safetensors", metadata={"format": "pt"})
    checkpoint = read_checkpoint(tmp_path / "file.safetensors")
    assert_same(checkpoint.tensors)
    assert checkpoint.metadata == {}


def test_run_folder_resolves_to_best_else_last(tmp_path):
    with pytest.raises(UserError, match=f"^{tmp_path}: .*empty"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=r"best\.safetensors .*last\.safetensors"):
        read_checkpoint(tmp_path)
    save_file(TENSORS, tmp_path / "last.safetensors")
    assert read_checkpoint(tmp_path).path.name == "last.safetensors"
    save_file(TENSORS, tmp_path / "best.safetensors")
    assert read_checkpoint(tmp_path).path.name == "best.safetensors"


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, write):
    write({"weight": torch.ones(2), "x": Malicious(str(tmp_path / "executed"))}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth: refused") as error:
        read_checkpoint(tmp_path / "file.pth")
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "page"])
def test_damaged_files_end_in_one_line_with_their_name(tmp_path, suffix, damage):
    path = tmp_path / f"file{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "text": b"version https://git-lfs.github.com/spec/v1\n",
            "page": b"<!DOCTYPE html><html>Sign in</html>",
        }[damage]
    )
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("list.pt", [1, 2], "list,"),
        ("plain.pt", {"epoch": 3}, "state_dict"),
        ("weights.onnx", {}, "state_dict"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, name, content, fact):
    torch.save(content, tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: .*{fact}"):
        read_checkpoint(tmp_path / name)


def test_absent_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pt: no such"):
        read_checkpoint(tmp_path / "nowhere.pt")


def test_a_folder_of_runs_names_them(tmp_path):
    (tmp_path / "guide").mkdir()
    (tmp_path / "guide" / "config.yaml").write_text("")
    with pytest.raises(UserError, match=f"no finished run; .* in it: {tmp_path / 'guide'}"):
        read_checkpoint(tmp_path)
