"""``afictl doctor``: what is reported, and the exit code."""

import sys

import pytest

from afictl import extras, installation


def test_a_sound_installation_is_well(afictl, monkeypatch):
    monkeypatch.setattr(installation, "_LEAST_SHARED_BYTES", 0)
    monkeypatch.setattr(installation, "_LEAST_FREE_BYTES", 0)
    code, output, _ = afictl("doctor")
    assert code == 0, output
    for subject in (
        "python",
        "afictl",
        "torchvision",
        "timm",
        "numpy",
        "devices",
        "optional: export",
        "processor cores",
    ):
        assert subject in output
    assert "fit together" in output


def test_without_torch_the_rest_is_reported(afictl, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # its import raises ImportError
    code, output, _ = afictl("doctor")
    assert code == 1
    assert "cannot be imported" in output
    assert "pip install" in output
    assert "free in this folder" in output


def test_another_torchvision_than_that_of_torch(afictl, monkeypatch):
    version = installation._version
    monkeypatch.setattr(installation, "_version", lambda name: "0.1.0" if name == "torchvision" else version(name))
    code, output, _ = afictl("doctor")
    assert code == 1
    assert "versions do not fit" in output
    assert "to be mended: torchvision, torch with torchvision" in output


def test_little_shared_memory_and_disk(monkeypatch):
    monkeypatch.setattr(installation, "_LEAST_SHARED_BYTES", 1e20)
    monkeypatch.setattr(installation, "_LEAST_FREE_BYTES", 1e20)
    faults = [finding.fault for finding in installation._free_space()]
    assert "--shm-size" in faults[0]
    assert all(faults)


@pytest.mark.parametrize(("torch_version", "expected"), [("2.14.1+cu128", "0.29."), ("2.10.0", "0.25."), ("3.0", "")])
def test_the_torchvision_of_a_torch(torch_version, expected):
    assert installation._torchvision_of(torch_version) == expected


def test_missing_optional_parts_are_no_fault_and_name_their_extra(monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda name: None)
    findings = list(installation._optional_parts())
    assert [finding.subject for finding in findings] == [f"optional: {extra}" for extra in extras.EXTRAS]
    for finding, extra in zip(findings, extras.EXTRAS, strict=True):
        assert not finding.fault
        assert f"'afictl[{extra}]'" in finding.note
