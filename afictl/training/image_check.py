"""Check at the end of a training that the image files are those of its start."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from lightning_fabric import Fabric

from afictl.data import Dataset
from afictl.errors import UserError
from afictl.run_folder import CONFIG
from afictl.training.run_inputs import InputFile, RecordedInputs, list_image_inputs
from afictl.training.run_writer import RunWriter
from afictl.training.splits import Splits


class ImageCheck:
    """Context of a training, at the end of which changed images are a warning in its log, however it ends.

    The images are listed on rank 0 alone, as another rank may have ended by an error.

    Args:
        fabric: the launched Fabric.
        run: writer of the run.
        before: inputs at the start, perhaps with other files.
        splits: images of training and evaluation.
        pseudo: pseudo-labelled images.
        discards_state: whether the saved state is removed if images have changed, so that the run cannot be continued
            from weights of both versions.
    """

    def __init__(
        self,
        fabric: Fabric,
        run: RunWriter,
        before: Sequence[InputFile],
        splits: Splits,
        pseudo: Dataset | None = None,
        *,
        discards_state: bool = False,
    ) -> None:
        self.change = ""
        """After the end, on rank 0: what has changed; empty if nothing has."""
        self._is_main_process = fabric.is_global_zero
        self._run = run
        self._recorded = RecordedInputs(run.folder / CONFIG, (), {file.name: file.fingerprint for file in before})
        self._images = splits, pseudo
        self._discards_state = discards_state

    def __enter__(self) -> ImageCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._is_main_process:
            return
        if error is None:
            self._compare()
            return
        with suppress(OSError, UserError):  # the first error is raised
            self._compare()

    def _compare(self) -> None:
        self.change = self._recorded.find_change(list_image_inputs(*self._images))
        if not self.change:
            return
        outcome = "may have read both versions"
        if self._discards_state:
            self._run.state_file.unlink(missing_ok=True)
            outcome += "; its saved state is removed"
        self._run.log(f"warning: {self.change}; this training {outcome}")
