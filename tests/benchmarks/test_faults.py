"""The benchmark of faults notices what is lost."""

import json
import shutil

from benchmarks.fault_runs import differences


def test_every_changed_file_of_a_run_is_named(guide_run, tmp_path):
    expected, folder = tmp_path / "expected", tmp_path / "folder"
    shutil.copytree(guide_run, expected / "run")
    shutil.copytree(guide_run, folder / "run")
    run = folder / "run"
    records = [json.loads(line) | {"memory_gib": 0.0} for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert differences(folder, expected) == []
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (*records, records[-1])))
    (run / "predictions.json").unlink()
    assert differences(folder, expected) == ["run/predictions.json", "run/metrics.jsonl"]
