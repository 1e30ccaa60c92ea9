"""Files of a pretrained interpolator in a folder or in a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import HfHubHTTPError

from afictl.errors import UserError, one_line
from afictl.json_files import read_json

WEIGHTS = constants.SAFETENSORS_SINGLE_FILE

CARD = """---
{{ card_data }}
---

# AF interpolator

A learned module that enlarges feature maps twofold, (N, C, H, W) -> (N, C, 2H, 2W), inside the feature pyramid of an
object detector. `config.json` holds its shape, `model.safetensors` its weights.

```python
from afictl import AFInterpolator, substitute_interpolator

interpolator = AFInterpolator.from_pretrained("OWNER/NAME")  # this repository, or a folder with its files
substitute_interpolator(detector, interpolator)  # a detector of torchvision, detectron2 or afictl
```

Method: {{ paper_url }}
"""
"""Template of the model card; the metadata above it comes from the class that is saved."""


def find_pretrained(name: str | Path, **download: Any) -> tuple[Path, Path]:
    """Find ``config.json`` and the safetensors weights in a folder, or download them from a Hub repository.

    No other file is ever read: a pickle could run code.

    Args:
        name: an existing folder, else ``owner/name`` on the Hub.
        download: arguments of ``huggingface_hub.hf_hub_download``; unused for a folder.

    Raises:
        UserError: a folder without one of the files, no such repository, or the Hub cannot be reached.
    """
    names = (constants.CONFIG_NAME, WEIGHTS)
    folder = Path(name)
    if folder.is_dir():
        for file in names:
            if not (folder / file).is_file():
                raise UserError(f"{folder}: has no {file}; give a folder written by save_pretrained")
        return folder / names[0], folder / names[1]
    if folder.is_file():
        raise UserError(f"{folder}: a file; from_pretrained reads a folder or Hub repository, 'load' reads a file")
    try:
        config, weights = (Path(hf_hub_download(str(name), file, **download)) for file in names)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = one_line(error)
        raise UserError(
            f"'{name}': no such folder here, and not readable on the Hugging Face Hub ({reason:.200})"
        ) from error
    return config, weights


def read_json_config(path: Path) -> dict[str, object]:
    """Read the mapping in a JSON file.

    Raises:
        UserError: not JSON, or not a mapping.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a mapping of names to values; make it again")
    return config
