import pytest

from afictl import UserError
from afictl.run_folder import recorded_data


def test_folder_and_file_in_it_tell_the_data(tmp_path):
    (tmp_path / "config.yaml").write_text("data: /sets/cells\nseed: 0\n")
    assert str(recorded_data(tmp_path)) == str(recorded_data(tmp_path / "best.safetensors")) == "/sets/cells"


@pytest.mark.parametrize("content", [None, "seed: 0\n", "- 1\n", "data: [\n"])
def test_unknown_data_are_asked_for(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match="give --data"):
        recorded_data(tmp_path)
