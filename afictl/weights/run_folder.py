"""What a run folder says about its run."""

from pathlib import Path

import yaml

from afictl.errors import UserError

_CONFIG = "config.yaml"


def recorded_data(path: str | Path) -> Path:
    """The data set that a run was trained on.

    Args:
        path: run folder, or a file in it.

    Raises:
        UserError: the run's ``config.yaml`` is not there or names no data.
    """
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / _CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: nothing there says which data set it belongs to; give --data") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{file}: cannot be read, so the data set is not known; give --data") from None
    if not isinstance(config, dict) or not config.get("data"):
        raise UserError(f"{file}: names no data set; give --data")
    return Path(config["data"])
