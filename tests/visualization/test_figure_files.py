"""Files of figures: self-contained pages, escaping, and replacement of earlier files."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from afictl.visualization.figure import Figure, Panel
from afictl.visualization.figure_files import write_figures
from tests.helpers.full_disk import killed_draft

HOSTILE = "<script>alert(1)</script>\"' onload=x"


def figure(name, title="", color=(200, 30, 60)):
    panels = [
        Panel(Image.new("RGB", (40, 30), color), title or "run", f"1 {title}"),
        Panel(Image.new("RGB", (40, 30)), "b"),
    ]
    strip = Image.new("RGB", (90, 20))
    return Figure(name, panels, title, f"about {title}", legend=[(title or "class", color)], strip=strip)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_every_figure_becomes_one_picture(tmp_path):
    progress = []
    files = write_figures(
        (figure(name) for name in "ab"), tmp_path / "out", "kind", total=2, progress=lambda *n: progress.append(n)
    )
    assert [file.name for file in files] == ["a.png", "b.png"]
    assert progress == [(1, 2), (2, 2)]
    assert Image.open(files[0]).size > (80, 30)


def test_a_page_is_self_contained_and_escaped(tmp_path):
    (path,) = write_figures([figure("a", HOSTILE), figure("b")], tmp_path, "kind", form="html", title=HOSTILE)
    text = path.read_text()
    page = Tags(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert page.text.count("<script>alert(1)</script>") == 7  # title, two headings, text, panel and note, legend
    addresses = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset", "data", "action")]
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "default-src 'none'" in text
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes["alt"]
            data = base64.b64decode(attributes["src"].split(",", 1)[1])
            assert Image.open(io.BytesIO(data)).width in (40, 90)


def test_only_files_of_an_earlier_call_are_replaced(tmp_path):
    (tmp_path / "other.png").write_bytes(b"x")
    draft = killed_draft(tmp_path / "1.png")
    draft.touch()
    write_figures([figure("1"), figure("2")], tmp_path, "detections")
    assert not draft.exists()
    write_figures([figure("1-features")], tmp_path, "features")
    write_figures([figure("2"), figure("3")], tmp_path, "detections")
    names = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert names == ["1-features.png", "2.png", "3.png", "other.png"]
    write_figures([figure("2")], tmp_path, "detections", form="html")
    names = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
    assert names == ["1-features.png", "2.png", "3.png", "detections.html", "other.png"]  # another form stays


def test_a_file_list_has_no_effect_outside_its_folder(tmp_path):
    (tmp_path / "keep.png").write_bytes(b"x")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "keep.txt").write_text("x")
    (tmp_path / "out" / ".afictl-kind-png").write_text("../keep.png\nkeep.txt\n\n")
    write_figures([figure("a")], tmp_path / "out", "kind")
    assert (tmp_path / "keep.png").exists()
    assert (tmp_path / "out" / "keep.txt").exists()


@pytest.mark.parametrize("form", ["png", "html"])
def test_a_failure_leaves_only_complete_files(tmp_path, form):
    def failing():
        yield figure("a")
        raise RuntimeError("broken image")

    with pytest.raises(RuntimeError):
        write_figures(failing(), tmp_path, "kind", form=form)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ([] if form == "html" else [".afictl-kind-png", "a.png"])


def test_files_of_a_failed_call_are_replaced(tmp_path):
    def failing():
        yield figure("a")
        raise RuntimeError("broken image")

    with pytest.raises(RuntimeError):
        write_figures(failing(), tmp_path / "page", "kind", form="html")
    assert not (tmp_path / "page").exists()
    with pytest.raises(RuntimeError):
        write_figures(failing(), tmp_path, "kind")
    write_figures([figure("b")], tmp_path, "kind")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".afictl-kind-png", "b.png"]
