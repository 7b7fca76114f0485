"""The real client of the Hub against a server on the loopback interface: success, and each way it breaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import bpe
from loopback_hub import HubProcess, LoopbackHub

from lmx.data.vocabulary import train_bpe

# The client reads its environment when it is imported, so it lives in a process of its own. One serves most
# cases: each takes a repository and a cache that no other case has touched.
CLIENT = """
import json, sys
from lmx.config import DataConfig, LmxError, TokenizerConfig
from lmx.data import prepare
for line in sys.stdin:
    cache, settings, tokenizer = json.loads(line)
    lines = []
    try:
        data = DataConfig(name="stories", source="hub", sequence_length=8, **settings)
        corpus = prepare(data, TokenizerConfig(**tokenizer), cache, lambda text: None)
        for name, windows in corpus.splits.items():
            facts = corpus.facts["splits"][name]
            lines.append(f"{name} {facts['documents']} {facts['bytes']}")
        if tokenizer["kind"] != "byte":
            lines = [corpus.tokenizer.fingerprint]
    except LmxError as error:
        lines.append(f"{type(error).__name__} {error}")
    print(json.dumps(lines), flush=True)
"""
ROWS = {"train": 700, "validation": 30, "test": 20}
GOOD = [
    f"{split} {count} {sum(len(f'{split} story {i}') for i in range(count))}" for split, count in ROWS.items()
]
REMEDY = "; with network, once: python -m lmx.data prepare data=stories; or data.local_dir=DIR"


class Client(HubProcess):
    """A process that prepares corpora of the Hub."""

    CODE = CLIENT

    def tokenizer(self, owner: str, cache: Path, revision: str | None = None) -> Any:
        """Prepare with the tokenizer `OWNER/stories`; return its fingerprint, or the error."""
        pretrained = {"name": "p", "kind": "pretrained", "path": f"{owner}/stories", "revision": revision}
        (cache / "corpus").mkdir(parents=True, exist_ok=True)
        for name in ("train", "valid"):
            (cache / f"corpus/{name}.txt").write_text("a story about a cat")
        return self.ask(str(cache), {"local_dir": str(cache / "corpus"), "timeout_seconds": 2}, pretrained)

    def prepare(self, owner: str, cache: Path, **settings: Any) -> Any:
        """Prepare `OWNER/stories`; return a line for each split, or the error."""
        splits = {"splits": dict(zip(ROWS, ROWS, strict=True))}
        repository = {"repository": f"{owner}/stories"}
        return self.ask(str(cache), {**splits, **settings, **repository}, {"name": "byte", "kind": "byte"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    folder = tmp_path_factory.mktemp("repository")
    (folder / "data").mkdir()
    for split, count in ROWS.items():
        table = pa.table({"text": [f"{split} story {i}" for i in range(count)], "n": list(range(count))})
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")
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
    yield server
    server.fault = lambda path: None


def test_cold_then_from_the_store_then_offline(
    hub: LoopbackHub, client: Client, home: Path, tmp_path: Path
) -> None:
    assert client.prepare("first", tmp_path / "cache") == GOOD
    asked = len(hub.requests)
    assert client.prepare("first", tmp_path / "cache") == GOOD  # the store is there: nothing is asked
    assert len(hub.requests) == asked
    offline = Client(hub.url, home, HF_HUB_OFFLINE="1")
    assert offline.prepare("first", tmp_path / "other") == GOOD
    [error] = offline.prepare("unseen", tmp_path / "other")
    offline.close()
    assert error.startswith("DataError data.repository: unseen/stories cannot be read: ")
    assert error.endswith(f"(HF_HUB_OFFLINE is set){REMEDY}")
    assert len(hub.requests) == asked


def test_streaming_takes_the_first_documents(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    lines = client.prepare("streamed", tmp_path, streaming=True, max_documents=10)
    assert [line.split()[:2] for line in lines] == [["train", "10"], ["validation", "10"], ["test", "10"]]
    assert lines[0].split()[2] == str(10 * len("train story 0"))


def test_first_documents_of_a_stream_with_a_share_held_out(
    hub: LoopbackHub, client: Client, tmp_path: Path
) -> None:
    lines = client.prepare(
        "cosmo",
        tmp_path,
        streaming=True,
        splits={"train": "train", "validation": "train"},
        validation_fraction=0.1,
        max_documents=50,
        max_held_out_documents=5,
    )
    assert [line.split()[:2] for line in lines] == [["train", "50"], ["validation", "5"]]


def test_parts_of_a_split_and_a_share_held_out(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    lines = client.prepare(
        "parts", tmp_path, splits={"train": "train[100:]", "validation": "train[:100]", "test": None}
    )
    assert [line.split()[:2] for line in lines] == [["train", "600"], ["validation", "100"]]
    lines = client.prepare("parts", tmp_path, splits={"train": "train", "validation": "train"})
    train, held_out = (int(line.split()[1]) for line in lines)
    assert train + held_out == 700
    assert 10 < held_out < 80


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"splits": {"train": "trian", "validation": "validation"}},
            "data.splits.train: got 'trian', allowed for typo/stories: train, validation, test; did you mean",
        ),
        (
            {"splits": {"train": "train"}},
            "data.splits.validation: got nothing, allowed for typo/stories: train,",
        ),
        ({"subset": "small"}, "data.subset: got 'small' for typo/stories, allowed: default"),
        ({"revision": "v9"}, "typo/stories cannot be read: it has no such revision (data.revision)"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_fetched(
    hub: LoopbackHub, client: Client, tmp_path: Path, settings: dict[str, Any], text: str
) -> None:
    [error] = client.prepare("typo", tmp_path, **settings)
    assert error.startswith("DataError ")
    assert text in error
    assert not [request for request in hub.requests if ".parquet" in request]


def test_missing_field_is_named(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    [error] = client.prepare("field", tmp_path, text_field="txt")
    assert "data.text_field: got 'txt', not in field/stories; allowed: text, n; did you mean 'text'?" in error


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "it does not exist, or is private (401)"),
        (404, "it does not exist (404)"),
        (429, "too many requests (429), try later"),
        (500, "the Hub answers 500"),
    ],
)
def test_refusals_name_repository_cause_and_remedy(
    hub: LoopbackHub, client: Client, tmp_path: Path, status: int, text: str
) -> None:
    hub.fault = lambda path: status
    expected = f"DataError data.repository: refused/stories cannot be read: {text}{REMEDY}"
    assert client.prepare("refused", tmp_path) == [expected]


def test_unknown_repository(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    [error] = client.prepare("nobody", tmp_path)
    assert "nobody/stories cannot be read: it does not exist, or is private (401)" in error


def test_no_answer_ends_in_the_time_that_was_set(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    hub.fault = lambda path: "hang"
    [error] = client.prepare("slow", tmp_path, timeout_seconds=1)
    assert "slow/stories cannot be read: no answer in data.timeout_seconds=1" in error
    hub.fault = lambda path: "hang" if "train" in path else None
    [error] = client.prepare("slow", tmp_path, timeout_seconds=1)
    assert "slow/stories cannot be read: no answer in data.timeout_seconds=1" in error


def test_no_connection(tmp_path: Path) -> None:
    alone = Client("http://127.0.0.1:9", tmp_path / "home")
    [error] = alone.prepare("any", tmp_path)
    alone.close()
    assert "data.repository: any/stories cannot be read: no connection (" in error
    assert error.endswith(REMEDY)


def faulty(fault: str, times: int) -> Any:
    """A fault of the first few downloads of the train split."""
    broken: list[str] = []

    def decide(path: str) -> str | None:
        if "resolve" not in path or "train" not in path or len(broken) >= times:
            return None
        broken.append(path)
        return fault

    return decide


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
def test_damaged_download_is_fetched_again(
    hub: LoopbackHub, client: Client, tmp_path: Path, fault: str
) -> None:
    hub.fault = faulty(fault, 2)  # the HEAD, which has no content, and the GET
    assert client.prepare(f"once-{fault}", tmp_path) == GOOD
    assert len([request for request in hub.requests if request.startswith("GET") and "train" in request]) == 2


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
def test_damage_that_stays_is_refused_and_leaves_nothing(
    hub: LoopbackHub, client: Client, tmp_path: Path, fault: str
) -> None:
    hub.fault = faulty(fault, 10**9)
    [error] = client.prepare(f"always-{fault}", tmp_path, timeout_seconds=3)
    assert f"DataError data.repository: always-{fault}/stories cannot be read: " in error
    assert error.endswith(REMEDY)
    hub.fault = lambda path: None  # a whole file from now on, into the same caches
    assert client.prepare(f"always-{fault}", tmp_path) == GOOD


def test_failures_while_streaming_end_in_time_and_leave_nothing(
    hub: LoopbackHub, client: Client, tmp_path: Path
) -> None:
    expected = {
        "truncate": "",
        "corrupt": "",
        "hang": "no answer in data.timeout_seconds=1",
        404: "it does not exist (404)",
        500: "no answer in data.timeout_seconds=1 (HTTP Error 500)",
    }
    for fault, text in expected.items():
        hub.fault = lambda path, fault=fault: fault if "resolve" in path and "train" in path else None
        begun = time.monotonic()
        [error] = client.prepare(f"stream-{fault}", tmp_path, streaming=True, timeout_seconds=1)
        assert time.monotonic() - begun < 20  # far from the minutes of the client's own retries
        assert f"data.repository: stream-{fault}/stories cannot be read: {text}" in error
        assert error.endswith(REMEDY)
        hub.fault = lambda path: None
        assert client.prepare(f"stream-{fault}", tmp_path, streaming=True) == GOOD


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (401, "it does not exist, or is private (401)"),
        (429, "no answer in data.timeout_seconds=1 (HTTP Error 429)"),
        (500, "no answer in data.timeout_seconds=1 (HTTP Error 500)"),
    ],
)
def test_refusals_of_a_file_name_the_status(
    hub: LoopbackHub, client: Client, tmp_path: Path, status: int, text: str
) -> None:
    hub.fault = lambda path: status if "resolve" in path and "train" in path else None
    [error] = client.prepare(f"file-{status}", tmp_path, timeout_seconds=1)
    assert error == f"DataError data.repository: file-{status}/stories cannot be read: {text}{REMEDY}"


# ---- tokenizers


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_bpe(bpe(280), ["the cat and the hat"] * 5)
    tokenizer.save(folder)
    (folder / "rules.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "pad_token": "<pad>"}')
    with LoopbackHub(folder) as started:
        yield started


@pytest.fixture(scope="module")
def reader(speller: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    started = Client(speller.url, tmp_path_factory.mktemp("home"))
    yield started
    started.close()


def test_tokenizer_of_the_hub_is_fetched_once(speller: LoopbackHub, reader: Client, tmp_path: Path) -> None:
    [fingerprint] = reader.tokenizer("first", tmp_path / "a")
    assert fingerprint == train_bpe(bpe(280), ["the cat and the hat"] * 5).fingerprint
    asked = len(speller.requests)
    assert reader.tokenizer("first", tmp_path / "b") == [fingerprint]
    assert len(speller.requests) == asked
    assert reader.tokenizer("first", tmp_path / "c", revision=speller.commit) == [fingerprint]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (401, "it does not exist, or is private (401)"),
        (429, "too many requests (429), try later"),
        (500, "the Hub answers 500"),
        ("hang", "no answer in data.timeout_seconds=2"),
    ],
)
def test_tokenizer_that_cannot_be_fetched(
    speller: LoopbackHub, reader: Client, tmp_path: Path, fault: int | str, text: str
) -> None:
    speller.fault = lambda path: fault
    [error] = reader.tokenizer(f"away-{fault}", tmp_path)
    speller.fault = lambda path: None
    assert error.startswith(
        f"DataError tokenizer.path: away-{fault}/stories cannot be read: {text}; allowed:"
    )
    assert len(reader.tokenizer(f"away-{fault}", tmp_path)[0]) == 16


@pytest.mark.parametrize("fault", ["corrupt", "truncate"])
def test_damaged_tokenizer_is_refused_and_not_kept(
    speller: LoopbackHub, reader: Client, tmp_path: Path, fault: str
) -> None:
    speller.fault = lambda path: fault if path.endswith("tokenizer.json") else None
    [error] = reader.tokenizer(f"bad-{fault}", tmp_path)
    speller.fault = lambda path: None
    assert error.startswith(f"DataError tokenizer.path: bad-{fault}/stories cannot be read: ")
    assert len(reader.tokenizer(f"bad-{fault}", tmp_path)[0]) == 16
