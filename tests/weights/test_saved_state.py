"""Reading of saved states: equal to torch's reader for what a training writes, bounded for everything else."""

import math
import time

import pytest
import torch

from afictl import UserError
from afictl.weights.saved_state import read_saved_state
from tests.helpers.hostile_files import BIG, BUSY, code, doubling, mapping, saved, zipped


def test_a_state_is_read_as_torch_reads_it(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    state = {
        "step": 3,
        "best": -math.inf,
        "metrics": {"box/AP": None, "box/AP50": 1.5},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "flags": (True, "text", [1, 2]),
    }
    torch.save(state, tmp_path / "state.pt")
    content, expected = read_saved_state(tmp_path / "state.pt"), torch.load(tmp_path / "state.pt", weights_only=True)
    assert content.pop("flags") == expected.pop("flags")
    torch.testing.assert_close(content, {**expected, "model": dict(expected["model"])}, rtol=0, atol=0)
    assert content["transposed"].stride() == expected["transposed"].stride()


def many(levels):
    """A list of a list nine times, and so on."""
    value = []
    for _ in range(levels):
        value = [value] * 9
    return value


def cyclic():
    value = []
    value += [value] * 3
    return value


FILES = {
    **{
        name: content
        for name, (content, _) in {**BUSY, **BIG}.items()
        if name.endswith(".pth") and "device" not in name
    },
    "doubling.pt": zipped(mapping(doubling(40))),
    "many.pt": saved({"a": many(12)}),
    "cyclic.pt": saved({"a": cyclic()}),
    "deep.pt": zipped(mapping(b"]" * 500 + b"a" * 499)),
    "list.pt": saved([1, 2]),
    "set.pt": saved({"a": {1}}),
    "text.pt": b"no zip at all",
    "truncated.pt": saved({"a": torch.ones(9)})[:-40],
    "empty.pt": b"",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_another_content_is_refused_soon_by_file(tmp_path, content):
    file = tmp_path / "state.pt"
    file.write_bytes(content)
    start = time.process_time()
    with pytest.raises(UserError, match=f"^{file}: ") as error:
        read_saved_state(file)
    assert "\n" not in str(error.value)
    assert time.process_time() - start < 10


def test_no_code_is_executed(tmp_path):
    marker, file = tmp_path / "it_ran", tmp_path / "state.pt"
    for content in code(str(marker)).values():
        file.write_bytes(content)
        with pytest.raises(UserError):
            read_saved_state(file)
    assert not marker.exists()
