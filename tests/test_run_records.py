import pytest

from afictl import UserError
from afictl.run_records import read_metrics, recorded_data


def test_recorded_data_of_a_folder_and_a_file_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("data: /sets/cells\nseed: 0\n")
    assert str(recorded_data(tmp_path)) == str(recorded_data(tmp_path / "best.safetensors")) == "/sets/cells"


@pytest.mark.parametrize("content", [None, "seed: 0\n", "- 1\n", "data: [\n"])
def test_without_recorded_data_the_error_names_the_flag(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="--data"):
        recorded_data(tmp_path)


def test_a_truncated_line_of_metrics_is_skipped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "lr": 0.1}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "lr": 0.1}]


def test_a_folder_without_metrics_is_an_error(tmp_path):
    run = tmp_path / "runs" / "nearest"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=r"metrics.jsonl.*nearest"):
        read_metrics(tmp_path / "runs")
    (run / "metrics.jsonl").touch()
    with pytest.raises(UserError, match=r"nearest/metrics\.jsonl"):
        read_metrics(run)
