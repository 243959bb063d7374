"""Downloads from a server of our own: cut, wrong, gone, and archives that mean no good."""

import hashlib
import http.server
import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from src.data.download import fetch
from src.data.images import CLASSES, EUROSAT, EUROSAT_COUNTS
from src.data.remotes import SETS, Remote
from src.errors import DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        self.close_connection = True
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if self.path == "/redirect":
            self.answer(302, {"Location": "/file", "Content-Length": "0"})
        elif self.server.status or self.path != "/file":
            self.answer(self.server.status or 404, {**self.server.headers, "Content-Length": "0"})
        elif wanted and self.server.ranges and start >= len(self.server.content):
            total = {"Content-Range": f"bytes */{len(self.server.content)}", "Content-Length": "0"}
            self.answer(416, total)
        else:
            self.send_content(start)

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def send_content(self, start):
        rest = self.server.content[start:]
        headers = {"Connection": "close"}
        if start:
            end, total = len(self.server.content) - 1, len(self.server.content)
            headers["Content-Range"] = f"bytes {start + self.server.shift}-{end}/{total}"
        if self.server.chunks:
            headers["Transfer-Encoding"] = "chunked"
        elif self.server.length:
            known = isinstance(self.server.length, str)
            headers["Content-Length"] = self.server.length if known else str(len(rest))
        self.answer(206 if start else 200, headers)
        if not self.server.chunks:
            self.wfile.write(rest[: self.server.cut])
            return
        for at in range(0, len(rest[: self.server.cut]), 50_000):
            chunk = rest[: self.server.cut][at : at + 50_000]
            self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        if self.server.cut is None:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_):
        return


@pytest.fixture
def server():
    """A server on 127.0.0.1 with `.content`, which sends at most `.cut` bytes, with or without
    `.ranges`, in `.chunks` or without saying the `.length`, or answers `.status` instead, with
    `.headers`; `.requests` has the ranges asked for.
    """

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.content, httpd.cut, httpd.ranges, httpd.requests = CONTENT, None, True, []
        httpd.status, httpd.headers, httpd.length, httpd.chunks = 0, {}, True, False
        httpd.shift = 0
        httpd.url = f"http://127.0.0.1:{httpd.server_port}/file"
        threading.Thread(
            target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield httpd
        httpd.shutdown()


def files_in(folder):
    """Names of what a user sees there: the lock is a hidden file."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def remote(server, content=CONTENT, **kwargs):
    return Remote(server.url, hashlib.md5(content).hexdigest(), "set/file.bin", **kwargs)


def test_a_file_arrives_once_and_is_verified(tmp_path, server):
    for _ in range(2):
        assert fetch(remote(server), tmp_path) == tmp_path / "set/file.bin"
    assert (tmp_path / "set/file.bin").read_bytes() == CONTENT
    assert server.requests == [None]


@pytest.mark.parametrize("ranges", [True, False], ids=["continues", "sends all again"])
def test_a_cut_connection_is_taken_up_where_it_broke(tmp_path, server, ranges):
    server.cut, server.ranges = 100_000, ranges
    message = r"no connection to http.*Run again to go on from the 100,000 bytes"
    with pytest.raises(DataError, match=message):
        fetch(remote(server), tmp_path)
    assert not (tmp_path / "set/file.bin").exists()
    server.cut = None
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_all_bytes_but_not_yet_the_name_is_no_reason_to_ask_for_more(tmp_path, server):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin.part").write_bytes(CONTENT)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_not_taken_for_a_beginning(tmp_path, server):
    with pytest.raises(DataError, match=r"file\.bin\.wrong has MD5 .*, expected .*Run again"):
        fetch(remote(server, b"something else"), tmp_path)
    assert files_in(tmp_path / "set") == ["file.bin.wrong"]
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_offline_says_where_to_put_the_file(tmp_path, server):
    server.shutdown()
    server.server_close()
    message = r"without internet, download it elsewhere and put it at .*set/file\.bin\."
    with pytest.raises(DataError, match=message):
        fetch(remote(server), tmp_path)


def test_a_moved_address_is_reported(tmp_path, server):
    server.url += "-moved"
    with pytest.raises(DataError, match="answers 404 Not Found: the address may have moved"):
        fetch(remote(server), tmp_path)


def test_a_redirect_is_followed(tmp_path, server):
    server.url = server.url.replace("/file", "/redirect")
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False], ids=["continues", "sends all again"])
@pytest.mark.parametrize("how", ["chunks", "no length"])
def test_a_reply_of_unknown_length_that_is_cut_is_taken_up_or_told(tmp_path, server, how, ranges):
    server.chunks, server.length, server.ranges = how == "chunks", how == "chunks", ranges
    server.cut = 100_000
    # a cut reply without a length looks whole: only its checksum does not
    with pytest.raises(DataError, match=r"100,000 bytes"):
        fetch(remote(server), tmp_path)
    assert files_in(tmp_path / "set") == ["file.bin.part"]
    server.cut = None
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=100000-"]


def test_a_length_that_is_no_number_is_none(tmp_path, server):
    server.length = "many"
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_no_moved_address_and_what_has_arrived_is_kept(tmp_path, server, status):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin.part").write_bytes(CONTENT[:1000])
    server.status, server.headers = status, {"Retry-After": "30"}
    with pytest.raises(DataError, match=rf"answers {status} .*later, in 30 s.*1,000 bytes") as told:
        fetch(remote(server), tmp_path)
    assert "may have moved" not in str(told.value)
    server.status = 0
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT
    assert server.requests == ["bytes=1000-"] * 2


def test_a_part_that_is_too_long_is_not_taken_for_the_file(tmp_path, server):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin.part").write_bytes(CONTENT + b"more")
    with pytest.raises(DataError, match=r"300,004 bytes.*300,000.*another file.*Run again"):
        fetch(remote(server), tmp_path)
    assert fetch(remote(server), tmp_path).read_bytes() == CONTENT


def test_a_server_that_continues_elsewhere_is_not_believed(tmp_path, server):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.bin.part").write_bytes(CONTENT[:1000])
    server.shift = 500
    with pytest.raises(DataError, match="asked for bytes from 1,000, got them from 1,500"):
        fetch(remote(server), tmp_path)
    assert (tmp_path / "set/file.bin.part").read_bytes() == CONTENT[:1000]


def test_a_web_page_instead_of_the_file_is_called_so(tmp_path, server):
    server.content = b"<!DOCTYPE html><title>Log in</title>"
    with pytest.raises(DataError, match="a web page, not the file"):
        fetch(remote(server), tmp_path)


def test_downloads_of_one_file_at_once_fetch_it_once(tmp_path, server):
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: fetch(remote(server), tmp_path), range(4)))
    assert {file.read_bytes() for file in files} == {CONTENT}
    assert server.requests == [None]
    assert files_in(tmp_path / "set") == ["file.bin"]


def test_a_verified_file_is_never_touched_again(tmp_path, server):
    file = fetch(remote(server), tmp_path)
    before = file.stat().st_mtime_ns
    (tmp_path / "set/file.bin.part").write_bytes(b"of another program")
    assert fetch(remote(server), tmp_path) == file
    assert (file.stat().st_mtime_ns, file.read_bytes()) == (before, CONTENT)


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


def test_an_archive_is_unpacked_once(tmp_path, server):
    server.content = zipped("2750/Forest/Forest_1.jpg")
    # unpacking was stopped once
    (tmp_path / "set/file.bin.unpacking/2750/Forest").mkdir(parents=True)
    for _ in range(2):
        assert fetch(remote(server, server.content, inside="2750"), tmp_path).name == "2750"
    assert (tmp_path / "set/2750/Forest/Forest_1.jpg").read_text() == "x"
    assert len(server.requests) == 1
    assert files_in(tmp_path / "set") == ["2750", "file.bin"]
    with pytest.raises(DataError, match=r"file\.bin holds no 2751"):
        fetch(remote(server, server.content, inside="2751"), tmp_path)


def images_in(*folders, suffix=".jpg"):
    """A zip of one image a class, in the first of the folders, and of text in the others."""
    first, *others = folders
    names = [f"{first}/{name}/{name}_1{suffix}" for name in CLASSES]
    return zipped(*names, *(f"{other}/readme.txt" for other in others))


@pytest.mark.parametrize("inside", ["2750", "EuroSAT_RGB", "archive/EuroSAT", "."])
def test_an_archive_of_another_layout_is_unpacked_to_where_it_belongs(
    tmp_path, server, inside, monkeypatch
):
    for name in CLASSES:
        monkeypatch.setitem(EUROSAT_COUNTS, name, 1)
    server.content = images_in(inside, "__MACOSX")
    what = {"inside": "2750", "images": EUROSAT}
    folder = fetch(remote(server, server.content, **what), tmp_path)
    assert (folder / "River/River_1.jpg").is_file() and folder == tmp_path / "set/2750"
    assert fetch(remote(server, server.content, **what), tmp_path) == folder


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({}, None),
        ({"River/River_1.jpg": b"x"}, r"2750 is not whole: .*AnnualCrop is missing"),
        (
            {f"{name}/{name}_1.jpg": b"x" for name in CLASSES},
            r"2750 is not whole\. EuroSAT: 10 images.*officially 27,000.*Delete",
        ),
    ],
    ids=["empty", "a class", "one of each"],
)
def test_an_empty_or_partial_folder_is_never_called_ready(
    tmp_path, server, there, message, monkeypatch
):
    (tmp_path / "set/2750").mkdir(parents=True)
    for name, content in there.items():
        (tmp_path / "set/2750" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set/2750" / name).write_bytes(content)
    server.content = images_in("2750")
    what = remote(server, server.content, inside="2750", images=EUROSAT)
    with pytest.raises(DataError, match=message or "officially 27,000"):
        fetch(what, tmp_path)
    # an empty folder gives way; what lies in another one is nobody's to remove
    assert len(server.requests) == (0 if there else 1)


def test_a_zip_that_claims_too_much_is_not_unpacked(tmp_path, server):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("2750/zeros", bytes(10_000_000))
    server.content = buffer.getvalue()
    with pytest.raises(DataError, match="claims 10,000,000 bytes, 100 times its own"):
        fetch(remote(server, server.content, inside="2750"), tmp_path)
    assert files_in(tmp_path / "set") == ["file.bin"]


@pytest.mark.parametrize("at", ["data", "directory", "end"])
def test_a_zip_damaged_by_hand_leaves_no_folder(tmp_path, server, at):
    whole = bytearray(zipped("2750/Forest/Forest_1.jpg"))
    place = {"data": 30 + 24, "directory": whole.index(b"PK\1\2"), "end": len(whole) - 10}[at]
    whole[place] ^= 255
    server.content = bytes(whole)
    with pytest.raises(DataError, match=r"cannot be unpacked|holds no 2750"):
        fetch(remote(server, server.content, inside="2750"), tmp_path)
    assert not (tmp_path / "set/2750").exists()


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil-of-ood-satellite"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path, server, name):
    server.content = zipped("2750/good", name)
    fetch(remote(server, server.content, inside="2750"), tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"set/.file.bin.lock", "set/file.bin", "set/2750/good"}
    assert not Path("/tmp/evil-of-ood-satellite").exists()


def test_a_damaged_archive_is_reported(tmp_path, server):
    server.content = zipped("a" * 100)[:50]
    with pytest.raises(DataError, match=r"file\.bin cannot be unpacked .*delete it and run again"):
        fetch(remote(server, server.content, inside="2750"), tmp_path)


def test_every_address_is_pinned_with_a_checksum():
    for files in SETS.values():
        for file in files:
            assert file.url.startswith("https://") and len(file.md5) == 32


def test_the_command_fails_in_one_line(tmp_path, run_module, one_error_line, monkeypatch):
    # nobody listens there: offline, wherever this runs
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    done = run_module("src.data.download", "eurosat", "--data", tmp_path)
    assert "no connection to https://" in one_error_line(done)
