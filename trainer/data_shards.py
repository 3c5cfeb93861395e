"""Downloads shards of karpathy/climbmix-400b-shuffle, the text that autoresearch trains on: Parquet files with a column `text`.

What was begun is taken up where it stopped, also by a later process. A shard gets its name only when it is whole: its size and hash are
what the server says, where it says them, and it reads as Parquet with rows of text. Until then it is a `.part` file. Servers that drop
connections, refuse for a while, ignore ranges or lie about lengths cost time, never a wrong file.
"""

from __future__ import annotations

import contextlib
import email.message
import fcntl
import hashlib
import http.client
import json
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_texts import DataError, sync

URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
LAST = 6542  # the last shard there, which gives the validation text, as upstream has it
AT_ONCE = 8  # connections
TRIES = 6  # in a row that bring nothing new
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0  # between tries; doubled each time
TIMEOUT_SECONDS = 30.0  # of silence
PIECE_BYTES = 1 << 20


class _Again(Exception):  # noqa: N818  nothing is wrong yet
    """This try failed and another may not."""

    def __init__(self, why: str, pause_seconds: float = 0.0) -> None:
        super().__init__(why)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True)
class _Facts:
    """What a response says of the whole file."""

    begin: int  # place of its first byte
    size: int | None
    sha256: str  # "" where the server does not say it
    identity: str  # changes when the file does


def fetch(count: int, folder: Path, url: str = URL, pause_seconds: float = FIRST_PAUSE_SECONDS) -> list[Path]:
    """The first `count` shards and the last one, downloaded if they are not there.

    Raises:
        DataError: one cannot be had; what has arrived is kept for the next time.
    """
    if not 1 <= count <= LAST:
        raise DataError(f"--download {count}: there are 1 to {LAST} shards to train on")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard_{number:05d}.parquet" for number in (*range(count), LAST)]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits and then finds the work done
        missing = [path for path in paths if not path.exists()]
        if missing:
            _fetch_all(missing, url.rstrip("/"), Progress(len(missing)), pause_seconds)
    return paths


def _fetch_all(paths: list[Path], url: str, progress: Progress, pause_seconds: float) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way = [pool.submit(_Download(path, f"{url}/{path.name}", progress, pause_seconds).run) for path in paths]
        try:
            for download in under_way:
                download.result()
        finally:
            progress.stop.set()  # the others end where they are; nothing of what has arrived is lost
            pool.shutdown(wait=True, cancel_futures=True)
            progress.end()


class Progress:
    """One line about all downloads: rewritten in place on a terminal, elsewhere a new one now and then."""

    def __init__(self, files: int, out: IO[str] | None = None) -> None:
        self.stop = threading.Event()
        self._out = out or sys.stderr
        self._lock, self._files, self._done = threading.Lock(), files, 0
        self._sizes, self._have = dict[str, int](), dict[str, int]()
        self._arrived, self._began, self._shown = 0, time.monotonic(), 0.0

    def at(self, name: str, have: int, size: int | None, arrived: int = 0, done: bool = False) -> None:
        """A file's state: bytes on the disk, bytes in all if known, bytes that came just now."""
        with self._lock:
            self._have[name], self._sizes[name] = have, size or have
            self._arrived += arrived
            self._done += done
            now = time.monotonic()
            if done or now - self._shown >= (0.2 if self._out.isatty() else 10.0):
                self._shown = now
                self._show()

    def end(self) -> None:
        if self._out.isatty():
            print(file=self._out)

    def _show(self) -> None:
        have, size = sum(self._have.values()), sum(self._sizes.values())
        filled = round(30 * have / max(1, size * self._files / max(1, len(self._sizes))))
        rate = self._arrived / max(1e-9, time.monotonic() - self._began)
        line = f"[{'#' * filled:30s}] {self._done} of {self._files} shards, {have / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s"
        terminal = self._out.isatty()
        print(f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=self._out, flush=True)


class _Download:
    """One file."""

    def __init__(self, path: Path, url: str, progress: Progress, pause_seconds: float) -> None:
        self.path, self.url, self.progress, self.pause_seconds = path, url, progress, pause_seconds
        self.part, self.note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")

    def run(self) -> None:
        """Tries until it is there."""
        best, vain, pause = self._have(), 0, self.pause_seconds
        while not self.progress.stop.is_set():
            try:
                facts = self._continue()
                self._accept(facts)
                return
            except _Again as again:
                if self._have() > best:
                    best, vain, pause = self._have(), 0, self.pause_seconds
                vain += 1
                if vain == TRIES:
                    raise DataError(f"{self.url}: {again}, {TRIES} times; what has arrived is kept: the same command goes on") from None
                self.progress.stop.wait(max(pause, min(again.pause_seconds, LONGEST_PAUSE_SECONDS)))
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _continue(self) -> _Facts:
        """Asks for what is missing and writes it; the facts of a file that seems complete."""
        have = self._have()
        known = json.loads(self.note.read_text()) if have and self.note.exists() else None
        if known is None:
            have = 0
        with self._asked(have) as (response, facts):
            if facts.begin != have or (have and known != facts.identity):  # ranges are ignored, or the file is another now
                if facts.begin:
                    self._discard()
                    raise _Again("the file has changed on the server")
                have = 0
            self._write_note(facts)
            with self.part.open("r+b" if have else "wb") as file:
                file.seek(have)
                for piece in self._pieces(response):
                    file.write(piece)
                    have += len(piece)
                    self.progress.at(self.path.name, have, facts.size, len(piece))
        if self.progress.stop.is_set():
            raise _Again("stopped")
        if facts.size is not None and have != facts.size:
            if have > facts.size:
                self._discard()
            raise _Again(f"{have} bytes arrived of the {facts.size} that the server announces")
        return facts

    @contextlib.contextmanager
    def _asked(self, begin: int) -> Iterator[tuple[http.client.HTTPResponse, _Facts]]:
        """A response with the bytes from `begin` on, or from the start."""
        redirects = _Redirects()
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        request = urllib.request.Request(self.url, headers={"User-Agent": "evo-autoresearch", "Accept-Encoding": "identity", **headers})
        try:
            with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_SECONDS) as response:
                yield response, _facts(response, redirects.headers)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # more is here than the server has
                self._discard()
            if error.code not in (408, 416, 425, 429) and error.code < 500:
                raise DataError(f"{self.url}: the server answers {error.code} {error.reason}") from None
            after = error.headers.get("Retry-After", "")
            raise _Again(f"the server answers {error.code} {error.reason}", float(after) if after.isdigit() else 0.0) from None
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, closed
            raise _Again(str(getattr(error, "reason", error)) or type(error).__name__) from None

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        while not self.progress.stop.is_set():
            piece = response.read1(PIECE_BYTES)
            if not piece:
                return
            yield piece

    def _accept(self, facts: _Facts) -> None:
        """Gives the file its name, if it is what it should be."""
        with self.part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if facts.sha256 else ""
        wrong = f"hash {found[:12]} where the server says {facts.sha256[:12]}" if found != facts.sha256 else not_parquet(self.part)
        if wrong:
            self._discard()
            raise _Again(f"what arrived is no whole shard: {wrong}")
        sync(self.part)
        self.part.rename(self.path)
        sync(self.path.parent)
        self.note.unlink(missing_ok=True)
        self.progress.at(self.path.name, self.path.stat().st_size, None, done=True)

    def _write_note(self, facts: _Facts) -> None:
        """Which file the part is a part of."""
        self.note.write_text(json.dumps(facts.identity))

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps what the first server says of a file that another one sends: the Hugging Face hub names its size and hash there."""

    def __init__(self) -> None:
        self.headers: list[Any] = []

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> urllib.request.Request | None:
        self.headers.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _facts(response: http.client.HTTPResponse, before: list[email.message.Message]) -> _Facts:
    def said(name: str) -> str:
        return next((str(headers[name]) for headers in (*before, response.headers) if headers[name]), "")

    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", str(response.headers["Content-Range"] or ""))
    begin = int(span.group(1)) if span and response.status == 206 else 0
    length = response.headers["Content-Length"] or ""
    size = int(length) + begin if length.isdigit() else None
    if span and span.group(2) != "*":
        size = int(span.group(2))
    if said("X-Linked-Size").isdigit():
        size = int(said("X-Linked-Size"))
    etag = (said("X-Linked-Etag") or said("ETag")).removeprefix("W/").strip('"')
    return _Facts(begin, size, etag if re.fullmatch(r"[0-9a-f]{64}", etag) else "", f"{etag} {size}")


def not_parquet(path: Path) -> str:
    """What keeps a file from being Parquet with rows of text; "" where nothing does."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if "text" not in table.schema_arrow.names:
                return "no column `text`"
            return "" if table.metadata.num_rows else "no rows"
    except (pyarrow.ArrowException, OSError) as error:
        return str(error).splitlines()[0]
