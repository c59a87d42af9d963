"""Google Cloud Storage in little, on this machine: what TensorFlow, tensorstore and Google's own client ask of it.

It keeps objects in memory and speaks the JSON API over HTTP. TensorFlow knows only the real addresses, by HTTPS: to it
the server is a proxy that answers in their name.
"""

import contextlib
import itertools
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme

BUCKET = "/storage/v1/b/[^/]+"
OBJECT = BUCKET + "/o/(?P<name>[^/]+)"
ROUTES = (
    ("GET", f"{BUCKET}(/storageLayout)?", "describe"),
    ("GET", f"{BUCKET}/o", "list"),
    ("GET", OBJECT, "look_up"),
    ("GET", "/[^/]+/(?P<name>.+)", "download"),  # TensorFlow reads by the XML API.
    ("DELETE", OBJECT, "delete"),
    ("POST", f"{OBJECT}/rewriteTo/b/[^/]+/o/(?P<to>[^/]+)", "copy"),
    ("POST", f"/upload{BUCKET}/o", "upload"),
    ("PUT", f"/upload{BUCKET}/o", "upload_in_session"),
)


class Object(NamedTuple):
    content: bytes
    generation: int


class FakeStorage(ThreadingHTTPServer):
    """Whatever bucket is asked for, it is the same one.

    Attributes:
      objects: what is in it, by name.
      not_understood: requests that it has no answer for.
      when_written: what is to be done once an object of that name is there.
      environment: variables that lead a program here.
    """

    daemon_threads = True

    def __init__(self, certificates: str):
        """`certificates` is a file to be written: of the authority that programs are to trust."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Object] = {}
        self.not_understood: list[str] = []
        self.when_written: dict[str, Callable[[], None]] = {}
        self.sessions: dict[str, str] = {}
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(certificates)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("www.googleapis.com", "storage.googleapis.com").configure_cert(self.tls)
        url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {
            "HTTPS_PROXY": url,
            "CURL_CA_BUNDLE": certificates,  # TensorFlow's
            "TENSORSTORE_GCS_HTTP_URL": url,
            "STORAGE_EMULATOR_HOST": url,  # google-cloud-storage's
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        }

    @contextlib.contextmanager
    def serving(self) -> Iterator["FakeStorage"]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        with self:
            yield self
            self.shutdown()


class _Refused(Exception):
    """A status of HTTP that is no success."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeStorage

    def do_CONNECT(self):
        """From here on it is the server that the client wanted to be connected with."""
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def answer(self):
        url = urlsplit(self.path)
        self.query, self.body = dict(parse_qsl(url.query)), self.receive()
        for method, pattern, action in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, url.path)):
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                with self.server.lock:
                    try:
                        answer = getattr(self, action)(**names)
                    except _Refused as refused:
                        answer = b"", refused.args[0], {}
                self.send(*answer)
                return
        self.server.not_understood.append(f"{self.command} {self.path}")
        self.send(b"", 400, {})

    do_GET = do_DELETE = do_POST = do_PUT = answer

    def receive(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def send(self, content: bytes, status: int, headers: dict[str, str]):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Keeps silent."""

    def describe(self):
        return _json({"name": "bucket", "location": "US"})

    def list(self):
        """All of it, in one page."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        items, folders = [], set()
        for name in sorted(self.server.objects):
            if name.startswith(prefix):
                head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if found:
                    folders.add(prefix + head + delimiter)
                else:
                    items.append(self.resource(name))
        return _json({"items": items, "prefixes": sorted(folders)})

    def look_up(self, name):
        if self.query.get("alt") == "media":
            return self.download(name)
        self.get(name)
        return _json(self.resource(name))

    def download(self, name):
        content, generation = self.get(name)
        headers = {"X-Goog-Generation": str(generation)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return content, 200, headers
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if first > last:
            raise _Refused(416)
        return content[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}

    def delete(self, name):
        self.get(name)
        del self.server.objects[name]
        return b"", 204, {}

    def copy(self, name, to):
        return _json({"done": True, "resource": self.put(to, self.get(name).content)})

    def upload(self):
        if self.query["uploadType"] == "media":
            return _json(self.put(self.query["name"], self.body))
        session = str(next(self.server.numbers))
        self.server.sessions[session] = self.query["name"]
        return b"", 200, {"Location": f"https://{self.headers['Host']}{urlsplit(self.path).path}?upload_id={session}"}

    def upload_in_session(self):
        """TensorFlow sends a file at once."""
        if not re.fullmatch(rf"bytes (0-\d+|\*)/{len(self.body)}", self.headers["Content-Range"]):
            raise _Refused(501)
        return _json(self.put(self.server.sessions[self.query["upload_id"]], self.body))

    def get(self, name: str) -> Object:
        if name not in self.server.objects:
            raise _Refused(404)
        if self.query.get("ifGenerationNotMatch") == str(self.server.objects[name].generation):
            raise _Refused(304)
        return self.server.objects[name]

    def put(self, name: str, content: bytes) -> dict:
        """Writes an object, if nobody has done so before; returns its resource."""
        there = self.server.objects.get(name, Object(b"", 0))
        if self.query.get("ifGenerationMatch", str(there.generation)) != str(there.generation):
            raise _Refused(412)
        self.server.objects[name] = Object(content, next(self.server.numbers))
        self.server.when_written.pop(name, lambda: None)()
        return self.resource(name)

    def resource(self, name: str) -> dict:
        content, generation = self.server.objects[name]
        updated = "2026-01-01T00:00:00.000Z"
        return {"name": name, "size": str(len(content)), "generation": str(generation), "updated": updated}


def _json(values: dict) -> tuple[bytes, int, dict]:
    return json.dumps(values).encode(), 200, {"Content-Type": "application/json"}
