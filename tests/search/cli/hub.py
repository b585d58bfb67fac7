"""A Hub on this machine that has one config.json, for tests of commands that read a teacher's."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def local_hub(model: str, config: dict[str, Any]) -> Iterator[str]:
    """Serves the config.json of a model until the block ends, and yields the address of the Hub."""
    content = json.dumps(config).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, *, with_content: bool) -> None:
            is_there = self.path == f"/{model}/resolve/main/config.json"
            body = content if is_there else b""
            self.send_response(200 if is_there else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"0123456789abcdef"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if with_content:
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
