import copy
import json
import pickle

import huggingface_hub.hub_mixin
import pytest
import torch
from safetensors.torch import save_file

from afictl import UserError
from afictl.interpolators import AFInterpolator

CONFIG = {"channels": 8, "blocks": 1, "growth": 4, "residual_scale": 0.1}


@pytest.fixture
def folder(tmp_path):
    """A saved interpolator."""
    torch.manual_seed(0)
    AFInterpolator(**CONFIG).save_pretrained(tmp_path / "afi")
    return tmp_path / "afi"


def test_folder_gives_the_same_interpolator(tmp_path):
    # One positional and one default argument: the configuration contains both.
    interpolator = AFInterpolator(8, growth=4, residual_scale=0.1)
    interpolator.save_pretrained(tmp_path / "afi")
    assert sorted(file.name for file in (tmp_path / "afi").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "afi" / "config.json").read_text()) == {**CONFIG, "blocks": 3}
    loaded = AFInterpolator.from_pretrained(tmp_path / "afi")
    assert loaded.config == interpolator.config
    assert not loaded.training
    coarse = torch.randn(1, 8, 3, 5)
    assert torch.equal(loaded(coarse), interpolator(coarse))


def test_weights_of_the_folder_are_a_file_for_load(folder):
    assert AFInterpolator.load(folder / "model.safetensors").config == CONFIG


def pickle_and_load(interpolator):
    return pickle.loads(pickle.dumps(interpolator))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickle_and_load, lambda x: type(x)(**x.config)])
def test_configuration_survives_copies(folder, tmp_path, duplicate):
    duplicate(AFInterpolator.from_pretrained(folder)).save_pretrained(tmp_path / "twin")
    assert json.loads((tmp_path / "twin" / "config.json").read_text()) == CONFIG


def test_model_card_names_method_and_use(folder):
    card = (folder / "README.md").read_text()
    assert "library_name: afictl" in card
    assert "10.1016/j.patcog.2023.109365" in card
    assert "substitute_interpolator(" in card


def test_pickled_weights_are_never_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(AFInterpolator(**CONFIG).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        AFInterpolator.from_pretrained(folder)


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (None, r"no config\.json"),
        ("{", r"config\.json: .*JSON"),
        ("[1]", r"config\.json: .*mapping"),
        (json.dumps({**CONFIG, "channels": 16}), r"head\.weight"),
        (json.dumps({**CONFIG, "blocks": 2}), r"group\.1\."),  # a part without weights would stay random
        (json.dumps({**CONFIG, "width": 2}), "'width'"),
    ],
)
def test_folder_whose_configuration_does_not_fit_is_refused(folder, content, fact):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=fact):
        AFInterpolator.from_pretrained(folder)


def test_weights_of_something_else_are_refused(folder):
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"head\.weight"):
        AFInterpolator.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"model\.safetensors: .*readable"):
        AFInterpolator.from_pretrained(folder)


@pytest.mark.parametrize("name", ["absent/afi", "./absent", "/absent/afi"])
def test_absent_folder_and_unknown_repository_are_one_error(name, tmp_path):
    with pytest.raises(UserError, match=f"'{name}': .* Hub"):
        AFInterpolator.from_pretrained(name, local_files_only=True, cache_dir=tmp_path)


def test_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(UserError, match=r"model\.safetensors: .*'load'"):
        AFInterpolator.from_pretrained(folder / "model.safetensors")


def test_downloaded_repository_is_read_from_the_cache(folder, tmp_path):
    # The layout of huggingface_hub's cache after a download of main.
    repository, commit = tmp_path / "cache" / "models--someone--afi", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / commit)
    loaded = AFInterpolator.from_pretrained("someone/afi", cache_dir=tmp_path / "cache", local_files_only=True)
    assert loaded.config == CONFIG


def test_push_uploads_the_folder(folder, monkeypatch):
    pushed = {}

    class Hub:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **_):
            pushed[repo_id] = {file.name: file.read_bytes() for file in folder_path.iterdir()}
            return "url"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Hub)
    assert AFInterpolator.from_pretrained(folder).push_to_hub("someone/afi") == "url"
    assert pushed["someone/afi"] == {file.name: file.read_bytes() for file in folder.iterdir()}
