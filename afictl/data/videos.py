"""Frames of a video one by one, and writing of MP4 files, by PyAV: the optional part ``afictl[video]``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from afictl.data.image_faults import content_fault, file_fault
from afictl.errors import UserError, one_line
from afictl.extras import import_optional
from afictl.regular_files import open_regular

if TYPE_CHECKING:
    import av
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".gif")

_DEFAULT_RATE = Fraction(25)
"""Frames a second where a file states none."""
_CONTAINER_TIME_BASE = 10**6
"""Ticks a second of the duration of a file."""
_CODEC = "libx264"
_PIXEL_FORMAT = "yuv420p"
"""The one that every player shows; its sides are even."""


class VideoFrame(NamedTuple):
    """A decoded frame, whose pixels are converted on demand."""

    frame: av.VideoFrame
    time_s: float
    """Presentation time in seconds."""

    def read(self) -> Tensor:
        """The pixels as displayed, uint8 (3,H,W) RGB."""
        pixels = self.frame.to_ndarray(format="rgb24")
        quarter_turns = round(self.frame.rotation / 90) % 4  # counterclockwise; files of phones have them
        return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, quarter_turns))).permute(2, 0, 1)


def require_pyav(video: Path) -> ModuleType:
    """PyAV, which reads ``video``.

    Raises:
        UserError: it is not installed.
    """
    return import_optional("av", f"video {video}")


def read_frames(path: Path) -> Iterator[VideoFrame]:
    """Decode the frames of a video in the order of presentation; one is in memory at a time.

    Raises:
        UserError: no regular file, no video, or damaged, where that is met; names the file.
    """
    count = 0
    with _opened_video(path) as stream:
        stream.thread_type = "AUTO"
        container = cast("InputContainer", stream.container)
        for frame in container.decode(stream):
            time_s = frame.time if frame.pts is not None else float(count / _rate(stream))
            yield VideoFrame(frame, time_s)
            count += 1
    if not count:
        raise UserError(f"video {path} has no frame that can be decoded")


def count_frames(path: Path) -> int:
    """Number of frames that a video states or its duration suggests, for a progress bar; 0 if it is not known."""
    try:
        with _opened_video(path) as stream:
            seconds = (stream.duration or 0) * (stream.time_base or 0)
            seconds = seconds or Fraction(cast("InputContainer", stream.container).duration or 0, _CONTAINER_TIME_BASE)
            return stream.frames or int(seconds * _rate(stream))
    except UserError:  # told when its turn comes
        return 0


class VideoWriter:
    """An MP4 file (H.264) with the frame rate and the presentation times of another video, without its sound.

    Args:
        path: file to write, which the first frame creates.
        source: the other video.
    """

    def __init__(self, path: Path, source: Path) -> None:
        self._path, self._source = path, source
        self._container: OutputContainer | None = None
        self._last_pts = -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._container is not None:
            with self._container:
                if kind is None:
                    self._container.mux(self._stream.encode(None))

    def add(self, pixels: np.ndarray, like: VideoFrame) -> None:
        """Append a frame, uint8 (H,W,3) RGB, to be shown at the time of ``like``; odd sides grow by a pixel.

        Raises:
            UserError: the other video cannot be read.
        """
        av = require_pyav(self._source)
        height, width = pixels.shape[:2]
        if self._container is None:
            with _opened_video(self._source) as source:
                rate = _rate(source)
            self._container = av.open(str(self._path), "w", format="mp4")
            self._stream = cast("VideoStream", self._container.add_stream(_CODEC, rate=rate, pix_fmt=_PIXEL_FORMAT))
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.codec_context.time_base = self._time_base = like.frame.time_base or 1 / rate
        padding = ((0, self._stream.height - height), (0, self._stream.width - width), (0, 0))
        frame = av.VideoFrame.from_ndarray(np.pad(pixels, padding, mode="edge"), format="rgb24")
        pts = self._last_pts + 1 if like.frame.pts is None else like.frame.pts
        self._last_pts = frame.pts = max(pts, self._last_pts + 1)  # the encoder refuses a repeated time
        frame.time_base = self._time_base
        self._container.mux(self._stream.encode(frame))


@contextmanager
def _opened_video(path: Path) -> Iterator[VideoStream]:
    """Open the main stream of a video file; errors of FFmpeg inside name the file.

    A file object is passed on, and no protocol is allowed: a file can be a list of other files or addresses.
    """
    if fault := file_fault(path) or content_fault(path):
        raise UserError(f"video {path} {fault.replace('an image', 'a video').replace('image', 'video')}")
    av = require_pyav(path)
    try:
        with open_regular(path) as file, av.open(file, container_options={"protocol_whitelist": ""}) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise UserError(f"video {path} has no pictures")
            yield cast("VideoStream", stream)
    except av.FFmpegError as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise UserError(f"video {path} cannot be read: {reason}") from None


def _rate(stream: VideoStream) -> Fraction:
    return stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
