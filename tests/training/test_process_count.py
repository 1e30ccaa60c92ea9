import pytest
import torch
import yaml
from lightning_fabric import Fabric

from afictl import UserError, list_presets, load_preset
from afictl.run_records import read_config
from afictl.training import HardwareSettings, launch
from afictl.training.hardware import hardware_record
from afictl.training.process_count import process_dependence
from afictl.training.run_writer import RunWriter


def test_only_losses_and_dropouts_of_one_process_depend_on_their_number():
    assert not [name for name in list_presets() if process_dependence(load_preset(name))]
    assert not process_dependence(load_preset("torchvision:retinanet_resnet50_fpn"))
    assert "torchvision" in process_dependence(load_preset("torchvision:fcos_resnet50_fpn"))
    options = ["backbone.options={drop_path_rate: 0.1, proj_drop_rate: 0.1, attn_drop_rate: 0.1}"]
    assert "attn_drop_rate" in process_dependence(load_preset("cascade-rcnn-swin-t-bifpn-tiny", options))


@pytest.fixture
def config():
    return {"seed": 0, "hardware": {"precision": "32-true", "processes": 1}}


@pytest.fixture
def folder(fabric, tmp_path, config):
    """A run of two processes with one record."""
    folder = tmp_path / "run"
    RunWriter(fabric, folder, config, resume=False).log_metrics(1, {"loss": 1.0})
    begun = {**config, "hardware": {**config["hardware"], "processes": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(begun))
    return folder


def test_a_run_of_another_number_of_processes_is_continued_with_a_note(fabric: Fabric, folder, config):
    RunWriter(fabric, folder, config, resume=True)
    assert "2 processes, now 1 process" in (folder / "log.txt").read_text()
    RunWriter(fabric, folder, config, resume=True)
    hardware = read_config(folder / "config.yaml").hardware
    assert (hardware.processes, hardware.later_processes) == (2, [1])


def test_a_run_of_another_number_of_threads_is_continued_with_a_note(fabric: Fabric, tmp_path):
    begun = {"seed": 0, "hardware": hardware_record(fabric) | {"threads": 64}}
    RunWriter(fabric, tmp_path, begun, resume=False).log_metrics(1, {"loss": 1.0})
    present = {"seed": 0, "hardware": hardware_record(fabric)}
    for _ in range(2):
        RunWriter(fabric, tmp_path, present, resume=True)
    assert f"64 threads, now {torch.get_num_threads()} thread" in (tmp_path / "log.txt").read_text()
    hardware = read_config(tmp_path / "config.yaml").hardware
    assert (hardware.threads, hardware.later_threads) == (64, [torch.get_num_threads()])


@pytest.mark.parametrize(("begun", "present"), [(True, False), (False, True), (True, True)])
def test_a_run_is_continued_with_or_without_compilation(tmp_path, begun, present):
    for resume, compiles in ((False, begun), (True, present)):
        fabric = launch(HardwareSettings("1", compile=compiles))
        RunWriter(fabric, tmp_path, {"hardware": hardware_record(fabric)}, resume).log_metrics(1, {"loss": 1.0})
    words = {True: "with --compile", False: "without --compile"}
    note = f"note: trained {words[begun]}, now {words[present]}; "
    assert ((tmp_path / "log.txt").is_file() and note in (tmp_path / "log.txt").read_text()) == (begun != present)
    hardware = read_config(tmp_path / "config.yaml").hardware
    assert (hardware.compile, hardware.later_compile) == (begun, [present] * (begun != present))


def test_it_is_refused_where_the_results_depend_on_the_number(fabric: Fabric, folder, config):
    with pytest.raises(UserError, match=f"{folder}/config.yaml: .*2 processes, now 1 process.*as the reason"):
        RunWriter(fabric, folder, config, resume=True, dependence="the reason")


def test_an_equal_number_needs_no_note(fabric: Fabric, tmp_path, config):
    RunWriter(fabric, tmp_path / "run", config, resume=False).log_metrics(1, {"loss": 1.0})
    RunWriter(fabric, tmp_path / "run", config, resume=True, dependence="the reason").log("continued")
    assert "process" not in (tmp_path / "run" / "log.txt").read_text()
