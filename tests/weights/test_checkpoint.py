import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from afictl import UserError
from afictl.weights import read_checkpoint

TENSORS = {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.ones(2)}


def assert_same(tensors):
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("wrap", [dict, lambda t: {"model": t, "epoch": 3}, lambda t: {"state_dict": t}])
def test_pytorch_files_bare_or_nested(tmp_path, suffix, wrap):
    torch.save(wrap(TENSORS), tmp_path / f"file{suffix}")
    assert_same(read_checkpoint(tmp_path / f"file{suffix}").tensors)


def test_safetensors_of_others_have_no_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "file.safetensors", metadata={"format": "pt"})
    checkpoint = read_checkpoint(tmp_path / "file.safetensors")
    assert_same(checkpoint.tensors)
    assert checkpoint.metadata == {}


def test_run_folder_gives_the_best_else_the_last(tmp_path):
    with pytest.raises(UserError, match=r"neither best\.safetensors nor last\.safetensors"):
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
    with pytest.raises(UserError, match="refused") as error:
        read_checkpoint(tmp_path / "file.pth")
    assert not (tmp_path / "executed").exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "page"])
def test_damaged_files_end_in_one_line_with_their_name(tmp_path, suffix, damage):
    path = tmp_path / f"file{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
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
    ("name", "content", "message"),
    [
        ("list.pt", [1, 2], "holds a list"),
        ("plain.pt", {"epoch": 3}, "no tensors by name"),
        ("weights.onnx", {}, "no tensors by name"),
    ],
)
def test_files_without_a_state_dict_are_explained(tmp_path, name, content, message):
    torch.save(content, tmp_path / name)
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / name)


def test_absent_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pt: no such file"):
        read_checkpoint(tmp_path / "nowhere.pt")
