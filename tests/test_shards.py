"""Downloads against a real server that misbehaves: in the end the files are right, or there are none, and what has arrived is kept."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import data_folder
import data_shards
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from data_texts import DataError

LAST = f"shard_{data_shards.LAST:05d}.parquet"
FIRST = "shard_00000.parquet"


class Server(ThreadingHTTPServer):
    """Serves shards, badly if told so: `manners` has what it does wrong, each until its count is used up."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.manners = files, Counter[str]()
        self.asked: list[tuple[str, str]] = []  # (file, Range) of each request
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/resolve"

    def does(self, what: str) -> bool:
        with self.lock:
            self.manners[what] -= 1
            return self.manners[what] >= 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, name = self.server, self.path.rsplit("/", 1)[1]
        with server.lock:
            server.asked.append((name, self.headers.get("Range", "")))
        if server.does("busy"):
            self.send_response(503)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif name not in server.files:
            self.send_error(404)
        elif self.path.startswith("/resolve/") and server.does("redirect"):
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(server.files[name]).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(server.files[name])))
            self.send_header("Location", f"/elsewhere/{name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not server.does("hang up"):
            self.send_file(server.files[name])

    def send_file(self, content: bytes) -> None:
        server = self.server
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(span.group(1)) if span and not server.does("ignore ranges") else 0
        if begin >= len(content):
            self.send_error(416)
            return
        body = content[begin:]
        if server.does("corrupt"):
            body = body[:-1000] + bytes(1000)
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        told = len(body) + (5000 if server.does("announce more") else 0)
        told = len(body) // 2 if server.does("announce less") else told
        self.send_header("ETag", '"v2"' if server.does("another version") else '"v1"')
        if not server.does("announce nothing"):
            self.send_header("Content-Length", str(told))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if server.does("drop") else body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def shard(number: int) -> bytes:
    """Parquet of about 150 KB that compresses badly."""
    rng = np.random.default_rng(number)
    texts = ["".join(map(chr, rng.integers(97, 123, 500))) + f" shard {number}, document {i}" for i in range(400)]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), sink)
    return sink.getvalue().to_pybytes()


FILES = {FIRST: shard(0), "shard_00001.parquet": shard(1), LAST: shard(2)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(FILES) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, count: int = 1) -> list[Path]:
    return data_shards.fetch(count, folder, server.url, pause_seconds=0.01)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


@pytest.mark.parametrize(
    "manners",
    [
        {},
        {"redirect": 9},
        {"busy": 3},
        {"hang up": 3},
        {"drop": 4},
        {"drop": 5, "redirect": 99},
        {"drop": 3, "ignore ranges": 2},
        {"drop": 2, "another version": 1},
        {"corrupt": 2, "redirect": 9},
        {"corrupt": 1},
        {"announce more": 2},
        {"announce less": 2},
        {"announce nothing": 99},
        {"announce nothing": 99, "drop": 2},
        {"busy": 2, "drop": 3, "redirect": 5, "hang up": 1, "announce more": 1, "ignore ranges": 1, "corrupt": 1},
    ],
    ids=lambda manners: " and ".join(manners) or "well-behaved",
)
def test_what_arrives_is_what_the_server_has(server: Server, tmp_path: Path, manners: dict[str, int]) -> None:
    server.manners.update(manners)
    paths = fetch(server, tmp_path, 2)
    assert {path.name: path.read_bytes() for path in paths} == FILES
    assert left(tmp_path) == set(FILES)
    requests = len(server.asked)
    assert fetch(server, tmp_path, 2) == paths
    assert len(server.asked) == requests, "a second run asks for nothing"


@pytest.mark.parametrize("trouble", ["busy", "hang up", "corrupt", "announce more", "announce less"])
def test_a_server_that_never_behaves_is_given_up_and_leaves_no_file_that_looks_whole(server: Server, tmp_path: Path, trouble: str) -> None:
    server.manners[trouble] = 10**6
    with pytest.raises(DataError, match=rf"{data_shards.TRIES} times"):
        fetch(server, tmp_path)
    assert not left(tmp_path) & set(FILES)


def test_a_shard_that_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard_0000[2-9]\.parquet: the server answers 404"):
        fetch(server, tmp_path, 10)


def test_a_later_process_takes_up_what_was_begun(server: Server, tmp_path: Path) -> None:
    server.manners.update({"drop": 10**6})
    with pytest.raises(DataError, match="the same command goes on"):
        fetch(server, tmp_path)
    have = (tmp_path / f"{FIRST}.part").stat().st_size
    assert 0 < have < len(FILES[FIRST])
    server.manners.clear()
    server.asked.clear()
    assert fetch(server, tmp_path)[0].read_bytes() == FILES[FIRST]
    assert (FIRST, f"bytes={have}-") in server.asked, "from there on"


def test_a_part_of_another_file_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FIRST}.part").write_bytes(b"x" * 1000)
    (tmp_path / f"{FIRST}.part.json").write_text(json.dumps("v0 1000000"))
    (tmp_path / f"{LAST}.part").write_bytes(FILES[LAST] + b"more than there is")
    assert fetch(server, tmp_path)[0].read_bytes() == FILES[FIRST]
    assert (tmp_path / LAST).read_bytes() == FILES[LAST]


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, _ in server.asked) == [FIRST, LAST]


def test_a_count_outside_of_what_there_is_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are 1 to 6542"):
        data_shards.fetch(0, tmp_path)


def test_the_command_downloads_and_builds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import prepare

    for name, value in {"MAX_SEQ_LEN": 64, "EVAL_TOKENS": 6400, "VOCAB_SIZES": (256,), "READY_SIZES": (256,), "DEFAULT_VOCAB": 256}.items():
        monkeypatch.setattr(prepare, name, value)
    command = ["--download", "1", "--url", server.url, "--out", str(tmp_path), "--json"]
    assert prepare.main(command) == 0
    said = capsys.readouterr()
    answer = json.loads(said.out.splitlines()[-1])
    assert "2 of 2 shards" in said.err
    assert answer["manifest"]["paths"] == [str(tmp_path / "climbmix" / name) for name in (FIRST, LAST)]
    slices = json.loads((Path(answer["data"]) / "slices.json").read_text())
    assert "shard 2, document 0" in slices["val"][0], "the last shard is the validation text"
    assert data_folder.verify(Path(answer["data"])) == answer["manifest"]
