"""A W&B server in this process, as far as the client asks it: it keeps runs and their history.

GraphQL at `/graphql` (by the operation's name), the stream of a run's history at
`/files/ENTITY/PROJECT/RUN/file_stream`, and the upload of files. Where a client's request says
where its lines go, they replace those that stand there, as on the real server. `wandb.Api` reads
the runs of a project in pages.
"""

import base64
import gzip
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"
API_KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass
class RecordedArtifact:
    """What the server knows of an artifact."""

    name: str
    type: str
    run: str
    files: list[str] = field(default_factory=list)
    """Names of those that were uploaded, under `/upload/artifact-NUMBER/`."""
    committed: bool = False


@dataclass
class RecordedRun:
    """What the server knows of a run."""

    project: str
    name: str
    display_name: str = ""
    job_type: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    """Lines of the streamed files, such as `wandb-history.jsonl`."""
    exit_codes: list[int] = field(default_factory=list)
    """One for each time that the run was ended."""
    preempting: bool = False
    """Whether the client said so since the run was last opened."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """What was logged, in order."""
        return [json.loads(line) for line in self.files.get("wandb-history.jsonl", [])]

    @property
    def steps(self) -> list[int]:
        """The steps of the history."""
        return [row["_step"] for row in self.history]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary as it was sent last."""
        lines = self.files.get("wandb-summary.json", [])
        return json.loads(lines[-1]) if lines else {}

    @property
    def state(self) -> str:
        """The state that the site would show."""
        if not self.exit_codes:
            return "running"
        if self.exit_codes[-1] == 0:
            return "finished"
        return "preempted" if self.preempting else "failed"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wandb: "WandbServer"
    """Whom the requests are for."""

    def do_GET(self) -> None:
        if not self._kept_waiting():
            self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self._kept_waiting():
            return
        if not self.wandb.allows(self.headers["Authorization"]):
            self._reply({"errors": [{"message": "user is not logged in"}]}, 401)
        elif self.path.endswith("/file_stream"):
            self.wandb.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({"limits": {}})
        else:
            self._reply({"data": self.wandb.answer(json.loads(body))})

    def do_PUT(self) -> None:
        self.wandb.uploads[self.path.removeprefix("/upload/")] = self._body()
        self._reply({})

    def log_message(self, *unused: object) -> None:
        """Say nothing."""

    def _kept_waiting(self) -> bool:
        """Say nothing for long where the server is silent, and hang up."""
        if not self.wandb.silent.is_set():
            return False
        self.wandb.closing.wait(60)
        self.close_connection = True
        return True

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        return gzip.decompress(data) if zipped else data

    def _reply(self, answer: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *unused: object) -> None:
        """Say nothing: clients hang up as they like."""


class WandbServer:
    """Listens on a free port of this machine; a context manager."""

    def __init__(self, api_key: str = API_KEY) -> None:
        self.api_key = api_key
        self.runs: dict[str, RecordedRun] = {}
        """By name, which is the id that the client gave."""
        self.artifacts: list[RecordedArtifact] = []
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        """Names of the GraphQL operations, in the order of the requests."""
        self.silent = threading.Event()
        """Set: requests are accepted and never answered, until it is closed."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"wandb": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def environment(self, **others: str) -> dict[str, str]:
        """The variables that let a client find this server."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.api_key,
            "WANDB_MODE": "online",
        } | others

    def __enter__(self) -> "WandbServer":
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def allows(self, header: str | None) -> bool:
        _, _, secret = base64.b64decode((header or "").removeprefix("Basic ")).partition(b":")
        return secret.decode() == self.api_key

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        # The client that reads leaves it to the query to name the operation.
        name = (
            request["operationName"] or re.search(r"(?:query|mutation) (\w+)", request["query"])[1]
        )
        variables = request.get("variables") or {}
        answer = {
            "Viewer": self._viewer,
            "UpsertBucket": self._upsert,
            "GetDefaultEntity": self._viewer,
            "Runs": self._page_of_runs,
            "ArtifactType": self._artifact_type,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._create_manifest,
            "CreateArtifactFiles": self._create_artifact_files,
            "CommitArtifact": self._commit_artifact,
            "RunResumeStatus": self._resume_status,
            "CreateRunFiles": self._create_files,
        }.get(name)
        with self._lock:
            self.operations.append(name)
            return answer(variables) if answer else {}

    def _viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {
                "id": "1",
                "entity": ENTITY,
                "username": ENTITY,
                "email": "tester@localhost",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, RecordedRun(given["project"], name))
        run.display_name = given.get("displayName") or run.display_name or name
        run.job_type = given.get("jobType") or run.job_type
        run.group = given.get("groupName") or run.group
        run.tags = given.get("tags") or run.tags
        if given.get("config"):
            run.config = json.loads(given["config"])
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: RecordedRun) -> dict[str, Any]:
        owner = {"id": "1", "name": ENTITY}
        return {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.display_name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": "",
            "project": {"id": "2", "name": run.project, "entity": owner},
            "historyLineCount": len(run.history),
        }

    def add_run(
        self,
        project: str,
        name: str,
        config: dict[str, Any],
        summary: dict[str, Any],
        *,
        exit_codes: Sequence[int] = (0,),
        tags: Sequence[str] = (),
    ) -> None:
        """Have a run of some other program; `name` is what the site shows, its id is another."""
        run = RecordedRun(project, f"id{len(self.runs)}", name, tags=list(tags))
        run.config = {key: {"value": value} for key, value in config.items()}
        run.files["wandb-summary.json"] = [json.dumps(summary)]
        run.exit_codes = list(exit_codes)
        self.runs[run.name] = run

    def _page_of_runs(self, given: dict[str, Any]) -> dict[str, Any]:
        known = [run for run in self.runs.values() if run.project == given["project"]]
        if given["entity"] != ENTITY or not known:
            return {"project": None}
        start = int(given.get("cursor") or 0)
        page = known[start : start + given["perPage"]]
        edges = [
            {"node": self._listed(run), "cursor": str(number)}
            for number, run in enumerate(page, start + 1)
        ]
        ends = {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(known)}
        runs = {"edges": edges, "pageInfo": ends}
        return {
            "project": {"internalId": "2", "runCount": len(known), "readOnly": False, "runs": runs}
        }

    def _listed(self, run: RecordedRun) -> dict[str, Any]:
        return self._bucket(run) | {
            "projectId": "2",
            "tags": run.tags,
            "state": run.state,
            "group": run.group,
            "jobType": run.job_type,
            "commit": None,
            "readOnly": False,
            "createdAt": "2023-06-01T12:00:00Z",
            "heartbeatAt": "2023-06-01T12:00:00Z",
            "notes": "",
            "systemMetrics": "{}",
            "summaryMetrics": json.dumps(run.summary),
            "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": None,
        }

    def _artifact_type(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"].partition(":")[0]
        known = next(({"name": a.type} for a in self.artifacts if a.name == name), None)
        return {"project": {"artifact": known and {"artifactType": known}}}

    def _create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        asked = given["input"]
        names = (asked["artifactCollectionName"], asked["artifactTypeName"], asked["runName"])
        self.artifacts.append(RecordedArtifact(*names))
        number = len(self.artifacts) - 1
        sequence = {"latestArtifact": None}
        artifact = {"id": f"artifact-{number}", "state": "PENDING", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _create_manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/upload/{given['artifactID']}/{given['name']}"
        file = {"id": "file", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "manifest", "file": file}}}

    def _create_artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in given["input"]["artifactFiles"]:
            number = file["artifactID"]
            self._artifact(number).files.append(file["name"])
            url = f"{self.url}/upload/{number}/{file['name']}"
            node = {"uploadUrl": url, "uploadHeaders": [], "artifact": {"id": number}}
            edges.append({"node": node | {"storagePath": None, "uploadMultipartUrls": None}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self._artifact(given["artifactID"]).committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "0" * 32}}}

    def _artifact(self, number: str) -> RecordedArtifact:
        return self.artifacts[int(number.removeprefix("artifact-"))]

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        bucket = run and self._bucket(run) | {
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "eventsLineCount": 0,
            "historyTail": json.dumps(run.files.get("wandb-history.jsonl", [])[-1:]),
            "eventsTail": "[]",
            "tags": run.tags,
            "notes": "",
            "wandbConfig": json.dumps({"t": 1}),
        }
        owner = {"id": "1", "name": ENTITY}
        model = {"id": "2", "name": given["project"], "entity": owner, "bucket": bucket}
        return {"model": model}

    def _create_files(self, given: dict[str, Any]) -> dict[str, Any]:
        place = f"{self.url}/upload/{given['run']}"
        files = [{"name": name, "uploadUrl": f"{place}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def stream(self, name: str, sent: dict[str, Any]) -> None:
        with self._lock:
            run = self.runs[name]
            for file, lines in (sent.get("files") or {}).items():
                kept = run.files.setdefault(file, [])
                end = lines["offset"] + len(lines["content"])
                kept[lines["offset"] : end] = lines["content"]
            run.preempting |= bool(sent.get("preempting"))
            if sent.get("complete"):
                run.exit_codes.append(sent["exitcode"])
