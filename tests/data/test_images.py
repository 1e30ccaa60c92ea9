import os
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from afictl.data.images import read_image
from afictl.errors import UserError
from tests.helpers.ranks import FORKS

COLOUR = (204, 102, 51)  # in the palette that GIFs get


@pytest.fixture
def picture():
    """Left half coloured, right half black; 20x30."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:, :15] = COLOUR
    return Image.fromarray(pixels)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.jpg"),
        ("RGB", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
        ("RGB", "a.bmp"),
        ("RGB", "a.webp"),
    ],
)
def test_every_colour_mode_is_converted_to_rgb(picture, tmp_path, mode, name):
    picture.convert(mode).save(tmp_path / name, quality=95)
    image = read_image(tmp_path / name, (20, 30))
    assert image.shape == (3, 20, 30)
    assert image.dtype.is_floating_point is False
    np.testing.assert_allclose(image[:, 10, 4], COLOUR, atol=6)
    np.testing.assert_allclose(image[:, 10, 25], 0, atol=6)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_is_repeated_over_channels(tmp_path, mode):
    Image.new("L", (8, 6), 255).convert(mode).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").unique().tolist() == [255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_is_scaled_to_8_bits(tmp_path, name):
    Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16)).save(tmp_path / name)
    assert read_image(tmp_path / name)[1].tolist() == [[0, 1, 128, 255]]


def test_32_bit_and_float_pixels_are_refused_and_16_bits_of_netpbm_are_not(tmp_path):
    """Pillow gives the same mode to 32 bits of TIFF and to 16 bits of Netpbm, whose maximum is in the file."""
    values = np.array([[0, 100], [200, 255]])
    for dtype in (np.int32, np.float32):
        Image.fromarray(values.astype(dtype)).save(tmp_path / "a.tif")
        with pytest.raises(UserError, match=r"a\.tif has float, signed or 32-bit pixels.*convert"):
            read_image(tmp_path / "a.tif", (2, 2))
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([512, 1023], dtype=">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0].tolist() == [[128, 255]]


def print_size(path, output):
    """In a new process, which prints everything to the file ``output``."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 2)
    Image.MAX_IMAGE_PIXELS = 3000
    print(read_image(path).shape[1:].numel(), file=sys.stderr, flush=True)


def test_a_large_image_gives_no_warning_of_pillow(tmp_path):
    """In a process of its own, as pytest resets the filters of warnings."""
    Image.new("L", (64, 48)).save(tmp_path / "a.png")
    process = FORKS.Process(target=print_size, args=(tmp_path / "a.png", tmp_path / "output.txt"))
    process.start()
    process.join(120)
    assert (tmp_path / "output.txt").read_text() == "3072\n"


def test_palette_with_transparency_gives_no_warning(picture, tmp_path):
    picture.convert("P").save(tmp_path / "a.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[:, 10, 4], COLOUR, atol=6)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])  # Pillow turns a TIFF image itself
def test_exif_orientation_is_ignored_where_only_the_stored_size_is_annotated(picture, tmp_path, name):
    path = tmp_path / name
    picture.save(path, exif=exif(6))  # displayed turned clockwise: the coloured half is on top
    displayed = read_image(path, (30, 20))
    assert displayed.shape == (3, 30, 20)
    assert displayed[0, 4].float().mean() > 150 > 50 > displayed[0, 25].float().mean()
    stored = read_image(path, (20, 30))
    assert stored.shape == (3, 20, 30)
    assert stored[0, :, 4].float().mean() > 150
    assert read_image(path).shape == (3, 30, 20)


def test_exif_orientation_is_applied_where_both_sizes_match(picture, tmp_path):
    picture.save(tmp_path / "a.jpg", exif=exif(3))  # upside down
    image = read_image(tmp_path / "a.jpg", (20, 30))
    assert image[0, :, 25].float().mean() > 150 > image[0, :, 4].float().mean()


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_of_every_format_is_the_one_of_pillow(tmp_path, orientation):
    """Pixels as stored, and as displayed; 0 and 9 are no orientations."""
    stored = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(stored)
    image.save(tmp_path / "a.png", exif=exif(orientation))
    image.save(tmp_path / "a.tif", exif=exif(orientation))
    image.getexif()[0x0112] = orientation
    displayed = np.asarray(ImageOps.exif_transpose(image))
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name).permute(1, 2, 0), displayed), name
        annotated_stored = read_image(tmp_path / name, (20, 30)).permute(1, 2, 0)
        assert np.array_equal(annotated_stored, stored if orientation in (5, 6, 7, 8) else displayed), name


def test_size_other_than_annotated_is_an_error(picture, tmp_path):
    picture.save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is 30x20 .* 31x20"):
        read_image(tmp_path / "a.jpg", (20, 31))


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_error_names_truncated_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"{name} .*truncated"):
        read_image(tmp_path / name)


def test_error_names_missing_file_and_file_that_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"a\.jpg .*read"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"b\.jpg .*exist"):
        read_image(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "is an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"../.git/annex/objects/Xw/q0/SHA256E-s1--00.jpg/SHA256E-s1--00.jpg", "git annex get"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC file"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (bytes(4096), "only zero bytes"),
        (b"hello", "no image"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 40, "cannot be read"),
    ],
)
def test_file_without_pixels_is_called_what_it_is(tmp_path, content, fact):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.jpg .*{fact}"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.timeout(30)
def test_pipe_is_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is a named pipe"):
        read_image(tmp_path / "a.jpg", (20, 30))


def test_any_error_of_a_decoder_names_the_file(picture, tmp_path, monkeypatch):
    picture.save(tmp_path / "a.png")

    def fail(self):
        raise IndexError("list index out of range")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(UserError, match=r"a\.png cannot be read: list index"):
        read_image(tmp_path / "a.png")
