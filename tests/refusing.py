"""An S3 server that refuses some requests."""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

REFUSAL = b"<Error><Code>InvalidRequest</Code><Message>refused by a test</Message></Error>"
OF_A_CONNECTION = {"connection", "content-length", "date", "expect", "server", "transfer-encoding"}
"""Headers that are not passed on."""


class Refusing(ThreadingHTTPServer):
    """Stands in front of an S3 server.

    Args:
        endpoint: Of the server that answers what is not refused.
        pattern: What is refused: a regular expression of `METHOD /path?query`.
        times: How often that is refused.
    """

    def __init__(self, endpoint: str, pattern: str, times: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self._endpoint = endpoint
        self._pattern = pattern
        self._left = times

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve for the duration of the context; yield the endpoint."""
        with self:
            Thread(target=self.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{self.server_port}"
            self.shutdown()

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the answer to a request."""
        if self._left and re.search(self._pattern, f"{method} {path}"):
            self._left -= 1
            return 400, {}, REFUSAL
        url = f"{self._endpoint}{path}"
        request = urllib.request.Request(url, body or None, headers, method=method)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, dict(answer.headers), answer.read()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Refusing

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""

    def _respond(self) -> None:
        asked = {k: v for k, v in self.headers.items() if k.lower() not in OF_A_CONNECTION}
        status, headers, body = self.server.answer(self.command, self.path, asked, self._body())
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in OF_A_CONNECTION:
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else len(body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
