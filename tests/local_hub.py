"""A stand-in for the Hugging Face Hub on 127.0.0.1: what its client asks when it makes, fills and
downloads a repository.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Repos = dict[str, dict[str, bytes]]


@contextmanager
def local_hub(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """Within it, its address, and a list that gets "METHOD path" of each request; repos is {id:
    {file name: content}}.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            asked.append(f"{self.command} {path}")
            parts = path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repo = "/".join(parts[2:4])
                if repo not in repos:
                    self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
                elif "tree" in parts:
                    self.answer(
                        json.dumps(
                            [tree_entry(name, content) for name, content in repos[repo].items()]
                        ).encode()
                    )
                else:
                    self.answer(json.dumps(about(repo, repos[repo])).encode())
            elif (
                len(parts) == 5
                and parts[2] == "resolve"
                and parts[4] in repos.get("/".join(parts[:2]), {})
            ):
                content = repos["/".join(parts[:2])][parts[4]]
                self.answer(
                    content,
                    200,
                    {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT},
                )
            else:
                self.answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})

        def do_POST(self) -> None:
            path = urlsplit(self.path).path
            asked.append(f"POST {path}")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if path == "/api/repos/create":
                wanted = json.loads(body)
                repo = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
                repos[repo] = {}
                self.answer(
                    json.dumps({"url": f"{address}/{repo}", "name": repo, "id": "1"}).encode()
                )
            elif path == "/api/validate-yaml":
                self.answer(b'{"errors": [], "warnings": []}')
            elif "/preupload/" in path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self.answer(json.dumps({"files": files}).encode())
            elif "/commit/" in path:
                repo = "/".join(path.strip("/").split("/")[2:4])
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        repos[repo][line["value"]["path"]] = base64.b64decode(
                            line["value"]["content"]
                        )
                self.answer(
                    json.dumps(
                        {"commitUrl": f"{address}/{repo}/commit/{COMMIT}", "commitOid": COMMIT}
                    ).encode()
                )
            else:
                self.answer(b"{}", 404)

        def answer(
            self, content: bytes, status: int = 200, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (
                {"Content-Type": "application/json", "Content-Length": str(len(content))}
                | (headers or {})
            ).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, asked
    finally:
        server.shutdown()
        server.server_close()


def tree_entry(name: str, content: bytes) -> dict[str, object]:
    return {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }


def about(repo: str, files: dict[str, bytes]) -> dict[str, object]:
    names = [{"rfilename": name} for name in files]
    return {
        "id": repo,
        "modelId": repo,
        "sha": COMMIT,
        "private": False,
        "tags": [],
        "downloads": 0,
        "siblings": names,
    }
