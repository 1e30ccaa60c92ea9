"""Figures as files: one PNG per figure, or one self-contained HTML page."""

from __future__ import annotations

import contextlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import chain
from pathlib import Path

from PIL import Image

from afictl.files import atomic_write, name_file_in_errors, open_to_append, remove_temporary_files, write_text
from afictl.progress import ProgressCallback
from afictl.regular_files import read_bounded
from afictl.visualization.figure import Figure

_JPEG_QUALITY = 90
_MAX_LIST_BYTES = 2**26


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

    Figures are drawn and written one by one. Files of an earlier call with the same ``kind`` and ``form`` are removed
    after the new files are written. Without any figure nothing changes. After a failure all files are complete, and the
    next call replaces them; a new folder without files is removed.

    Args:
        figures: figures to write, at most one per image.
        output: folder, created where missing.
        kind: ``detections``, ``features``, ``gradcam`` or ``training``.
        form: ``png`` or ``html``.
        title: heading of the page.
        total: number of images, for ``progress``.
        progress: called with the number of images done and of all images.
    """
    counted = _report_progress(figures, total, progress)
    first = next(counted, None)  # an error in the first figure must not leave a folder behind
    if first is None:
        return []
    with _created_folder(output):
        counted = chain((first,), counted)
        if form == "html":
            path = output / f"{kind}.html"
            write_page(counted, path, title or kind.capitalize())
            files = [path]
        else:
            file_list = output / _file_list_name(kind, ".png")
            files = [_save(figure.draw(), output / f"{figure.name}.png", file_list) for figure in counted]
        remove_earlier_files(output, kind, files)
    return files


@contextlib.contextmanager
def _created_folder(output: Path) -> Iterator[None]:
    """Create ``output``, and remove it if the block fails before a file is written."""
    new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                output.rmdir()
        raise


def remove_earlier_files(output: Path, kind: str, files: Iterable[Path]) -> None:
    """Remove files of an earlier call with this ``kind`` and form that are not in ``files``, and temporary files."""
    remove_temporary_files(output)
    names = [file.name for file in files]
    suffix = Path(names[0]).suffix
    file_list = output / _file_list_name(kind, suffix)
    if file_list.is_file():
        for name in read_bounded(file_list, _MAX_LIST_BYTES).decode(errors="replace").splitlines():
            if name not in names and Path(name).name == name and Path(name).suffix == suffix:
                (output / name).unlink(missing_ok=True)
    write_text(file_list, "\n".join(names) + "\n")


def _file_list_name(kind: str, suffix: str) -> str:
    return f".afictl-{kind}-{suffix.removeprefix('.')}"


def _save(picture: Image.Image, path: Path, file_list: Path) -> Path:
    """Write a picture atomically and append its name to ``file_list``, from which the next call removes it."""
    with atomic_write(path) as draft:
        picture.save(draft, format="PNG", compress_level=3)  # a third of the default's time, 10 to 25 % more bytes
        with name_file_in_errors(file_list), open_to_append(file_list) as names:
            names.write(f"{path.name}\n")
    return path


def _report_progress(
    figures: Iterable[Figure], total: int | None, progress: ProgressCallback | None
) -> Iterator[Figure]:
    for count, figure in enumerate(figures, start=1):
        yield figure
        if progress is not None and total is not None:
            progress(count, total)


def write_page(
    figures: Iterable[Figure],
    path: Path,
    title: str,
    *,
    template: str = "page.html",
    content: Mapping[str, object] | None = None,
    named_by_user: bool = False,
) -> None:
    """Write the figures as one self-contained HTML page, atomically.

    One figure is in memory at a time. All text is escaped.

    Args:
        figures: figures in order.
        path: file to write.
        title: heading of the page.
        template: ``page.html``, or a template that extends it.
        content: further values of that template.
        named_by_user: as in ``atomic_write``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("afictl.visualization")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    chunks = environment.get_template(template).generate(
        content or {}, title=title, figures=map(_template_values, figures)
    )
    with atomic_write(path, named_by_user=named_by_user) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(chunks)


def data_url(data: bytes, media_type: str) -> str:
    """Encode ``data`` as a base64 ``data:`` URL."""
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"


def _template_values(figure: Figure) -> dict[str, object]:
    return {
        "title": figure.title or figure.name,
        "text": figure.text,
        "strip": figure.strip and {"source": _image_url(figure.strip), "width": figure.strip.width},
        "columns": min(figure.columns, len(figure.panels)),
        "legend": [(name, "rgb({}, {}, {})".format(*color)) for name, color in figure.legend],
        "panels": [
            {
                "source": _image_url(panel.picture),
                "width": panel.picture.width,
                "height": panel.picture.height,
                "title": panel.title,
                "note": panel.note,
            }
            for panel in figure.panels
        ],
    }


def _image_url(picture: Image.Image) -> str:
    """``data:`` URL of the smaller of PNG (maps and drawings) and JPEG (photographs)."""
    png, jpeg = BytesIO(), BytesIO()
    picture.save(png, format="PNG")
    picture.save(jpeg, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    if len(png.getvalue()) <= len(jpeg.getvalue()):
        return data_url(png.getvalue(), "image/png")
    return data_url(jpeg.getvalue(), "image/jpeg")
