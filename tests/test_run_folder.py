import pytest

from afictl import UserError
from afictl.run_folder import recorded_data


def test_recorded_data_of_a_folder_and_a_file_in_it(tmp_path):
    (tmp_path / "config.yaml").write_text("data: /sets/cells\nseed: 0\n")
    assert str(recorded_data(tmp_path)) == str(recorded_data(tmp_path / "best.safetensors")) == "/sets/cells"


@pytest.mark.parametrize("content", [None, "seed: 0\n", "- 1\n", "data: [\n"])
def test_without_recorded_data_the_error_names_the_flag(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="--data"):
        recorded_data(tmp_path)
