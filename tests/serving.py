"""A web server for tests: it serves a folder on loopback, in ranges, notes what is asked, and fails as it is told."""

import http.server
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

STALL, DIE, CRAWL = "never answers", "breaks off in the middle", "sends a byte now and then"


class Server(http.server.ThreadingHTTPServer):
    """`faults` are what to do first with a file, by name or path: the above, or a status; the last is repeated."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.sent: Counter[str] = Counter()  # bytes by name
        self.asked: Counter[str] = Counter()  # by name; "NAME whole" where no range was asked for
        self.faults: dict[str, list[int | str | None]] = {}
        self.ranges = True
        self.lists = False
        self.token = ""  # that every request has to bring, if it is not empty
        self.delay_s = 0.0
        self.ended = threading.Event()

    def fault(self, path: Path) -> int | str | None:
        faults = self.faults.get(str(path.relative_to(self.folder)), self.faults.get(path.name, [None]))
        return faults.pop(0) if len(faults) > 1 else faults[0]

    def handle_error(self, *_: object) -> None:
        """A client that has left is none of a server's errors."""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer that is short takes 40 ms

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        place, _, query = urlsplit(self.path)._replace(scheme="", netloc="").geturl().partition("?")
        path = self.server.folder / place.strip("/")
        asked = self.headers.get("Range")
        self.server.asked[f"{path.name} whole" if asked is None else path.name] += 1
        time.sleep(self.server.delay_s)
        fault = self.server.fault(path)
        if self.server.token and query != f"token={self.server.token}":
            self.reply(403, b"")
        elif isinstance(fault, int):
            self.reply(fault, b"")
        elif fault == STALL:
            self.server.ended.wait()
            self.close_connection = True
        elif path.is_file():
            self.server.sent[path.name] += self.file(path.read_bytes(), asked, fault)
        elif path.is_dir() and self.server.lists:
            names = [item.name + "/" * item.is_dir() for item in path.iterdir()]
            page = "".join(f'<a href="{name}">{name}</a>' for name in ["../", *names])
            self.reply(200, page.encode(), {"Content-Type": "text/html"})
        else:
            self.reply(404, b"")

    def file(self, data: bytes, asked: str | None, fault: str | None) -> int:
        if asked is None or not self.server.ranges:
            self.reply(200, data, fault=fault)
            return len(data)
        first, last = asked.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1 if last else len(data)]
        if not part:
            self.reply(416, b"")
        else:
            span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            self.reply(206, part, {"Content-Range": span}, fault=fault)
        return len(part)

    def reply(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, *, fault: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == DIE:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == CRAWL:
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                if self.server.ended.wait(0.05):
                    return
        else:
            self.wfile.write(data)
