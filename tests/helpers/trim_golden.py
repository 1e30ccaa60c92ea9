"""Make the files of ``golden/`` from full reference files.

python -m tests.helpers.trim_golden results SOURCE.safetensors NAME --only PREFIX --only PREFIX
python -m tests.helpers.trim_golden keys SOURCE.txt NAME
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.helpers.golden_files import FOLDER

_MAX_COMPLETE_ELEMENTS = 4096
# Prime and no divisor of a map's height, width or channels: the elements come from all positions.
_EVERY = 11


def trim_results(source: Path, name: str, only: tuple[str, ...]) -> None:
    tensors, facts = {}, {}
    for key, tensor in load_file(source).items():
        if key.startswith(only):
            every = _EVERY if tensor.numel() > _MAX_COMPLETE_ELEMENTS else 1
            tensors[key] = tensor.flatten()[::every].clone()
            std = tensor.double().std(correction=0).item()
            facts[key] = json.dumps({"every": every, "shape": list(tensor.shape), "std": std})
    save_file(tensors, FOLDER / f"{name}.safetensors", metadata=facts)


def trim_keys(source: Path, name: str) -> None:
    rows = [line.split("\t") for line in source.read_text().splitlines() if not line.startswith("#")]
    lines = []
    for _, key, shape, dtype in rows:
        sizes = shape.strip("()").replace(" ", "").rstrip(",") or "-"
        lines.append(f"{key} {sizes}" + ("" if dtype.startswith("float") else " integer"))
    (FOLDER / "keys" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("results", "keys"))
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument("--only", action="append", help="prefix of the tensors to include; repeatable")
    options = parser.parse_args()
    if options.what == "keys":
        trim_keys(options.source, options.name)
    else:
        trim_results(options.source, options.name, tuple(options.only or [""]))


if __name__ == "__main__":
    main()
