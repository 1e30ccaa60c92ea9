"""Run lengths on disk."""

import os

from afictl.evaluation.mask_file import MaskFile


def test_masks_are_read_in_any_order_between_additions(monkeypatch):
    monkeypatch.delattr(os, "pread", raising=False)  # as on Windows
    masks = MaskFile()
    masks.add(b"firstthird", [5, 0, 5])
    assert masks.read([2, 0]) == [b"third", b"first"]
    assert masks.read([1, 2]) == [b"", b"third"]
    masks.add(b"", [])
    masks.add(b"fourth" * 5000, [30000])
    assert masks.read(range(4)) == [b"first", b"", b"third", b"fourth" * 5000]
    assert masks.read([]) == []
    assert masks.present().tolist() == [True, False, True, True]
