"""BigEarthNet as it comes, from an address or a pipe: the same store, whatever the line does."""

import bz2
import gzip
import hashlib
import http.server
import io
import itertools
import json
import lzma
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from src.data import building, connections, ingest, streams
from src.data.bigearthnet import Selection, bigearthnet_store
from src.data.bigearthnet.archives import Archive
from src.data.remotes import SETS, known_md5
from src.errors import DamagedError, DataError

COUNT = 6
PIECE = 1 << 15


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        number = len(server.requests)
        server.requests.append(self.headers)
        self.close_connection = True
        content = server.contents[min(number, len(server.contents) - 1)]
        etag = server.etag and f'"{hashlib.md5(content).hexdigest()}"'
        begins = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if server.ranges else 0
        if etag and self.headers.get("If-Range") not in (None, etag):
            begins = 0
        status, length = 206 if begins else 200, len(content) - begins
        status = server.statuses.pop(0) if server.statuses else status
        if 0 < len(content) <= begins:
            status, length = 416, 0
        self.send_response(status)
        if begins:
            self.send_header("Content-Range", f"bytes {begins}-{len(content) - 1}/{len(content)}")
        if etag:
            self.send_header("ETag", etag)
        if status == 302:
            self.send_header("Location", server.leads_to)
        if server.form == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        elif server.form != "no length":
            lies = server.lies if status < 300 else 0
            self.send_header("Content-Length", str(length + lies if status < 300 else 0))
        self.end_headers()
        if status < 300:
            self.send_content(content[begins:], server.cuts.pop(0) if server.cuts else None)

    def send_content(self, content, cut):
        try:
            for at in range(0, len(content[:cut]), PIECE):
                piece = content[:cut][at : at + PIECE]
                framed = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
                self.wfile.write(framed if self.server.form == "chunks" else piece)
                self.server.served += len(piece)
            if cut is not None:
                self.wfile.flush()
                self.server.over.wait(self.server.stall)
            elif self.server.form == "chunks":
                self.wfile.write(b"0\r\n\r\n")
        except OSError:  # they have heard enough
            return

    def log_message(self, *_):
        return


@pytest.fixture
def serve(monkeypatch):
    """(content, …) → a server on 127.0.0.1 that answers the first request with the first, and so
    on. Its answers end after `.cuts` bytes, `.stall` seconds later, have `.statuses` …
    """
    monkeypatch.setattr(streams, "PAUSES", (0.001,) * 5)
    servers = []

    def start(*contents, name="a.tar.gz", **settings):
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        how = {"ranges": True, "etag": True, "form": "", "lies": 0, "stall": 0, "leads_to": ""}
        how |= {"cuts": [], "statuses": [], **settings}
        for key, value in how.items():
            setattr(httpd, key, value)
        httpd.contents, httpd.requests, httpd.served = contents, [], 0
        httpd.over = threading.Event()
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/{name}"
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(httpd)
        return httpd

    yield start
    for httpd in servers:
        httpd.over.set()
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Little is read at a time, every row is noted at once, and none waits for a disk."""
    monkeypatch.setattr(streams, "READ", PIECE)
    monkeypatch.setattr(building.os, "fsync", lambda file: None)
    monkeypatch.setattr(ingest, "CHUNK", 1)
    monkeypatch.setattr(building, "COMMIT_SECONDS", 0)


@pytest.fixture(scope="module")
def data(write_patch, tmp_path_factory):
    """An archive of small patches: its bytes as .tar, their list, and the store of its file."""
    folder = tmp_path_factory.mktemp("patches")
    names = [f"S2A_MSIL2A_20170613T101031_{n}_{n}" for n in range(COUNT)]
    rng = np.random.default_rng(0)
    for name in names:
        write_patch(folder / "v1", name, B04=rng.integers(1, 3000, (120, 120)))
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name in reversed(names):
            tar.add(folder / "v1" / name, f"v1/{name}")
    (folder / "list.csv").write_text("\n".join(names))
    selection = Selection(folder / "list.csv")
    store = bigearthnet_store(folder / "a.tar", folder / "store", selection)
    tar = (folder / "a.tar").read_bytes()
    packed = {  # stored: what is damaged is decoded, and the checksum comes last
        "a.tar": tar,
        "a.tar.gz": gzip.compress(tar, 0),
        "a.tar.bz2": bz2.compress(tar, 1),
        "a.tar.xz": lzma.compress(tar, preset=0),
    }
    return SimpleNamespace(folder=folder, tar=tar, selection=selection, store=store, packed=packed)


@pytest.fixture
def build(data, tmp_path):
    """(root) → the store under tmp_path, built or gone on with from there."""
    return lambda root: bigearthnet_store(root, tmp_path / "store", data.selection)


@pytest.fixture
def pipe_in(monkeypatch):
    """(bytes) → "-", with these on standard input."""

    def put(content):
        pipe = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", pipe)
        return "-"

    return put


def md5(content):
    return hashlib.md5(content).hexdigest()


def same(store, data):
    checks = [one.meta["sha256"] for one in (store, data.store)]
    return checks[0] == checks[1] and store.names.tolist() == data.store.names.tolist()


def rows_done(tmp_path):
    file = tmp_path / "store.building/done.txt"
    return len(file.read_text().splitlines()) if file.exists() else 0


def a_pixel_changed(content, data, patch):
    """The archive with one other pixel in a patch: whole in form, wrong in content."""
    band = (data.folder / "v1" / patch / f"{patch}_B04.tif").read_bytes()
    at = content.index(band[20_000:20_100]) + 50
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


# One store


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
def test_a_stream_gives_the_store_of_the_file(tmp_path, data, serve, pipe_in, name):
    if name.endswith("zst"):
        content = pytest.importorskip("zstandard").compress(data.tar)
    else:
        content = data.packed[name]
    (tmp_path / name).write_bytes(content)
    url = serve(content, name=name).url
    wanted = f"md5 {md5(content)}, as expected"
    for kind, root in {"file": tmp_path / name, "url": url, "pipe": pipe_in(content)}.items():
        store = bigearthnet_store(
            Archive(root, md5=md5(content).upper()), tmp_path / kind, data.selection
        )
        assert same(store, data)
        assert store.meta["checksum"] == wanted
        assert store.meta["source"] == {"url": url, "pipe": "standard input"}.get(kind, str(root))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "file", "pipe", "url"])


def test_without_an_md5_it_says_what_it_cannot_know(data, serve, build, capsys):
    content = data.packed["a.tar.gz"]
    assert build(serve(content).url).meta["checksum"] == f"md5 {md5(content)}, compared with none"
    assert "no MD5 is known of it (--md5)" in capsys.readouterr().out
    assert "checksum" not in data.store.meta  # of a file all is as it was


@pytest.mark.parametrize("ending", ["", "?download=1", "/content"])
def test_the_md5_of_a_pinned_archive_is_known_by_its_name(data, serve, build, ending):
    remote = SETS["bigearthnet-v1"][-1]
    server = serve(data.packed["a.tar.gz"], name=f"mirror/{remote.file}{ending}")
    assert known_md5(server.url) == remote.md5
    right = md5(server.contents[0])
    with pytest.raises(DamagedError, match=f"with MD5 {right}, expected {remote.md5}"):
        build(server.url)
    assert build(Archive(server.url, right)).meta["checksum"].endswith("as expected")


# A line that is bad

BAD_LINES = {
    "breaks off": {"cuts": [200_000, 100_000, 50_000]},
    "breaks off in chunks": {"cuts": [200_000, 100_000], "form": "chunks"},
    "serves no ranges": {"cuts": [200_000, 150_000, 300_000], "ranges": False},
    "no ranges, chunks": {"cuts": [200_000], "ranges": False, "form": "chunks"},
    "no ranges, no version": {"cuts": [200_000], "ranges": False, "etag": False},
    "stalls": {"cuts": [200_000], "stall": 5},
    "stalls in chunks": {"cuts": [200_000], "stall": 5, "form": "chunks"},
    "is busy in between": {"cuts": [200_000], "statuses": [200, 503, 429]},
    "says a length that it never sends": {"cuts": [], "lies": 1000},
    "no length": {"form": "no length"},
}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_changes_nothing(data, serve, build, monkeypatch, capsys, line, name):
    monkeypatch.setattr(connections, "TIMEOUT", 0.1)
    how = {**BAD_LINES[line], "cuts": [*BAD_LINES[line].get("cuts", [])]}
    content = data.packed[name]
    server = serve(content, name=name, **{**how, "statuses": [*how.get("statuses", [])]})
    assert same(build(Archive(server.url, md5(content))), data)
    shown = capsys.readouterr().out
    if how.get("ranges", True) and len(server.requests) > 1:
        assert {request["Range"] for request in server.requests[1:]} - {None}
        assert server.served == len(content)  # no byte twice
    if not how.get("ranges", True):
        assert "is served from its start only: 200,000 bytes are skipped" in shown
    assert shown.count("no connection to") <= 3


def test_a_line_that_never_gets_further_is_given_up_and_goes_on_later(tmp_path, data, serve, build):
    content = data.packed["a.tar.gz"]
    server = serve(content, cuts=[250_000, *[0] * 5])
    with pytest.raises(DataError, match=r"no connection.*Run again: what was read is kept") as told:
        build(server.url)
    assert not isinstance(told.value, DamagedError)
    assert len(server.requests) == 6 and 1 <= rows_done(tmp_path) < COUNT
    assert same(build(server.url), data)


@pytest.mark.parametrize("server_is", ["gone", "moved", "busy"])
def test_what_cannot_begin_is_told_at_once(data, serve, build, server_is):
    server = serve(b"", statuses=[{"moved": 404, "busy": 503}.get(server_is, 200)])
    if server_is == "gone":
        server.shutdown()
        server.server_close()
    expected = {"gone": "no connection to", "moved": "answers 404 .*may have moved"}
    with pytest.raises(DataError, match=expected.get(server_is, "answers 503 .*it is busy")):
        build(server.url)
    assert len(server.requests) <= 1


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("change", ["content", "longer", "shorter"])
def test_a_file_that_changes_meanwhile_is_refused(
    tmp_path, data, serve, build, ranges, etag, change
):
    content = data.packed["a.tar.gz"]
    others = {"content": bytes([*content[:100], 1, *content[101:]]), "longer": content + b"1"}
    other = others.get(change, content[:190_000])
    server = serve(content, other, ranges=ranges, etag=etag, cuts=[200_000])
    # with ranges, of the same length and without a version, only the checksum can tell
    blind = ranges and not etag and change == "content"
    root = Archive(server.url, md5(other)) if blind else server.url
    with pytest.raises(DamagedError, match=r"(has changed while|expected).*Run again to read it"):
        build(root)
    assert rows_done(tmp_path) == 0


def test_a_redirect_is_followed_and_its_host_is_not_told_the_password(tmp_path, data, serve, build):
    content = data.packed["a.tar.gz"]
    other = serve(content)
    first = serve(b"", statuses=[302], leads_to=other.url)
    store = build(f"{first.url.replace('http://', 'http://me:s%40cret@')}?token=hidden")
    assert same(store, data)
    assert first.requests[0]["Authorization"] == "Basic bWU6c0BjcmV0"
    assert other.requests[0]["Authorization"] is None
    kept = (tmp_path / "store/meta.json").read_text()
    assert json.loads(kept)["source"] == first.url
    assert not {word for word in ("cret", "me:", "hidden") if word in kept}


# Where a reading was stopped


def test_a_pipe_killed_and_started_again_gives_the_same_store(
    tmp_path, data, command, one_error_line
):
    content, done = data.packed["a.tar.gz"], tmp_path / "store.building/done.txt"
    arguments = ("-", tmp_path / "store", "--split", data.folder / "list.csv")
    how = command("src.data.bigearthnet", *arguments, "--md5", md5(content))
    hasty = (
        "from src.data import building, ingest, streams\n"
        "from src.data.bigearthnet import __main__ as command\n"
        "building.os.fsync = lambda file: None\n"
        f"ingest.CHUNK, building.COMMIT_SECONDS, streams.READ = 1, 0, {PIECE}\n"
        "command.main()"
    )
    killed = {**how, "args": [sys.executable, "-c", hasty, *how["args"][3:]]}
    with subprocess.Popen(**killed, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        process.stdin.write(content[: len(content) * 2 // 3])
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while rows_done(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    before = rows_done(tmp_path)
    assert 2 <= before < COUNT and not (tmp_path / "store").exists()
    again = subprocess.run(**how, input=content, capture_output=True, timeout=60, check=False)
    shown = again.stdout.decode()
    assert again.returncode == 0, again.stderr
    assert f"{before} patches are there already; standard input is read from its start" in shown
    assert f"sha256 {data.store.meta['sha256']}" in shown
    assert f"checksum of the archive: md5 {md5(content)}, as expected" in shown
    assert not done.exists()


def test_a_pipe_that_breaks_off_keeps_what_was_read(tmp_path, data, build, pipe_in, capsys):
    for part in (300_000, 450_000):
        with pytest.raises(DataError, match=r"standard input broke off after .* Run again: what"):
            build(pipe_in(data.packed["a.tar.gz"][:part]))
    had = rows_done(tmp_path)
    assert had >= 3
    store = build(pipe_in(data.packed["a.tar.gz"]))
    assert same(store, data)
    assert f"{had} patches are there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_rows_of_other_bytes_are_never_taken_for_verified(tmp_path, data, pipe_in, name):
    """The first reading was damaged and stopped; those after it, all right, must not vouch for it,
    even if the second notes a row before it comes to where the first was.
    """

    def build(root):
        return bigearthnet_store(root, tmp_path / "store", data.selection, max_unreadable=0.5)

    content, (second, first) = data.packed[name], data.store.names[-2:]
    wrong = a_pixel_changed(content, data, second)
    band = (data.folder / "v1" / first / f"{first}_B04.tif").read_bytes()
    wrong = wrong.replace(band[:100], b"none" + band[4:100], 1)  # not to be read, so not done
    for stopped, rows in ((wrong[:400_000], 3), (content[:150_000], 4)):
        with pytest.raises(DataError, match="broke off"):
            build(pipe_in(stopped))
        assert rows_done(tmp_path) == rows
    right = md5(content)
    with pytest.raises(DamagedError, match=r"first [\d,]+ bytes are not those .*Run again to read"):
        build(Archive(pipe_in(content), right))
    assert rows_done(tmp_path) == 0
    assert same(build(Archive(pipe_in(content), right)), data)


def test_a_stream_that_is_shorter_than_before_is_another(tmp_path, data, build, pipe_in):
    with pytest.raises(DataError, match="broke off"):
        build(pipe_in(data.tar[:400_000]))
    shorter = io.BytesIO()
    with tarfile.open(fileobj=shorter, mode="w") as tar:
        tar.add(data.folder / "list.csv", "list.csv")
    with pytest.raises(DamagedError, match=r"ends after [\d,]+ bytes, [\d,]+ were read before"):
        build(pipe_in(shorter.getvalue()))
    assert rows_done(tmp_path) == 0


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize(("first", "then"), [*itertools.permutations(["url", "pipe", "file"], 2)])
def test_begun_from_one_and_finished_from_another(
    tmp_path, data, serve, build, pipe_in, name, first, then
):
    """The first of them damaged where it was read: its rows must not get into the store."""
    content = data.packed[name]
    wrong = a_pixel_changed(content, data, data.store.names[-1])[:400_000]

    def root(kind, content):
        (tmp_path / name).write_bytes(content)
        # without a length: it looks whole
        url = serve(content, name=name, form="no length", ranges=False).url
        return {"url": url, "file": tmp_path / name, "pipe": pipe_in(content)}[kind]

    with pytest.raises(DataError, match=r"(broke|cut) off"):
        build(root(first, wrong))
    expected = md5(content) if then != "file" else None
    again = Archive(root(then, content), expected)
    if "file" not in (first, then):  # known by their bytes, which differ
        with pytest.raises(DamagedError, match="are not those that were read before"):
            build(again)
        again = Archive(root(then, content), expected)
    assert same(build(again), data)


@pytest.mark.parametrize(("first", "then"), [("url", "pipe"), ("pipe", "url")])
def test_the_same_bytes_from_address_and_pipe_are_one_stream(
    data, serve, build, pipe_in, first, then, capsys
):
    content = data.packed["a.tar.gz"]

    def root(kind, content):
        return serve(content, form="no length").url if kind == "url" else pipe_in(content)

    with pytest.raises(DataError, match="broke off"):
        build(root(first, content[:400_000]))
    assert same(build(Archive(root(then, content), md5(content))), data)
    assert "patches are there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("kind", ["url", "pipe", "file"])
def test_a_wrong_md5_leaves_nothing(tmp_path, data, serve, build, pipe_in, kind, name):
    content = data.packed[name]
    (tmp_path / name).write_bytes(content)
    for _ in range(2):
        roots = {"url": serve(content, name=name).url, "pipe": pipe_in(content)}
        with pytest.raises(DamagedError, match=r"with MD5 .*, expected 0{32}.*Run again"):
            build(Archive(roots.get(kind, tmp_path / name), "0" * 32))
        assert rows_done(tmp_path) == 0 and not (tmp_path / "store").exists()


# Stopping when complete


def test_it_ends_when_all_selected_patches_are_in(tmp_path, data, serve, capsys):
    first = data.store.names[-1]  # in the archive
    (tmp_path / "list.csv").write_text(first)
    padding = tarfile.TarInfo("else/where.bin")
    padding.size = 24 << 20
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for patch in (first, data.store.names[0]):
            tar.add(data.folder / "v1" / patch, f"v1/{patch}")
        tar.addfile(padding, io.BytesIO(bytes(padding.size)))
    server = serve(content.getvalue(), name="a.tar")
    archive = Archive(server.url, md5=md5(b""), stop_when_complete=True)
    store = bigearthnet_store(archive, tmp_path / "store", Selection(tmp_path / "list.csv"))
    assert store.names.tolist() == [first]
    np.testing.assert_array_equal(store.images[0], data.store.images[-1])
    assert server.served < padding.size / 2
    assert store.meta["checksum"].startswith("not seen: the reading ended when every selected")
    assert "without the archive's checksum" in capsys.readouterr().out


def test_what_is_missing_is_looked_for_to_the_end_and_then_the_checksum_counts(
    tmp_path, data, pipe_in
):
    (tmp_path / "list.csv").write_text("\n".join([*data.store.names, "S2A_MSIL2A_20170613T1_9_9"]))
    content = data.packed["a.tar.gz"]
    archive = Archive(pipe_in(content), md5(content), stop_when_complete=True)
    selection = Selection(tmp_path / "list.csv")
    store = bigearthnet_store(archive, tmp_path / "store", selection, max_unreadable=0.5)
    assert store.meta["counts"]["absent"] == 1
    assert store.meta["checksum"].endswith("as expected")


def test_stopped_when_complete_rows_are_still_compared_by_the_reading_that_finishes(
    tmp_path, data, build, pipe_in
):
    content = data.packed["a.tar.gz"]
    wrong = a_pixel_changed(content, data, data.store.names[-1])
    with pytest.raises(DataError, match="broke off"):
        build(Archive(pipe_in(wrong[:400_000]), stop_when_complete=True))
    with pytest.raises(DamagedError, match="are not those that were read before"):
        build(Archive(pipe_in(content), stop_when_complete=True))


# What is refused

REFUSED = {
    "file:///data/a.tar.gz": "file:///data/a.tar.gz is no address that is read: expected http",
    "ftp://me:secret@host/a.tar.gz": "ftp://host/a.tar.gz is no address that is read",
    "s3://bucket/a.tar.gz": "s3://bucket/a.tar.gz is no address that is read",
    "https:///a.tar.gz": "is no address that is read",
}


@pytest.mark.parametrize("address", REFUSED)
def test_only_http_and_https_are_read(build, address):
    with pytest.raises(DataError, match=REFUSED[address]):
        build(address)


def test_a_zip_is_refused(tmp_path, data, serve, build, pipe_in):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", "y")
    content = (tmp_path / "a.zip").read_bytes()
    for root in (serve(content).url, pipe_in(content), Archive(tmp_path / "a.zip", "0" * 32)):
        with pytest.raises(DataError, match=r"is a \.zip, which cannot be read as it comes"):
            build(root)


@pytest.mark.parametrize("kind", ["url", "pipe"])
def test_without_a_list_nothing_is_read(tmp_path, data, serve, pipe_in, kind):
    server = serve(data.tar)
    root = server.url if kind == "url" else pipe_in(data.tar)
    with pytest.raises(DataError, match=r"comes once: give .*--split.*--metadata"):
        bigearthnet_store(root, tmp_path / "store")
    assert not server.requests


def test_other_things_than_an_archive_are_told(data, serve, build, pipe_in, monkeypatch):
    with pytest.raises(DataError, match="is a web page, not an archive"):
        build(serve(b"<!DOCTYPE html><title>Log in</title>").url)
    with pytest.raises(DataError, match="broke off after 0 bytes"):
        build(pipe_in(b""))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(DataError, match="nothing comes from standard input"):
        build("-")
    with pytest.raises(ValueError, match="md5 must be 32 hexadecimal digits"):
        Archive("-", md5="abc")
    with pytest.raises(DataError, match="md5 and stop_when_complete are of an archive"):
        build(Archive(data.folder / "v1", stop_when_complete=True))
    with pytest.raises(DataError, match="layout='flat' means a folder"):
        bigearthnet_store("-", data.folder / "none", data.selection, layout="flat")


def test_damage_of_a_stream_is_told_and_forgotten(tmp_path, data, build, pipe_in):
    wrong = a_pixel_changed(data.packed["a.tar.gz"], data, data.store.names[0])
    with pytest.raises(DamagedError, match=r"standard input is damaged .*CRC check failed"):
        build(pipe_in(wrong))
    assert rows_done(tmp_path) == 0
    assert same(build(pipe_in(data.packed["a.tar.gz"])), data)
