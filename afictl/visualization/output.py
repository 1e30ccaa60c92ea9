"""Figures as files: one picture each, or one page with all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from PIL import Image

from afictl.files import atomic_write, name_file_in_errors, remove_temporary_files, write_text
from afictl.progress import ProgressCallback
from afictl.visualization.figure import Figure
from afictl.visualization.page import write_page


def write_figures(
    figures: Iterable[Figure],
    output: Path,
    kind: str,
    *,
    form: str = "png",
    title: str = "",
    total: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Path]:
    """Write each figure as ``output/NAME.png``, or all as ``output/KIND.html``, and return the files.

    Figures are made and written one by one. What an earlier call of the same ``kind`` and ``form`` left in the folder
    is removed once the new files are there, so that it shows the answer to one question. Without any figure nothing
    changes.
    A failure on the way leaves whole files, which the next call replaces, or no folder if there were none.

    Args:
        figures: perhaps an iterator, which may skip images.
        output: folder; made if need be.
        kind: what is drawn: ``detections``, ``features``, ``gradcam`` or ``training``.
        form: ``png`` or ``html``.
        title: heading of the page.
        total: how many images there are, for ``progress``.
        progress: called with the number of images done and of all images.
    """
    counted = _counted(figures, total, progress)
    first = next(counted, None)  # a mistake that it meets shall leave no folder behind
    if first is None:
        return []
    with _folder(output):
        counted = chain((first,), counted)
        if form == "html":
            path = output / f"{kind}.html"
            write_page(counted, path, title or kind.capitalize())
            files = [path]
        else:
            files = [
                _save(figure.draw(), output / f"{figure.name}.png", output / _record(kind, ".png"))
                for figure in counted
            ]
        replace_earlier(output, kind, files)
    return files


@contextlib.contextmanager
def _folder(output: Path) -> Iterator[None]:
    """Make ``output``, and remove it again if the work in it fails before anything is there."""
    new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise


def replace_earlier(output: Path, kind: str, files: Iterable[Path]) -> None:
    """Remove what an earlier call of this ``kind`` and form wrote to ``output`` and this one did not, and drafts."""
    remove_temporary_files(output)
    new = [file.name for file in files]
    form = Path(new[0]).suffix
    record = output / _record(kind, form)
    if record.is_file():
        for name in record.read_text(encoding="utf-8").splitlines():
            if name not in new and Path(name).name == name and Path(name).suffix == form:
                (output / name).unlink(missing_ok=True)
    write_text(record, "\n".join(new) + "\n")


def _record(kind: str, form: str) -> str:
    return f".afictl-{kind}-{form.removeprefix('.')}"


def _save(picture: Image.Image, path: Path, record: Path) -> Path:
    """Write a whole file or none, and note its name in ``record``, from which the next call knows what to replace."""
    with atomic_write(path) as draft:
        picture.save(draft, format="PNG")
        with name_file_in_errors(record), record.open("a", encoding="utf-8") as names:
            names.write(f"{path.name}\n")
    return path


def _counted(figures: Iterable[Figure], total: int | None, progress: ProgressCallback | None) -> Iterator[Figure]:
    for done, figure in enumerate(figures, start=1):
        yield figure
        if progress is not None and total is not None:
            progress(done, total)
