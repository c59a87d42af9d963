"""A local server that emulates Google Cloud Storage, as far as TensorFlow, tensorstore and Google's client use it.

It keeps objects in memory and speaks the JSON API over HTTP. TensorFlow connects only to the real addresses, by HTTPS.
For TensorFlow, the server is a proxy that answers in place of those addresses.
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
    ("GET", "/[^/]+/(?P<name>.+)", "download"),  # TensorFlow reads through the XML API.
    ("DELETE", OBJECT, "delete"),
    ("POST", f"{OBJECT}/rewriteTo/b/[^/]+/o/(?P<to>[^/]+)", "copy"),
    ("POST", f"/upload{BUCKET}/o", "upload"),
    ("PUT", f"/upload{BUCKET}/o", "upload_in_session"),
)


class Object(NamedTuple):
    content: bytes
    generation: int


class FakeStorage(ThreadingHTTPServer):
    """An HTTP server with a single bucket, which stands for buckets of all names.

    Attributes:
      objects: the objects in the bucket, by name.
      unsupported_requests: requests that the server could not answer.
      on_write: functions by object name; each is called once, after the object has been written.
      environment: environment variables that make a program use this server.
    """

    daemon_threads = True

    def __init__(self, certificates: str):
        """Start listening on a free port.

        Args:
          certificates: a file to write, with the certificate of the authority that programs must trust.
        """
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, Object] = {}
        self.unsupported_requests: list[str] = []
        self.on_write: dict[str, Callable[[], None]] = {}
        self.sessions: dict[str, str] = {}  # names of objects, by the id of their upload session
        self.numbers = itertools.count(1)  # generations and session ids
        self.lock = threading.Lock()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(certificates)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("www.googleapis.com", "storage.googleapis.com").configure_cert(self.tls)
        url = f"http://127.0.0.1:{self.server_port}"
        self.environment = {
            "HTTPS_PROXY": url,
            "CURL_CA_BUNDLE": certificates,  # read by TensorFlow
            "TENSORSTORE_GCS_HTTP_URL": url,
            "STORAGE_EMULATOR_HOST": url,  # read by google-cloud-storage
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
        }

    @contextlib.contextmanager
    def serving(self) -> Iterator["FakeStorage"]:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        with self:
            yield self
            self.shutdown()


class _HttpError(Exception):
    """Ends a request with an HTTP error status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeStorage

    def do_CONNECT(self):
        """Accept a proxy request, and answer on this connection as the server that the client wants to reach."""
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)

    def finish(self):
        """Close the TLS connection too, because the server knows only the connection that TLS has wrapped."""
        super().finish()
        self.connection.close()

    def answer(self):
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.body = self.receive()
        for method, pattern, action in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, url.path)):
                names = {key: unquote(value) for key, value in match.groupdict().items()}
                with self.server.lock:
                    try:
                        answer = getattr(self, action)(**names)
                    except _HttpError as error:
                        answer = b"", error.status, {}
                self.send(*answer)
                return
        self.server.unsupported_requests.append(f"{self.command} {self.path}")
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
        """Do not log requests."""

    def describe(self):
        return _json({"name": "bucket", "location": "US"})

    def list(self):
        """Return all matching objects in one page."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        items, folders = [], set()
        for name in sorted(self.server.objects):
            if name.startswith(prefix):
                relative_name = name[len(prefix) :]
                if delimiter and delimiter in relative_name:
                    folders.add(prefix + relative_name.partition(delimiter)[0] + delimiter)
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
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not byte_range:
            return content, 200, headers
        first = int(byte_range[1])
        last = min(int(byte_range[2] or len(content)), len(content) - 1)
        if first > last:
            raise _HttpError(416)
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
        """Take the whole object: TensorFlow sends a file in one request."""
        if not re.fullmatch(rf"bytes (0-\d+|\*)/{len(self.body)}", self.headers["Content-Range"]):
            raise _HttpError(501)
        return _json(self.put(self.server.sessions[self.query["upload_id"]], self.body))

    def get(self, name: str) -> Object:
        if name not in self.server.objects:
            raise _HttpError(404)
        if self.query.get("ifGenerationNotMatch") == str(self.server.objects[name].generation):
            raise _HttpError(304)
        return self.server.objects[name]

    def put(self, name: str, content: bytes) -> dict:
        """Write an object, unless the client expects another generation of it, and return its resource."""
        generation = str(self.server.objects[name].generation if name in self.server.objects else 0)
        if self.query.get("ifGenerationMatch", generation) != generation:
            raise _HttpError(412)
        self.server.objects[name] = Object(content, next(self.server.numbers))
        if name in self.server.on_write:
            self.server.on_write.pop(name)()
        return self.resource(name)

    def resource(self, name: str) -> dict:
        content, generation = self.server.objects[name]
        updated = "2026-01-01T00:00:00.000Z"
        return {"name": name, "size": str(len(content)), "generation": str(generation), "updated": updated}


def _json(values: dict) -> tuple[bytes, int, dict]:
    return json.dumps(values).encode(), 200, {"Content-Type": "application/json"}
