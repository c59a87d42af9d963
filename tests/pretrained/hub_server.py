"""A server on loopback that speaks the protocol of the Hugging Face hub, as far as `hf_hub_download` needs it."""

import dataclasses
import hashlib
import http.server
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclasses.dataclass
class File:
    """A file of a repository.

    Attributes:
      content: what is sent.
      size, sha256: what the server states; by default, those of the content.
    """

    content: bytes
    size: int = -1
    sha256: str = ""

    def __post_init__(self):
        self.size = len(self.content) if self.size < 0 else self.size
        self.sha256 = self.sha256 or hashlib.sha256(self.content).hexdigest()


class HubServer:
    """Serves files at /{owner}/{name}/resolve/main/{file} while the context is entered.

    Attributes:
      repositories: the files by name, by the name of the repository.
      requests: the method and path of each request.
      endpoint: the value for HF_ENDPOINT.
    """

    def __init__(self, repositories: dict[str, dict[str, File]]):
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(with_content=False)

            def do_GET(self):
                self.answer(with_content=True)

            def answer(self, with_content):
                hub.requests.append((self.command, self.path))
                repository, separator, name = self.path.lstrip("/").partition("/resolve/main/")
                files = hub.repositories.get(repository)
                if not separator or files is None or name not in files:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "RepoNotFound" if files is None else "EntryNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                file = files[name]
                self.send_response(200)
                self.send_header("ETag", f'"{file.sha256}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(file.content) if with_content else file.size))
                self.end_headers()
                if with_content:
                    self.wfile.write(file.content)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
