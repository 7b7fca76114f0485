"""Weights through the Hub's real client, from a server on the loopback interface, and each way it breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import HubProcess, LoopbackHub

# the client reads its environment when it is imported, so it lives in a process of its own
CLIENT = """
import json, sys
from lmx.config import LmxError
from lmx.data.weights import fetch_weights
for line in sys.stdin:
    repository, seconds = json.loads(line)
    try:
        folder = fetch_weights(repository, seconds)
        answer = {path.name: path.stat().st_size for path in folder.iterdir()}
    except LmxError as error:
        answer = f"{type(error).__name__} {error}"
    print(json.dumps(answer), flush=True)
"""
CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40}
GOOD = {name: len(content) for name, content in CONTENT.items()}
REMEDY = "; allowed: a folder, or a name on the Hub (with network, once)"


class Client(HubProcess):
    """A process that fetches weights."""

    CODE = CLIENT

    def fetch(self, owner: str, seconds: float = 20.0) -> object:
        """Fetch `OWNER/stories`; return names and sizes of its files, or the error."""
        return self.ask(f"{owner}/stories", seconds)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    folder = tmp_path_factory.mktemp("repository")
    others = {"pytorch_model.bin": b"a pickle", "README.md": b"words", "tokenizer.json": b"{}"}
    for name, content in (CONTENT | others).items():
        (folder / name).write_bytes(content)
    with LoopbackHub(folder) as started:
        yield started


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(server: LoopbackHub, home: Path) -> Iterator[Client]:
    started = Client(server.url, home)
    yield started
    started.close()


@pytest.fixture
def hub(server: LoopbackHub) -> Iterator[LoopbackHub]:
    server.requests.clear()
    files = dict(server.files)
    yield server
    server.files = files
    server.fault = lambda path: None


def test_cold_then_warm_then_offline(hub: LoopbackHub, client: Client, home: Path) -> None:
    assert client.fetch("first") == GOOD
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    asked = len(hub.requests)
    assert client.fetch("first") == GOOD
    assert len(hub.requests) == asked  # what is there is not asked for again
    offline = Client(hub.url, home, HF_HUB_OFFLINE="1")
    assert offline.fetch("first") == GOOD
    error = offline.fetch("unseen")
    offline.close()
    assert isinstance(error, str)
    assert error.startswith("CheckpointError init_from: hf:unseen/stories cannot be read: ")
    assert error.endswith(f" (HF_HUB_OFFLINE is set){REMEDY}")
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "it does not exist, or is private (401)"),
        (403, "access is refused (403)"),
        (404, "it does not exist (404)"),
        (500, "the Hub answers 500"),
    ],
)
def test_refusals_name_repository_and_cause(hub: LoopbackHub, client: Client, status: int, text: str) -> None:
    hub.fault = lambda path: status
    expected = f"CheckpointError init_from: hf:refused/stories cannot be read: {text}{REMEDY}"
    assert client.fetch("refused") == expected


def test_an_unknown_repository(hub: LoopbackHub, client: Client) -> None:
    error = client.fetch("nobody")
    assert "hf:nobody/stories cannot be read: it does not exist, or is private (401)" in str(error)


def test_pickles_alone_are_refused_before_anything_is_fetched(hub: LoopbackHub, client: Client) -> None:
    del hub.files["model.safetensors"]
    assert client.fetch("pickles") == (
        "CheckpointError init_from: hf:pickles/stories has no model.safetensors, allowed: weights in "
        "safetensors; pytorch_model.bin is a pickle, which can run code"
    )
    assert not any("resolve" in request for request in hub.requests)


def test_a_shard_that_the_index_names_is_fetched_too(hub: LoopbackHub, client: Client) -> None:
    index = {"weight_map": {"a": "model-1.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files["model-1.safetensors"] = hub.files.pop("model.safetensors")
    sharded = client.fetch("sharded")
    assert isinstance(sharded, dict)
    assert sharded["model-1.safetensors"] == GOOD["model.safetensors"]
    asked = len(hub.requests)
    assert client.fetch("sharded") == sharded
    assert len(hub.requests) == asked


def test_no_answer_ends_in_the_time_that_was_set(hub: LoopbackHub, client: Client) -> None:
    for where in ("", "resolve"):
        hub.fault = lambda path, where=where: "hang" if where in path else None
        begun = time.monotonic()
        error = client.fetch(f"slow{where}", seconds=1)
        assert time.monotonic() - begun < 20
        assert f"hf:slow{where}/stories cannot be read: no answer in data.timeout_seconds=1" in str(error)


def test_no_connection(tmp_path: Path) -> None:
    alone = Client("http://127.0.0.1:9", tmp_path / "home")
    error = alone.fetch("any", seconds=3)
    alone.close()
    assert "init_from: hf:any/stories cannot be read: no connection (" in str(error)
    assert str(error).endswith(REMEDY)


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
def test_what_arrives_damaged_is_fetched_again_or_refused(
    hub: LoopbackHub, client: Client, fault: str
) -> None:
    broken: list[str] = []

    def once(path: str) -> str | None:
        if not path.endswith("model.safetensors") or "resolve" not in path or len(broken) > 1:
            return None
        broken.append(path)  # the HEAD, which has no content, and the GET
        return fault

    hub.fault = once
    assert client.fetch(f"once-{fault}") == GOOD
    hub.fault = lambda path: fault if path.endswith("model.safetensors") and "resolve" in path else None
    error = client.fetch(f"always-{fault}", seconds=3)
    assert f"CheckpointError init_from: hf:always-{fault}/stories cannot be read: " in str(error)
    hub.fault = lambda path: None
    assert client.fetch(f"always-{fault}") == GOOD
