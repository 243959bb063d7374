"""Downloads from a server of our own: cut, wrong, gone, and archives that mean no good."""

import hashlib
import http.server
import io
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.data.download import SETS, Remote, fetch
from src.errors import DataError

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@pytest.fixture
def server():
    """A server on 127.0.0.1 with `.content`, which sends at most `.cut` bytes, with or without
    `.ranges`; `.requests` has the ranges asked for.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            httpd.requests.append(wanted)
            start = int(wanted[6:-1]) if wanted and httpd.ranges else 0
            if self.path != "/file" or (wanted and start >= len(httpd.content)):
                self.send_error(404 if self.path != "/file" else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(httpd.content) - start))
            self.end_headers()
            self.wfile.write(httpd.content[start:][: httpd.cut])

        def log_message(self, *_):
            return

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.content, httpd.cut, httpd.ranges, httpd.requests = CONTENT, None, True, []
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
