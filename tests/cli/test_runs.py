"""Folder, name and dataset of a run."""

import pytest

from afictl import build_interpolator
from afictl.cli.runs import data_of, data_of_detector, folder_of, name_of, slugify
from afictl.errors import UserError


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "my guide v1.2"
    folder.mkdir()
    for name in ("config.yaml", "best.safetensors", "interpolator.safetensors"):
        (folder / name).write_text("data: somewhere\n")
    return folder


def test_a_run_and_its_files_have_the_name_of_the_run(run, monkeypatch):
    for source in (run, run / "best.safetensors", run / "interpolator.safetensors"):
        assert name_of(source) == "my-guide-v1.2"
    monkeypatch.chdir(run)
    assert name_of(".") == name_of("best.safetensors") == "my-guide-v1.2"


def test_an_interpolator_of_pretraining_has_the_name_of_its_folder(run):
    (run / "config.yaml").unlink()
    assert name_of(run / "interpolator.safetensors") == "my-guide-v1.2"


def test_another_file_loses_only_the_suffix_of_its_format(tmp_path):
    (tmp_path / "r50.v2.pth").write_text("")
    (tmp_path / "r50.v2").mkdir()
    assert name_of(tmp_path / "r50.v2.pth") == name_of(tmp_path / "r50.v2") == "r50.v2"


def test_a_kind_is_its_name():
    assert name_of("bilinear") == "bilinear"
    assert slugify("../a b/c:d") == "a-b-c-d"
    assert slugify("..") == "unnamed"


def test_data_and_folder_of_a_file_in_a_run(run):
    assert folder_of(run / "best.safetensors") == folder_of(run) == run
    assert str(data_of(run / "best.safetensors")) == "somewhere"
    with pytest.raises(UserError, match="nowhere: "):
        data_of(run / "nowhere")


def test_a_file_that_is_no_detector_is_told_before_its_dataset(run, tmp_path):
    assert str(data_of_detector(run)) == "somewhere"
    build_interpolator("carafe", 8).save(tmp_path / "interpolator.safetensors")
    with pytest.raises(UserError, match=r"interpolator, .* not a detector"):
        data_of_detector(tmp_path / "interpolator.safetensors")
    with pytest.raises(UserError, match="run of pretrain"):
        data_of_detector(tmp_path)
