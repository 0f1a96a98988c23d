"""Which code a training ran from."""

import shutil
import subprocess

import pytest

from bindeploy.train.commit import DIRTY, commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(*arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)
    return done.stdout.decode().strip()


def test_a_checkout_is_named_by_its_commit_and_by_whether_it_was_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    assert commit() is None  # nothing committed yet
    (tmp_path / "network.py").write_text("layers = 3\n")
    git("add", "network.py")
    git("commit", "--quiet", "-m", "three layers")
    head = git("rev-parse", "HEAD")
    assert commit() == head
    (tmp_path / "notes.txt").write_text("not tracked\n")
    assert commit() == head
    (tmp_path / "network.py").write_text("layers = 4\n")
    assert commit() == head + DIRTY


def test_outside_a_checkout_and_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None
