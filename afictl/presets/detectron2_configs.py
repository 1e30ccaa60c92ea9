"""detectron2's YAML configurations, read safely; imported only beside detectron2.

Source: detectron2.config, https://detectron2.readthedocs.io/en/latest/modules/config.html. A configuration
never runs code, whereas detectron2 itself reads YAML that may call any Python function.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from afictl.errors import UserError, did_you_mean, one_line
from afictl.name_or_path import Names, parse_name
from afictl.yaml_files import dump_yaml, parse_yaml, read_yaml

INSTALL = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

try:
    import detectron2
    from detectron2.config import CfgNode, get_cfg
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise UserError(f"presets detectron2:... need detectron2, which is not installed; see {INSTALL}") from None

_BASE = "_BASE_"
"""Key of a configuration with the file that it is based on."""
_URLS = ("http://", "https://")
"""Bases that detectron2 downloads."""
_ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"


def add_afictl_config(cfg: CfgNode) -> None:
    """Add the node ``cfg.MODEL.AFICTL``, which the registered backbones read; without it they use these defaults.

    ``INTERPOLATOR``: a kind, see ``afictl.build_interpolator``. ``INTERPOLATOR_FILE``: an interpolator file of
    ``afictl pretrain``, instead; the file is needed whenever the model is built, its weights give way to those
    of ``MODEL.WEIGHTS`` where that holds an interpolator. ``INTERPOLATORS``, and ``TOP_DOWN_FROM`` of FPN and PAFPN: as
    documented in ``afictl.presets.FPNConfig``. ``BIFPN``: as documented in ``afictl.presets.BiFPNConfig``.
    Width, norm and fusion of all pyramids are ``cfg.MODEL.FPN.OUT_CHANNELS``, ``NORM`` and ``FUSE_TYPE``.
    """
    node = cfg.MODEL.AFICTL = CfgNode()
    node.INTERPOLATOR = "afi"
    node.INTERPOLATOR_FILE = ""
    node.INTERPOLATORS = "shared"
    node.TOP_DOWN_FROM = "p5"
    node.BIFPN = CfgNode({"REPEATS": 6, "FUSION": "fast", "SKIPS": "layer", "BLOCKS": "plain"})


def read_config(source: str) -> CfgNode:
    """The complete configuration of ``detector.source`` of a preset; ``MODEL.WEIGHTS`` is empty.

    Args:
        source: name of a YAML file in detectron2's model zoo, or ``{...}``, YAML of all that differs from detectron2's
            defaults. No other file is opened: the source may stem from an untrusted checkpoint.

    Raises:
        UserError: no such file, not readable, or a key or value that detectron2 does not have.
    """
    cfg = _defaults()
    if source.startswith("{"):
        _merge(cfg.merge_from_other_cfg, "detector.source", parse_yaml(source, "detector.source"))
    else:
        path = _zoo_file(source)
        if path is None:
            raise UserError(f"detector.source: detectron2's model zoo has no {source}{did_you_mean(source, _names())}")
        # Files of detectron2's own model zoo may call functions: RetinaNet's computes its anchors.
        with _without_unsafe_warning():
            _merge(functools.partial(cfg.merge_from_file, allow_unsafe=True), source, str(path))
    cfg.MODEL.WEIGHTS = ""
    return cfg


def embed(name: str) -> str:
    """The ``detector.source`` for ``name``, a file in the model zoo, perhaps after ``zoo:``, or a path.

    A file at a path is embedded completely, so that checkpoints do not need it again.

    Raises:
        UserError: as ``read_config``, a Python file, or a name in the model zoo that is also an existing path.
    """
    if name.endswith(".py"):
        raise UserError(
            f"detectron2:{name}: a LazyConfig is a Python program, which afictl does not run; give a YAML file"
        )
    zoo_name = name.removeprefix("zoo:")
    if Path(name).is_absolute() and _zoo_file(name) is not None:
        return name
    in_zoo = [zoo_name] if _zoo_file(zoo_name) and not name.startswith(".") else []
    if parse_name(name, Names(in_zoo, "zoo", "configuration in detectron2's model zoo"), "detectron2:"):
        return zoo_name
    if not Path(name).is_file():
        hint = did_you_mean(name, _names())
        raise UserError(f"detectron2:{name}: neither a file nor in detectron2's model zoo{hint}")
    _check_chain(Path(name))
    cfg = _defaults()
    _merge(functools.partial(cfg.merge_from_file, allow_unsafe=False), name, name)
    cfg.MODEL.WEIGHTS = ""
    return dump_yaml(_difference(cfg, _defaults()), flow=True)


def _check_chain(path: Path, extending: tuple[Path, ...] = ()) -> None:
    """Check a configuration and those that it is based on, each by ``read_yaml``, as detectron2 resolves them.

    It refuses what detectron2 would read as something else, such as the last of two equal keys. Files of detectron2's
    own model zoo are not checked.

    Args:
        path: the configuration.
        extending: those that are based on it.

    Raises:
        UserError: a file cannot be read, is not such YAML, or is based on itself.
    """
    if path in extending:
        raise UserError(f"{path}: {_BASE}: the configuration is based on itself; remove the key")
    values = read_yaml(path)
    bases = values.get(_BASE) if isinstance(values, Mapping) else None
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or base.startswith(_URLS):
            continue
        file = path.parent / Path(base).expanduser()
        if _zoo_file(str(file.absolute())) is None:
            _check_chain(file, (*extending, path))


@contextlib.contextmanager
def _without_unsafe_warning() -> Iterator[None]:
    """Disable the logger that warns of configurations with function calls."""
    logger = logging.getLogger("fvcore.common.config")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _defaults() -> CfgNode:
    cfg = get_cfg()
    add_afictl_config(cfg)
    return cfg


def _zoo_file(name: str) -> Path | None:
    """Path of a YAML file inside the model zoo; None for names outside it, by ``..`` or an absolute path."""
    path, root = (_ZOO / name).resolve(), _ZOO.resolve()
    return path if path.is_file() and path.suffix == ".yaml" and path.is_relative_to(root) else None


def _names() -> list[str]:
    """Names of the files in the model zoo."""
    return sorted(str(path.relative_to(_ZOO)) for path in _ZOO.glob("*/*.yaml"))


def _merge(merge: Callable[[object], None], source: str, values: object) -> None:
    """Call ``merge(values)``; each of its errors becomes a ``UserError`` that names ``source``."""
    try:
        merge(CfgNode(values) if isinstance(values, Mapping) else values)
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{source}: calls Python, which afictl does not run ({error.problem}); write values") from None
    except Exception as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(
            f"{source}: not a configuration of detectron2 {detectron2.__version__}: {reason:.200}"
        ) from None


def _difference(cfg: Mapping[str, object], base: Mapping[str, object]) -> dict[str, object]:
    """The values of ``cfg`` that differ from those of ``base``."""
    changes: dict[str, object] = {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            lower = base.get(key)
            changes[key] = _difference(value, lower if isinstance(lower, Mapping) else {})
        elif key not in base or base[key] != value:
            changes[key] = list(value) if isinstance(value, tuple) else value
    return {key: value for key, value in changes.items() if value != {}}
