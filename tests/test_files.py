import pytest

from bindeploy.errors import BindeployError
from bindeploy.files import resource, whole_file, whole_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "file"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path / "deep") == []
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert names(tmp_path / "deep") == ["file"]
    assert path.read_text() == "whole"


def test_a_failed_write_keeps_the_old_folder_and_a_complete_one_replaces_it(tmp_path):
    out = tmp_path / "out"
    for content in ("first", "second"):
        with pytest.raises(RuntimeError), whole_folder(out, "marker") as temporary:
            (temporary / "marker").write_text("half")
            raise RuntimeError
        with whole_folder(out, "marker") as temporary:
            (temporary / "marker").write_text(content)
        assert (out / "marker").read_text() == content
        assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_not_ours_is_never_replaced(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(BindeployError, match="choose another --out"), whole_folder(out, "marker"):
        raise AssertionError("never entered")
    assert names(tmp_path) == ["out"]


def test_runtime_and_targets_are_found_from_a_checkout():
    assert (resource("runtime") / "include" / "bindeploy.h").exists()
