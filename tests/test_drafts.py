import os
import subprocess
import sys

from afictl.drafts import remove_drafts


def test_only_drafts_of_processes_that_are_gone_are_removed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = [f".predictions.json.{gone.pid}", f".last.safetensors.{gone.pid}", f".state.pt.{9**30}"]
    kept = [
        f".predictions.json.{os.getpid()}",
        "predictions.json",
        ".notes.7",
        f"predictions.json.{gone.pid}",
        ".json.x",
    ]
    for name in stale + kept:
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_drafts(tmp_path / "nowhere")
