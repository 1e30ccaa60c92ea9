"""``--compile``: the same results, a bounded number of compilations, and a training that goes on without it."""

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config

from afictl import build_detector, build_interpolator, load_preset
from afictl.discriminator import PatchDiscriminator
from afictl.run_records import read_config
from afictl.training import HardwareSettings, InitialWeights, compilation, finetune, launch, pretrain
from afictl.training.compilation import Part, compiled, detector_parts, stage1_parts, stage2_parts, trial_images
from tests.helpers.tiny_runs import SMALL, assert_same_states, without_kind


class CountingBackend:
    """Runs the graphs that it is given, and counts them and their calls."""

    def __init__(self):
        self.graphs = self.calls = 0

    def __call__(self, module, inputs):
        self.graphs += 1

        def run(*arguments):
            self.calls += 1
            return module(*arguments)

        return run


@pytest.fixture
def compiling():
    """A Fabric launched with ``--compile``."""
    return launch(HardwareSettings("1", compile=True))


@pytest.fixture
def backend(monkeypatch):
    """Replaces Inductor, which takes seconds for each graph; every part is faster with it."""
    backend = CountingBackend()
    monkeypatch.setattr(compilation, "_COMPILER", {"backend": backend})
    monkeypatch.setattr(compilation, "_speed_up", lambda part, device: 1.5)
    return backend


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), 3, "afi")


def make_parts(detector):
    images = trial_images(detector, 2, 130)
    return detector_parts(detector, lambda: detector.pyramid(images), trains=True)


def features_and_gradients(detector, shapes):
    """Means of the maps of two images of each size, and norms of the gradients of the neck."""
    torch.manual_seed(0)
    values = []
    for height, width in shapes:
        maps = detector.pyramid([torch.rand(3, height, width), torch.rand(3, height - 9, width)])
        means = torch.stack([value.square().mean() for value in maps.values()])
        gradients = torch.autograd.grad(means.sum(), [*detector.neck.parameters()])
        values += [means.detach(), torch.stack([value.norm() for value in gradients])]
    return values


def test_one_compilation_serves_images_of_all_sizes(compiling, backend, detector):
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    shapes = [(140, 130), (140, 330), (200, 130), (260, 200), (256, 256)]
    expected = features_and_gradients(detector, shapes)
    detector.load_state_dict(state)
    lines = []
    with compiled(compiling, [detector], lambda: make_parts(detector), lines.append):
        assert [*detector.state_dict()] == [*state]
        for name, value in detector.state_dict().items():  # statistics of batch norms too
            assert torch.equal(value, state[name]), name
        graphs, backend.calls = backend.graphs, 0
        torch.testing.assert_close(features_and_gradients(detector, shapes), expected)
        assert (graphs, backend.graphs, backend.calls) == (3, 3, 2 * len(shapes))  # one to try the compiler
        detector.eval()  # no graph of it: it is computed without compilation
        with torch.no_grad():
            detector.pyramid([torch.rand(3, 140, 130)] * 2)
    detector.train().pyramid([torch.rand(3, 140, 130)] * 2)
    assert (backend.graphs, backend.calls) == (3, 2 * len(shapes))
    assert [line.split(" compiled in")[0] for line in lines] == ["--compile: backbone", "--compile: neck"]


def tiny_part():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    return Part("norm", module, lambda: module(torch.ones(4, 3)).sum().backward())


def test_a_part_that_gains_nothing_stays_uncompiled(compiling, backend, monkeypatch):
    monkeypatch.setattr(compilation, "_speed_up", lambda part, device: 0.9)
    part, lines = tiny_part(), []
    with compiled(compiling, [part.module], lambda: [part], lines.append):
        calls = backend.calls
        part.run()
    assert backend.calls == calls
    assert lines == ["--compile: norm stays uncompiled, compiled it would be 0.90 times as fast"]


def test_all_ranks_decide_alike(compiling, backend, monkeypatch):
    def all_gather(action, world_size):  # the other rank gains nothing
        value = action()
        return [value, (0.9, "")] if isinstance(value, tuple) else [value]

    monkeypatch.setattr(compilation, "all_gather", all_gather)
    part, lines = tiny_part(), []
    with compiled(compiling, [part.module], lambda: [part], lines.append):
        pass
    assert "0.90 times as fast" in lines[0]


def test_a_machine_without_a_compiler_computes_without_compilation(compiling, monkeypatch):
    monkeypatch.setattr(inductor_config.cpp, "cxx", ("no-such-compiler",))
    part, lines = tiny_part(), []
    with compiled(compiling, [part.module], lambda: [part], lines.append):
        part.run()
    assert len(lines) == 1
    assert lines[0].startswith("--compile: nothing is compiled, as torch.compile does not work here (")
    assert "C++ compiler" in lines[0]


def test_the_gain_is_that_of_the_compiled_part(monkeypatch):
    stances = []
    monkeypatch.setattr(compilation, "seconds_of", lambda run, device: stances.append(1) or float(len(stances) % 2 + 1))
    assert compilation._speed_up(Part("part", nn.ReLU(), lambda: None), torch.device("cpu")) == 2


@pytest.mark.parametrize(("features", "parts"), [("levels", 4), ("sums", 3)])
def test_the_parts_of_stage_1(features, parts):
    guide = build_detector(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), 3, "nearest").eval().requires_grad_(False)
    recipe = guide.preset.stage1.model_copy(update={"features": features})
    made = stage1_parts(guide, build_interpolator("afi", 16, blocks=1), PatchDiscriminator(16), recipe, 2)
    names = ["guide's backbone", "guide's neck", "interpolator", "discriminator"]
    assert [part.name for part in made] == names[: parts - 2] + names[-2:]
    for part in made:
        part.run()
        assert all(value.grad is None for value in part.module.parameters())


def test_the_parts_of_stage_2(detector):
    guide = build_detector(detector.preset, 3, "nearest").eval().requires_grad_(False)
    made = stage2_parts(guide, detector, PatchDiscriminator(16), 2)
    names = ["guide's backbone", "guide's neck", "backbone", "neck", "discriminator"]
    assert [part.name for part in made] == names
    for part in made:
        part.run()


def finetuned(fabric, data, folder):
    preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    finetune(fabric, preset, data, folder, InitialWeights("nearest"))
    return folder


def test_a_failed_compilation_leaves_the_training_as_it_is(compiling, fabric, shapes_dir, tmp_path, monkeypatch):
    def fail(module, inputs):
        if len(module.graph.nodes) > 10:  # not on the graph that tries the compiler
            raise NotImplementedError("no such operator")
        return module

    monkeypatch.setattr(compilation, "_COMPILER", {"backend": fail})
    run = finetuned(compiling, shapes_dir, tmp_path / "compiled")
    log = (run / "log.txt").read_text()
    for part in ("backbone", "neck"):
        assert f"--compile: {part} stays uncompiled, as it cannot be compiled (" in log
    assert "no such operator" in log
    assert_same_states(run, finetuned(fabric, shapes_dir, tmp_path / "run"), ("detector", "detector_optimizer"))


@pytest.mark.slow
def test_a_compiled_stage_1_trains_the_same(compiling, backend, guide_run, shapes_dir, tmp_path, fabric, monkeypatch):
    monkeypatch.setattr(compilation, "detector_parts", lambda *_, **__: [])  # of the guide: that of the tests above
    for name, launched in (("compiled", compiling), ("plain", fabric)):
        pretrain(launched, guide_run, shapes_dir, tmp_path / name, stages=(1,), overrides=without_kind(SMALL))
    log = (tmp_path / "compiled" / "stage1" / "log.txt").read_text()
    assert log.count(" compiled in ") == 2
    states = [torch.load(tmp_path / name / "stage1" / "state.pt", weights_only=True) for name in ("compiled", "plain")]
    for module in ("generator", "discriminator"):
        torch.testing.assert_close(*(state[module] for state in states), rtol=1e-3, atol=1e-4)
    assert read_config(tmp_path / "compiled" / "stage1" / "config.yaml").hardware.compile
