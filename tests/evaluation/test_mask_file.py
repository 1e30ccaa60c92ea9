"""Run lengths on disk."""

import os

from afictl.evaluation.mask_file import MaskFile


def test_masks_are_read_in_any_order_also_between_additions(monkeypatch):
    monkeypatch.delattr(os, "pread", raising=False)  # as on Windows
    masks = MaskFile()
    masks.add([b"first", b"", b"third"])
    assert masks.read([2, 0]) == [b"third", b"first"]
    masks.add([])
    masks.add([b"fourth" * 5000])
    assert masks.read(range(4)) == [b"first", b"", b"third", b"fourth" * 5000]
    assert masks.present().tolist() == [True, False, True, True]
