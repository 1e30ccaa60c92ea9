"""Reading of image files of any colour mode as RGB."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from afictl.data.image_faults import content_fault, file_fault
from afictl.errors import UserError, one_line

# Large images are read; Pillow's own limit, twice as high, is an error that names the file. A filter for each image
# would not be safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

ORIENTATION = 0x0112
"""EXIF tag."""
_MIRRORINGS = (2, 3, 4)
"""Orientations that keep the size of an image."""
_ROTATIONS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientations that exchange height and width, with the way back from the displayed to the stored pixels."""


def read_image(path: str | Path, size_hw: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file to uint8 (3,H,W) RGB, whose memory holds pixel after pixel ("channels last").

    Decoders write it so, and PyTorch resizes it more than twice as fast as planes.

    Grey, palette, 16-bit and CMYK images become RGB (CMYK JPEGs in Adobe's inverted polarity, as all writers
    store them); values of 16 bits are divided by 257, whatever their maximum; transparency is dropped, as detectron2
    and torchvision do. Pillow decodes: with torchvision the stored size cannot be known before the orientation is
    applied.

    An EXIF orientation is followed, as detectron2 and mmdetection (through OpenCV) do, unless ``size_hw`` shows that
    the annotations were made on the pixels as stored. Where both sizes are equal (orientations 2, 3 and 4, and square
    images) that cannot be known, and the orientation is followed.

    Args:
        path: the image file.
        size_hw: the annotated height and width; None always follows the EXIF orientation.

    Raises:
        UserError: missing, no regular file, not an image, truncated, of another size, or with float or 32-bit pixels,
            whose range is unknown; names the file.
    """
    with opened_image(path) as image:
        return _decode(image, size_hw)


def image_pixels(image: Image.Image, name: str) -> Tensor:
    """Pixels of a Pillow image as ``read_image`` gives them; a file that Pillow has not read yet is read.

    Args:
        image: of any mode; its EXIF orientation is followed.
        name: name in errors where the image has no file.

    Raises:
        UserError: the file is damaged, or pixels are floats or 32-bit, whose range is unknown.
    """
    file = getattr(image, "filename", "")
    source = f"image {os.fsdecode(file)}" if file else name
    try:
        return _decode(image, None)
    except UserError as error:
        raise UserError(f"{source} {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # as in ``opened_image``
        raise UserError(f"{source} cannot be read: {_reason(error)}") from None


def _decode(image: Image.Image, size_hw: tuple[int, int] | None) -> Tensor:
    _require_known_range(image)
    return torch.from_numpy(_pixels(_orient(image, size_hw))).permute(2, 0, 1)


@contextmanager
def opened_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file; its errors inside, and every ``UserError``, name the file.

    Raises:
        UserError: missing, no regular file, or not a readable image.
    """
    path = Path(path)
    if fault := file_fault(path):
        raise UserError(f"image {path} {fault}")
    try:
        with Image.open(path) as image:
            yield image
    except UserError as error:
        raise UserError(f"image {path} {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of any type at a damaged file
        # the file may have changed or vanished since its status was read
        fault = file_fault(path) or content_fault(path) or f"cannot be read: {_reason(error)}"
        raise UserError(f"image {path} {fault}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"{one_line(error).split(',')[0]}; cut it into tiles"
    if isinstance(error, UnidentifiedImageError):
        return "it is no image, or of an unknown format"
    return one_line(getattr(error, "strerror", None) or error) or type(error).__name__


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of the pixels in a file, which need not be loaded.

    Pillow turns the pixels of a TIFF file itself as it loads them, and may give their later size from the start.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGELENGTH]), int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH])
    return image.height, image.width


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Height and width after the EXIF orientation, which Pillow reads without decoding the pixels."""
    height, width = stored_size(image)
    return (width, height) if orientation_of(image) in _ROTATIONS else (height, width)


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an image that is not yet loaded, 1 to 8; 1, upright, for any other value."""
    orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in (*_MIRRORINGS, *_ROTATIONS) else 1


def has_unclear_orientation(image: Image.Image) -> bool:
    """Whether the size does not tell if annotations were made before or after the EXIF orientation was applied."""
    height, width = stored_size(image)
    return orientation_of(image) in (_MIRRORINGS if height != width else (*_MIRRORINGS, *_ROTATIONS))


def _orient(image: Image.Image, size_hw: tuple[int, int] | None) -> Image.Image:
    """The loaded image, turned if its orientation is to be followed."""
    stored_hw, displayed_hw, orientation = stored_size(image), displayed_size(image), orientation_of(image)
    annotated_hw = displayed_hw if size_hw is None else tuple(size_hw)
    if annotated_hw not in (stored_hw, displayed_hw):
        raise UserError(
            f"is {stored_hw[1]}x{stored_hw[0]} pixels, but its annotation has {annotated_hw[1]}x{annotated_hw[0]}: "
            "correct 'width' and 'height' (and the boxes), or the file"
        )
    image.load()
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # turned already
        return image if annotated_hw == displayed_hw else image.transpose(_ROTATIONS[orientation])
    if orientation == 1 or annotated_hw != displayed_hw:
        return image  # ``exif_transpose`` copies even an upright one
    return ImageOps.exif_transpose(image)


def _require_known_range(image: Image.Image) -> None:
    """Refuse pixels whose maximum nothing tells: 0..255 as int32 would become black if they were taken for 16 bits.

    Pillow may hold 16 bits of PNG and Netpbm files, scaled to 0..65535, in its mode of 32 bits.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise UserError("has float, signed or 32-bit pixels, whose range is unknown; convert it to 8 or 16 bits")


def _pixels(image: Image.Image) -> np.ndarray:
    """Uint8 (H,W,3) RGB."""
    if image.mode.startswith("I"):
        return np.repeat(_scale_grey(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):  # straight to RGB, Pillow warns about a transparent palette
        image = image.convert("RGBA")
    if image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image)


def _scale_grey(values: np.ndarray) -> np.ndarray:
    """Grey of 16 bits to 8, (H,W); Pillow's own conversion cuts off at 255."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
