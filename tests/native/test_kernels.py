"""The library of C++ kernels: compiled once, and done without where it cannot be."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx import native
from lmx.native import kernels


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was found out about the compiler is forgotten, before and after."""
    kernels._library.cache_clear()
    yield
    kernels._library.cache_clear()


def test_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMX_CACHE", str(tmp_path / "new"))
    first = kernels._compiled()
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert kernels._compiled() == first


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.available()
    kernels._library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not native.available()


def test_a_compiler_with_arguments(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMX_CACHE", str(tmp_path / "with space"))
    monkeypatch.setenv("CXX", "env LANG=C g++ -w")
    assert native.available()


@pytest.mark.parametrize("damage", ["compiler", "folder", "home"])
def test_a_compiler_that_fails_is_as_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    if damage == "compiler":
        monkeypatch.setenv("LMX_CACHE", str(tmp_path))
        monkeypatch.setattr(kernels, "_FLAGS", ("-no-such-option-at-all",))
    elif damage == "home":

        def nowhere(path: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "expanduser", nowhere)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("LMX_CACHE", str(tmp_path / "file"))
    assert not native.available()


def test_it_can_be_left_out_for_a_while() -> None:
    with native.left_out():
        with native.left_out():
            pass
        assert not native.available()
    assert native.available()
