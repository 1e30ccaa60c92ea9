"""Files, checks of options, and padding of all interpolators."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from afictl import AFInterpolator, UserError, build_interpolator
from afictl.interpolators import Interpolator, learned_kinds
from afictl.interpolators.base import replicate_border
from afictl.tensor_files import read_tensors

OPTIONS = {
    "afi": {"blocks": 1, "growth": 4, "residual_scale": 0.1},
    "sapa": {"up_kernel": 3},
    "fade": {"up_kernel": 3},
    "lda-aqu": {"reduction": 2, "offset_range": 2.5},
    "freqfusion": {"low_pass_kernel": 3, "groups": 2},
}


def save_as(path, description):
    save_file({"weight": torch.zeros(2)}, path, metadata={"afictl": json.dumps(description)})
    return path


@pytest.mark.parametrize("kind", learned_kinds())
def test_every_learned_kind_is_loaded_as_it_was_saved(kind, tmp_path):
    saved = build_interpolator(kind, 8, **OPTIONS.get(kind, {}))
    saved.to(memory_format=torch.channels_last).save(tmp_path / "interpolator.safetensors")
    loaded = Interpolator.load(tmp_path / "interpolator.safetensors")
    assert type(loaded) is type(saved)
    assert (loaded.kind, loaded.config) == (kind, saved.config)
    assert all(value.requires_grad and value.dtype == torch.float32 for value in loaded.parameters())
    coarse, fine = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 5, 8)
    torch.testing.assert_close(loaded(coarse, fine), saved(coarse, fine))
    assert [file.name for file in tmp_path.iterdir()] == ["interpolator.safetensors"]


def test_a_file_that_is_overwritten_in_place_does_not_change_a_loaded_interpolator(tmp_path):
    """As by ``cp``: the tensors of a file are mapped, and a shorter file would end the process by SIGBUS."""
    file = tmp_path / "interpolator.safetensors"
    AFInterpolator(8, blocks=1, growth=4).save(file)
    loaded = Interpolator.load(file)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with file.open("r+b") as opened:  # a shorter file would end a test that fails
        opened.seek(file.stat().st_size // 2)
        opened.write(bytes(file.stat().st_size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_a_link_that_the_user_names_is_followed(tmp_path):
    (tmp_path / "link").symlink_to("target")
    build_interpolator("carafe", 8).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Interpolator.load(tmp_path / "target").kind == "carafe"


def test_description_of_a_file_names_format_version_and_kind(tmp_path):
    for kind in ("afi", "carafe"):
        build_interpolator(kind, 8).save(tmp_path / kind)
    assert read_tensors(tmp_path / "afi")[1] == {
        "format": "afi-interpolator",
        "version": 1,
        "config": {"channels": 8, "blocks": 3, "growth": 32, "residual_scale": 0.2},
    }
    assert read_tensors(tmp_path / "carafe")[1] == {
        "format": "interpolator",
        "version": 1,
        "kind": "carafe",
        "config": {"channels": 8, "up_kernel": 5, "encoder_kernel": 3, "compressed_channels": 64},
    }


def test_loading_draws_no_random_numbers(tmp_path):
    build_interpolator("carafe", 8).save(tmp_path / "carafe")
    state = torch.get_rng_state()
    Interpolator.load(tmp_path / "carafe")
    assert torch.equal(torch.get_rng_state(), state)


def test_class_of_one_kind_refuses_the_file_of_another(tmp_path):
    build_interpolator("carafe", 8).save(tmp_path / "carafe")
    with pytest.raises(UserError, match=r"carafe: .*'carafe'.*'afi'"):
        AFInterpolator.load(tmp_path / "carafe")


def test_kind_without_parameters_cannot_be_saved(tmp_path):
    with pytest.raises(UserError, match="'nearest'"):
        build_interpolator("nearest", 8).save(tmp_path / "nearest")
    assert not list(tmp_path.iterdir())


CONFIG = {"channels": 8, "groups": 4}


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"format": "detector"}, "detector"),
        ({"version": 2}, "version 2"),
        ({"kind": "carafee"}, "carafee"),
        ({"kind": None}, "None"),
        ({"kind": "nearest", "config": {"channels": 8}}, "weight"),
        ({"config": None}, "configuration"),
        ({"config": {"groups": 4}}, "channels"),
        ({"config": {**CONFIG, "group": 2}}, "group"),
        ({"config": {**CONFIG, "groups": 0}}, "groups"),
        ({"config": {**CONFIG, "groups": [4]}}, "groups"),
        ({"config": {**CONFIG, "channels": 10**12}}, "channels"),
        ({"config": {**CONFIG, "channels": 60_000}}, "offset"),
        ({"config": CONFIG}, "offset.weight"),
    ],
)
def test_description_that_does_not_fit_is_refused(changes, fact, tmp_path):
    description = {"format": "interpolator", "version": 1, "kind": "dysample", "config": CONFIG, **changes}
    path = save_as(tmp_path / "file.safetensors", description)
    with pytest.raises(UserError, match=r"file\.safetensors: ") as error:
        Interpolator.load(path)
    assert fact in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    interpolator = build_interpolator("fade", 8)
    interpolator.gate.bias.data[0] = torch.inf
    interpolator.save(tmp_path / "fade")
    with pytest.raises(UserError, match=r"fade: .*infinite"):
        Interpolator.load(tmp_path / "fade")


def test_foreign_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.safetensors: no such file"):
        Interpolator.load(tmp_path / "absent.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"foreign\.safetensors: .*description"):
        Interpolator.load(tmp_path / "foreign.safetensors")
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.safetensors: .*readable"):
        Interpolator.load(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [
        ("afi", "blocks", 0),
        ("afi", "blocks", True),
        ("afi", "growth", 1.5),
        ("afi", "channels", "64"),
        ("afi", "residual_scale", -1),
        ("carafe", "up_kernel", 4),
        ("carafe", "encoder_kernel", 0),
        ("carafe", "compressed_channels", 2.5),
        ("sapa", "up_kernel", 2),
        ("fade", "up_kernel", 2),
        ("fade", "compressed_channels", -1),
        ("dysample", "groups", 0),
        ("afi", "growth", 10**9),
        ("afi", "blocks", 65_537),
        ("afi", "residual_scale", 1e30),
    ],
)
def test_option_out_of_range_is_named(kind, option, value):
    with pytest.raises(UserError) as error:
        build_interpolator(kind, **{"channels": 8, option: value})
    assert f"'{kind}': {option}" in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
def test_border_is_replicated_with_the_gradient_of_torchs_padding(size):
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    weights = torch.randn_like(expected)
    assert torch.equal(replicate_border(maps), expected)
    gradients = [torch.autograd.grad((padded * weights).sum(), maps) for padded in (replicate_border(maps), expected)]
    torch.testing.assert_close(*gradients)
