"""Presets ``detectron2:NAME``: values from a configuration, and invalid configurations."""

import pytest
import yaml

from afictl import UserError, load_preset
from afictl.presets import parse_preset

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


@pytest.fixture
def write(tmp_path):
    """Write a configuration on top of detectron2's Base-RCNN-FPN.yaml; gives the name of its preset."""

    def file(text="", name="custom.yaml", base="Base-RCNN-FPN.yaml"):
        from detectron2 import model_zoo

        zoo = model_zoo.get_config_file(MASK).removesuffix(MASK)
        (tmp_path / name).write_text(f"_BASE_: {zoo}{base}\n{text}")
        return f"detectron2:{tmp_path / name}"

    return file


def read(source):
    from afictl.presets.detectron2_configs import read_config

    return read_config(source)


def test_zoo_configuration_becomes_a_preset():
    preset = load_preset(f"detectron2:{MASK}", ["train.batch_size=4"])
    assert preset.name == f"detectron2:{MASK}"
    assert (preset.detector.kind, preset.detector.source, preset.detector.segments) == ("detectron2", MASK, True)
    assert preset.interpolator.kind == "nearest"
    assert preset.backbone.name == "resnet50.tv_in1k"
    assert preset.backbone.stride_in_1x1
    assert (preset.train.steps, preset.train.milestones) == (270_000, (210_000, 250_000))
    assert (preset.train.lr, preset.train.batch_size) == (0.02, 4)
    assert preset.input.min_sizes == (640, 672, 704, 736, 768, 800)
    assert (preset.input.max_size, preset.input.test_size) == (1333, 800)
    assert preset.input.mean == pytest.approx((123.675 / 255, 116.28 / 255, 103.53 / 255))  # RGB
    assert preset.input.std == pytest.approx((1 / 255,) * 3)
    assert preset.detector.proposals_train == 1000
    retinanet = load_preset(f"detectron2:{RETINANET}")
    assert retinanet.detector.anchor_sizes == (32, 64, 128, 256, 512)
    assert not retinanet.detector.segments
    assert (retinanet.neck.top, retinanet.train.lr) == ("res5", 0.01)


def test_a_configuration_file_is_stored_whole(write, tmp_path):
    name = write("MODEL: {WEIGHTS: x.pkl, FPN: {OUT_CHANNELS: 16}, MASK_ON: true}\nINPUT: {FORMAT: RGB}\n")
    preset = load_preset(name)
    (tmp_path / "custom.yaml").unlink()
    assert preset.neck.channels == 16
    assert preset.detector.segments
    assert preset.input.mean[0] == pytest.approx(103.53 / 255)
    stored = yaml.safe_load(preset.detector.source)
    assert stored["MODEL"]["FPN"]["OUT_CHANNELS"] == 16
    assert "WEIGHTS" not in stored["MODEL"]
    cfg = read(preset.detector.source)
    assert cfg.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]  # from the base
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.WEIGHTS == ""
    assert parse_preset(preset.model_dump(mode="json")) == preset


def test_schedule_and_augmentation_of_other_recipes(write):
    text = "SOLVER: {LR_SCHEDULER_NAME: WarmupCosineLR, MAX_ITER: 70}\nTEST: {EVAL_PERIOD: 7}\n"
    text += "INPUT: {MIN_SIZE_TRAIN_SAMPLING: range, MIN_SIZE_TRAIN: [60, 64], RANDOM_FLIP: none}\n"
    preset = load_preset(write(text))
    assert (preset.train.schedule, preset.train.steps, preset.train.eval_every) == ("cosine", 70, 7)
    assert preset.input.min_sizes == (60, 61, 62, 63, 64)
    assert preset.input.flip == 0


def test_backbone_of_afictl_brings_its_interpolator(write):
    preset = load_preset(write("MODEL: {BACKBONE: {NAME: build_afictl_resnet_pafpn_backbone}}\n"))
    assert (preset.neck.kind, preset.interpolator.kind) == ("pafpn", "afi")


def test_code_in_a_configuration_is_never_run(write, tmp_path):
    mark = tmp_path / "mark"
    text = (
        f"MODEL:\n  DEVICE: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    )
    with pytest.raises(UserError, match=r"custom\.yaml: line 3: MODEL\.DEVICE: .*python/object"):
        load_preset(write(text))
    with pytest.raises(UserError, match=r"detector\.source: .*YAML"):
        read("{MODEL: !!python/object/apply:os.getcwd []}")
    with pytest.raises(UserError, match=r"custom\.yaml: .*Python"):
        load_preset(write(base="Base-RetinaNet.yaml"))
    (tmp_path / "lazy.py").write_text(f"open({str(mark)!r}, 'w')")
    with pytest.raises(UserError, match=r"lazy\.py.*YAML"):
        load_preset(f"detectron2:{tmp_path / 'lazy.py'}")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("MODEL: {FPN: {OUT_CHANNELS: 16}}\nMODEL: {}\n", "line 2: MODEL: is given twice"),
        ("MODEL: " + 60 * "{A: " + 60 * "}" + "\n", "nested too deep"),
        ("_BASE_: custom.yaml\n", "based on itself"),
    ],
)
def test_every_file_of_a_chain_is_checked_and_named(tmp_path, text, reason):
    (tmp_path / "deep.yaml").write_text(text)
    (tmp_path / "middle.yaml").write_text("_BASE_: deep.yaml\n")
    (tmp_path / "custom.yaml").write_text("_BASE_: middle.yaml\n")
    with pytest.raises(UserError, match=reason) as error:
        load_preset(f"detectron2:{tmp_path / 'custom.yaml'}")
    assert str(error.value).startswith(str(tmp_path / ("custom" if "itself" in reason else "deep")))


def test_a_checkpoint_names_no_file_outside_the_zoo(write):
    path = write().removeprefix("detectron2:")
    for source in (path, f"../../../../../../../../..{path}"):
        with pytest.raises(UserError, match=r"detector\.source: .*model zoo"):
            read(source)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("MODEL: {META_ARCHITECTURE: PanopticFPN}", r"MODEL\.META_ARCHITECTURE: .*PanopticFPN"),
        ("MODEL: {KEYPOINT_ON: true}", r"MODEL\.KEYPOINT_ON: .*True"),
        ("MODEL: {AFICTL: {INTERPOLATOR_FILE: a}}", r"MODEL\.AFICTL\.INTERPOLATOR_FILE"),
        ("MODEL: {FNP: {}}", r"custom\.yaml: .*FNP"),
        ("MODEL: [1]", r"custom\.yaml: .*configuration"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[32], [a]]}}", r"MODEL\.ANCHOR_GENERATOR\.SIZES: "),
        ("INPUT: {MIN_SIZE_TEST: 0}", r"input\.test_size"),
        ("INPUT: {FORMAT: L}", r"INPUT\.FORMAT: .* L"),
        ("}", r"custom\.yaml: line 2: .*YAML"),
        ("MODEL: {MASK_ON: true}\nMODEL: {}", r"custom\.yaml: line 3: MODEL: .*twice"),
    ],
)
def test_an_unsupported_configuration_names_the_key_or_file(write, text, facts):
    with pytest.raises(UserError, match=facts):
        load_preset(write(text))


def test_a_name_in_the_zoo_that_is_also_a_file_is_refused(write, tmp_path, monkeypatch):
    (tmp_path / MASK).parent.mkdir()
    write("MODEL: {FPN: {OUT_CHANNELS: 16}}", name=MASK)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"detectron2:{MASK}: .*detectron2:zoo:{MASK} .*detectron2:\./{MASK} "):
        load_preset(f"detectron2:{MASK}")
    assert load_preset(f"detectron2:./{MASK}").neck.channels == 16
    preset = load_preset(f"detectron2:zoo:{MASK}")
    assert (preset.neck.channels, preset.detector.source) == (256, MASK)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match=r"mask_rcnn_R50_FPN_3x\.yaml.*'COCO-InstanceSegmentation/mask_rcnn_R_50"):
        load_preset("detectron2:COCO-InstanceSegmentation/mask_rcnn_R50_FPN_3x.yaml")
