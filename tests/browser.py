"""A headless chromium that is moved and clicked like a person's, over its debugging pipe."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a headless chromium without network."""

    def __init__(self, folder: Path, page: Path, width: int = 1200, height: int = 800) -> None:
        # the browser reads commands from its descriptor 3 and answers on 4
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        options = f"--headless=new --no-sandbox --disable-gpu --window-size={width},{height}"
        offline = "--host-resolver-rules='MAP * ~NOTFOUND'"
        command = (
            f"exec {CHROMIUM} {options} {offline} --disable-dev-shm-usage"
            f" --user-data-dir={folder / 'profile'} --remote-debugging-pipe 3<&{read} 4>&{write}"
        )
        self._process = subprocess.Popen(
            ["bash", "-c", command], pass_fds=(read, write), stderr=subprocess.DEVNULL
        )
        os.close(read), os.close(write)
        self._numbers, self._rest, self._session = itertools.count(), b"", None
        target = self._call("Target.createTarget", url=page.resolve().as_uri())["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _call(self, method: str, **arguments) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 1 << 20)
            told, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(told)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, code: str):
        """The value of an expression of JavaScript."""
        answer = self._call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, code: str, seconds: float = 30):
        """Until an expression is true; its value."""
        until = time.monotonic() + seconds
        while not (value := self.run(code)):
            assert time.monotonic() < until, code
            time.sleep(0.05)
        return value

    def move(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1}
            self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))
