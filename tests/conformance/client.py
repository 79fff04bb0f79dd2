#!/usr/bin/env python3
"""A FetchBox client written from docs/protocol.md and proto/ alone.

    python client.py /path/to/fetchbox

Starts the daemon with a temporary data directory and an origin on loopback, talks to the native socket with nothing but the
standard library and protobuf, and to gRPC with grpcio. Prints one line per case and "N passed, N failed"; exits 1 on a failure.
"""

import contextlib
import gzip
import hashlib
import http.server
import importlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
FRAME_BYTES_MAX = 8 * 1024 * 1024
CASES = []


def case(function):
    CASES.append(function)
    return function


def generate(folder):
    """Python code from the protos, as any client author would make it."""
    from grpc_tools import protoc

    files = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "fetchbox").rglob("*.proto"))
    out = [f"-I{PROTO}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    if protoc.main(["protoc", *out, *files]) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, str(folder))
    names = ("model", "job", "ledger", "ipc")
    return {name: importlib.import_module(f"fetchbox.v1.{name}_pb2") for name in names} | {
        f"{name}_grpc": importlib.import_module(f"fetchbox.v1.{name}_pb2_grpc") for name in ("job", "ledger")
    }


# ---- an origin ----


def body_of(path):
    return hashlib.sha256(path.encode()).digest() * 100


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hits = {}
    lock = threading.Lock()

    def do_GET(self):
        with self.lock:
            hit = self.hits[self.path] = self.hits.get(self.path, 0) + 1
        status, body = 200, body_of(self.path)
        if self.path.startswith("/missing"):
            status, body = 404, b"gone"
        elif self.path.startswith("/flaky") and hit == 1:
            status, body = 500, b"not now"
        elif self.path.startswith("/slow"):
            time.sleep(0.5)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


# ---- the native socket ----


class Closed(Exception):
    """The daemon closed the connection."""


class Ipc:
    def __init__(self, world):
        self.pb = world.pb
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(world.data / "run" / "fetchbox.sock"))
        self.next_id = 1
        self.kept = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send_raw(self, data):
        self.socket.sendall(data)

    def send_frame(self, body):
        self.send_raw(struct.pack(">I", len(body)) + body)

    def send(self, **body):
        request = self.pb["ipc"].IpcRequest(version=1, request_id=self.next_id, **body)
        self.next_id += 1
        self.send_frame(request.SerializeToString())
        return request.request_id

    def exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                piece = self.socket.recv(count - len(data))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed()
            data += piece
        return data

    def receive(self):
        (length,) = struct.unpack(">I", self.exactly(4))
        assert 0 < length <= FRAME_BYTES_MAX, length
        return self.pb["ipc"].IpcResponse.FromString(self.exactly(length))

    def answer_to(self, request_id):
        while request_id not in self.kept:
            response = self.receive()
            self.kept[response.request_id] = response
        return self.kept.pop(request_id)

    def ask(self, **body):
        return self.answer_to(self.send(**body))

    def error(self, **body):
        response = self.ask(**body)
        assert response.WhichOneof("body") == "error", response
        return response.error

    def closed(self):
        """Reads until the daemon hangs up; true when it does."""
        try:
            while True:
                self.receive()
        except Closed:
            return True


class World:
    """The daemon, the origin, and ways to both."""

    def __init__(self, binary, folder, pb):
        self.pb = pb
        self.folder = folder
        self.data = folder / "d"
        self.origin = Server(("127.0.0.1", 0), Origin)
        threading.Thread(target=self.origin.serve_forever, daemon=True).start()
        config = folder / "fetchbox.yml"
        config.write_text(
            f"data_dir: {self.data}\n"
            "listen:\n  grpc_tcp: 127.0.0.1:0\n  http: 127.0.0.1:0\n"
            "worker:\n  allow_networks: [127.0.0.0/8]\n"
            "handlers:\n  outside:\n    external: true\n"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FETCHBOX")}
        command = [str(binary), "serve", "--config", str(config)]
        self.daemon = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=open(folder / "daemon.log", "wb"), env=environment
        )
        line = self.daemon.stdout.readline().decode()
        if not line:
            raise SystemExit("the daemon did not start:\n" + (folder / "daemon.log").read_text())
        print(line.strip(), flush=True)

    def url(self, path):
        return f"http://127.0.0.1:{self.origin.server_address[1]}{path}"

    def ipc(self):
        return Ipc(self)

    def manifest(self, paths, **more):
        resources = [{"id": f"r{at}", "url": self.url(path)} for at, path in enumerate(paths)]
        return {"manifest_version": "v1", "metadata": {"from": "python"}, "resources": resources} | more

    def submit(self, manifest, **more):
        document = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        return self.pb["job"].SubmitJobRequest(manifest_json=document, **more)

    def get(self, job_id):
        return self.pb["job"].GetJobRequest(job_id=job_id)

    def accepted(self, ipc, request):
        response = ipc.ask(submit=request)
        assert response.WhichOneof("body") == "submit", response
        return response.submit

    def until_terminal(self, ipc, job_id):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job = ipc.ask(get_job=self.get(job_id)).job
            if job.state >= self.pb["model"].JOB_STATE_PARTIAL:
                return job
            time.sleep(0.05)
        raise AssertionError(f"{job_id} did not end")

    def grpc(self):
        import grpc

        # grpcio would name the socket's path as the authority, which HTTP/2 servers refuse.
        options = [("grpc.default_authority", "localhost")]
        return grpc.insecure_channel(f"unix:{self.data / 'run' / 'grpc.sock'}", options=options)

    @contextlib.contextmanager
    def services(self):
        with self.grpc() as channel:
            yield self.pb["job_grpc"].JobServiceStub(channel), self.pb["ledger_grpc"].LedgerServiceStub(channel)


def paths_of(error):
    return {field.path for field in error.fields}


# ---- the native socket: what works ----


@case
def ping_is_answered_with_credits(world):
    with world.ipc() as ipc:
        response = ipc.ask(ping=world.pb["ipc"].Ping())
        assert response.WhichOneof("body") == "pong", response
        assert response.pong.serving and response.pong.version and response.pong.timestamp_ms > 1_600_000_000_000
        assert response.credits > 0


@case
def a_job_is_submitted_polled_to_its_end_and_its_objects_are_right(world):
    with world.ipc() as ipc:
        paths = ["/a", "/b", "/missing", "/flaky"]
        accepted = world.accepted(ipc, world.submit(world.manifest(paths)))
        assert uuid.UUID(accepted.job_id).version == 7
        assert (accepted.resource_count, accepted.duplicate) == (4, False)
        job = world.until_terminal(ipc, accepted.job_id)
        assert job.state == world.pb["model"].JOB_STATE_PARTIAL, job
        assert (job.resources_total, job.resources_completed, job.resources_failed) == (4, 3, 1), job
        assert job.last_error.code == "DOWNLOAD_NOT_FOUND", job.last_error
        assert job.last_error.resource_id == "r2" and job.errors
    objects = world.data / "objects" / "fetchbox"
    for at, path in enumerate(paths):
        stored = objects / "resources" / "default" / accepted.job_id / f"r{at}"
        if path == "/missing":
            assert not stored.exists()
        else:
            assert stored.read_bytes() == body_of(path), path
    kept = json.loads((objects / accepted.manifest_key).read_text())
    assert kept["metadata"] == {"from": "python"} and len(kept["resources"]) == 4


@case
def json_gzip_and_protobuf_of_one_manifest_are_the_same_job(world):
    manifest = world.manifest(["/same"])
    model, job = world.pb["model"], world.pb["job"]
    fields = model.Manifest(
        manifest_version="v1",
        metadata_json=json.dumps(manifest["metadata"]).encode(),
        resources=[model.Resource(id="r0", url=world.url("/same"))],
    )
    reordered = json.dumps(dict(reversed(manifest.items())), indent=1).encode()
    document = json.dumps(manifest).encode()
    key = {"idempotency_key": "one-key"}
    with world.ipc() as ipc:
        first = world.accepted(ipc, job.SubmitJobRequest(manifest_json=document, **key))
        assert not first.duplicate
        for same in (
            job.SubmitJobRequest(manifest_json=document, **key),
            job.SubmitJobRequest(manifest_json=reordered, **key),
            job.SubmitJobRequest(manifest_json_gzip=gzip.compress(document), **key),
            job.SubmitJobRequest(manifest=fields, **key),
            job.SubmitJobRequest(manifest=fields, priority=model.PRIORITY_HIGH, trace_parent="", **key),
        ):
            again = world.accepted(ipc, same)
            assert again.duplicate and again.job_id == first.job_id, again


@case
def sixty_four_requests_in_flight_are_all_answered(world):
    with world.ipc() as ipc:
        sent = {ipc.send(submit=world.submit(world.manifest([f"/many{at}"]))) for at in range(64)}
        jobs = set()
        while sent:
            response = ipc.receive()
            assert response.WhichOneof("body") == "submit" and response.credits > 0, response
            sent.remove(response.request_id)
            jobs.add(response.submit.job_id)
        assert len(jobs) == 64


@case
def a_header_list_a_header_object_and_the_alias_name_are_understood(world):
    resources = [
        {"name": "alias", "url": world.url("/x"), "headers": {"X-A": "1"}},
        {"id": "list", "url": world.url("/y"), "headers": [{"name": "X-B", "value": "2"}]},
    ]
    with world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest([]) | {"resources": resources}))
        assert accepted.resource_count == 2


@case
def lines_are_appended_and_an_external_job_is_moved(world):
    ledger, model = world.pb["ledger"], world.pb["model"]
    with world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest([]), job_type="outside"))
        records = [model.LogRecord(level=model.LOG_LEVEL_WARN, message=f"line {at}") for at in range(3)]
        first = ipc.ask(append_logs=ledger.AppendLogsRequest(job_id=accepted.job_id, records=records)).append_logs
        then = ipc.ask(append_logs=ledger.AppendLogsRequest(job_id=accepted.job_id, records=records)).append_logs
        assert first.count == then.count == 3 and then.first_offset == first.first_offset + 3, (first, then)
        job = ipc.ask(get_job=world.get(accepted.job_id)).job

        def move(state, revision=0):
            status = model.JobStatus(job_id=accepted.job_id, state=state, phase="outside")
            return ipc.ask(update_status=ledger.UpdateJobStatusRequest(status=status, expected_revision=revision))

        assert move(model.JOB_STATE_IN_PROGRESS, job.revision).ack.revision > job.revision
        assert move(model.JOB_STATE_COMPLETED, job.revision).error.code == "STALE_REVISION"
        assert move(model.JOB_STATE_COMPLETED).ack.revision > job.revision
        assert move(model.JOB_STATE_IN_PROGRESS).error.code == "ILLEGAL_STATE"


# ---- the native socket: bad input ----


@case
def a_zero_length_frame_is_answered_once_then_the_connection_closes(world):
    with world.ipc() as ipc:
        ipc.send_raw(b"\0\0\0\0")
        response = ipc.receive()
        assert response.request_id == 0 and response.error.code == "INVALID_PAYLOAD", response
        assert ipc.closed()


@case
def an_oversized_frame_is_refused_before_its_body(world):
    for length in (FRAME_BYTES_MAX + 1, 0xFFFFFFFF):
        with world.ipc() as ipc:
            ipc.send_raw(struct.pack(">I", length))
            response = ipc.receive()
            assert response.request_id == 0 and response.error.code == "PAYLOAD_TOO_LARGE", response
            assert ipc.closed()


@case
def a_truncated_frame_stores_nothing_and_hurts_nobody(world):
    request = world.pb["ipc"].IpcRequest(
        version=1, request_id=1, submit=world.submit(world.manifest(["/never"]), idempotency_key="truncated")
    ).SerializeToString()
    for cut in (0, 2, len(request) // 2, len(request) - 1):
        with world.ipc() as ipc:
            ipc.send_raw((struct.pack(">I", len(request)) + request)[: 4 + cut if cut else 3])
            ipc.socket.shutdown(socket.SHUT_WR)
            assert ipc.closed()
    with world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest(["/other"]), idempotency_key="truncated"))
        assert not accepted.duplicate


@case
def a_garbage_body_is_an_error_and_the_connection_goes_on(world):
    with world.ipc() as ipc:
        for garbage in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"{}", os.urandom(3) + b"\xff\xff"):
            ipc.send_frame(garbage)
            response = ipc.receive()
            assert response.error.code == "INVALID_PAYLOAD", (garbage, response)
        assert ipc.ask(ping=world.pb["ipc"].Ping()).pong.serving


@case
def an_unknown_version_and_request_id_zero_are_refused(world):
    message = world.pb["ipc"].IpcRequest
    with world.ipc() as ipc:
        for version in (0, 2, 0xFFFFFFFF):
            ipc.send_frame(message(version=version, request_id=7, ping=world.pb["ipc"].Ping()).SerializeToString())
            response = ipc.receive()
            assert (response.request_id, response.error.code) == (7, "INVALID_PAYLOAD"), response
        ipc.send_frame(message(version=1, request_id=0, ping=world.pb["ipc"].Ping()).SerializeToString())
        response = ipc.receive()
        assert (response.request_id, response.error.code) == (0, "INVALID_PAYLOAD"), response
        ipc.send_frame(message(version=1, request_id=8).SerializeToString())
        response = ipc.receive()
        assert (response.request_id, response.error.code) == (8, "INVALID_PAYLOAD"), response
        assert ipc.ask(ping=world.pb["ipc"].Ping()).pong.serving


@case
def every_violation_of_a_manifest_is_reported_at_once_with_its_path(world):
    url = world.url("/x")
    resources = [
        {"id": "../x", "url": url},
        {"id": "ok", "url": "ftp://example.com/x"},
        {"id": "ok", "url": url},
        {"id": "user", "url": "http://user:secret@example.com/"},
        {"id": "split", "url": url, "headers": [{"name": "X-A", "value": "a\r\nHost: evil"}]},
        {"id": "name", "url": url, "headers": [{"name": "bad name", "value": "v"}]},
        {"id": "sum", "url": url, "checksum": "md5:00"},
        {"id": "many", "url": url, "headers": [{"name": f"X-{n}", "value": "v"} for n in range(11)]},
        {"id": "l" * 129, "url": url},
        {"id": "control", "url": "http://example.com/\u0001"},
    ]
    broken = {"manifest_version": "v9", "metadata": [], "resources": resources}
    with world.ipc() as ipc:
        error = ipc.error(submit=world.submit(broken))
        assert error.code == "INVALID_PAYLOAD" and not error.retryable, error
        told = paths_of(error)
        for at in range(len(resources)):
            assert any(path.startswith(f"resources[{at}]") for path in told), (at, sorted(told))
        assert "manifest_version" in told and "metadata" in told, sorted(told)
        assert "secret" not in error.message and not any("secret" in field.message for field in error.fields)


@case
def documents_that_are_no_manifest_are_refused(world):
    bad = [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"manifest_version":"v1"}', b'{"manifest_version":"v1","resources":[]}']
    bad.append(b"[" * 100_000)
    bad.append(json.dumps(world.manifest(["/x"]) | {"surprise": 1}).encode())
    with world.ipc() as ipc:
        for document in bad:
            error = ipc.error(submit=world.submit(document))
            assert error.code == "INVALID_PAYLOAD", (document[:40], error)
        assert ipc.error(submit=world.pb["job"].SubmitJobRequest()).code == "INVALID_PAYLOAD"
        for more in ({"job_type": "../x"}, {"tenant": "A B"}, {"idempotency_key": "k" * 257}):
            error = ipc.error(submit=world.submit(world.manifest(["/x"]), **more))
            assert error.code in ("INVALID_PAYLOAD", "UNSUPPORTED_JOB_TYPE"), (more, error)


@case
def a_gzip_bomb_and_a_broken_gzip_are_refused(world):
    job = world.pb["job"]
    bomb = gzip.compress(b" " * 64 * 1024 * 1024)
    whole = gzip.compress(json.dumps(world.manifest(["/x"])).encode())
    with world.ipc() as ipc:
        assert ipc.error(submit=job.SubmitJobRequest(manifest_json_gzip=bomb)).code == "PAYLOAD_TOO_LARGE"
        nested = gzip.compress(gzip.compress(b"{}"))
        for broken in (b"not gzip", whole[:-9], whole[:-8] + b"\0" * 8, nested):
            error = ipc.error(submit=job.SubmitJobRequest(manifest_json_gzip=broken))
            assert error.code == "INVALID_PAYLOAD", (broken[:20], error)
        error = ipc.error(submit=world.submit(b" " * 5_000_001))
        assert error.code == "PAYLOAD_TOO_LARGE", error


@case
def a_key_reused_with_another_body_is_refused(world):
    with world.ipc() as ipc:
        first = world.accepted(ipc, world.submit(world.manifest(["/k1"]), idempotency_key="reused"))
        error = ipc.error(submit=world.submit(world.manifest(["/k2"]), idempotency_key="reused"))
        assert error.code == "ALREADY_EXISTS", error
        elsewhere = world.accepted(ipc, world.submit(world.manifest(["/k2"]), idempotency_key="reused", tenant="other"))
        assert elsewhere.job_id != first.job_id


@case
def ids_that_are_paths_or_unknown_are_refused(world):
    with world.ipc() as ipc:
        for bad in ("", "../../etc/passwd", "a/b", "\0", "x" * 10_000, "0190A7C2-0000-7000-8000-000000000000"):
            code = ipc.error(get_job=world.get(bad)).code
            assert code in ("INVALID_PAYLOAD", "NOT_FOUND"), (bad[:40], code)
        assert ipc.error(get_job=world.get(str(uuid.UUID(int=7 << 76 | 2 << 62)))).code == "NOT_FOUND"


@case
def misplaced_output_and_foreign_moves_are_refused(world):
    ledger, model = world.pb["ledger"], world.pb["model"]
    with world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest(["/slow1"])))
        misplaced = model.LogRecord(stream=model.LOG_STREAM_STDOUT, message="x")
        error = ipc.error(append_logs=ledger.AppendLogsRequest(job_id=accepted.job_id, records=[misplaced]))
        assert error.code == "INVALID_PAYLOAD" and error.fields[0].path == "records[0].message", error
        chunk = model.LogRecord(stream=model.LOG_STREAM_STDOUT, chunk=b"\xff\x00")
        first = ipc.ask(append_logs=ledger.AppendLogsRequest(job_id=accepted.job_id, records=[chunk, chunk])).append_logs
        assert first.count == 2, first
        status = model.JobStatus(job_id=accepted.job_id, state=model.JOB_STATE_COMPLETED)
        error = ipc.error(update_status=ledger.UpdateJobStatusRequest(status=status))
        assert error.code == "ILLEGAL_STATE", error
        unknown = str(uuid.UUID(int=7 << 76 | 2 << 62))
        line = model.LogRecord(message="x")
        error = ipc.error(append_logs=ledger.AppendLogsRequest(job_id=unknown, records=[line]))
        assert error.code == "NOT_FOUND", error


# ---- gRPC ----


@case
def a_job_is_watched_to_its_end_by_grpc(world):
    with world.services() as (jobs, _), world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest(["/slow2", "/flaky2", "/w"])))
        request = world.pb["job"].WatchJobRequest(job_id=accepted.job_id)
        seen = list(jobs.WatchJob(request, timeout=60))
        revisions = [job.revision for job in seen]
        assert revisions == sorted(set(revisions)), revisions
        assert seen[-1].state == world.pb["model"].JOB_STATE_COMPLETED and seen[-1].resources_completed == 3, seen[-1]
        assert all(job.state < world.pb["model"].JOB_STATE_PARTIAL for job in seen[:-1])
        resumed = list(jobs.WatchJob(world.pb["job"].WatchJobRequest(job_id=accepted.job_id, after_revision=revisions[-1] - 1), timeout=60))
        assert [job.revision for job in resumed] == revisions[-1:], resumed


@case
def every_job_is_listed_once_over_pages_newest_first(world):
    with world.services() as (jobs, _), world.ipc() as ipc:
        mine = [
            world.accepted(ipc, world.submit(world.manifest([f"/page{at}"]), tenant="pages")).job_id for at in range(12)
        ]
        told, token = [], ""
        for _ in range(100):
            page = jobs.ListJobs(world.pb["job"].ListJobsRequest(tenant="pages", page_size=5, page_token=token), timeout=30)
            assert len(page.jobs) <= 5
            told += [job.job_id for job in page.jobs]
            token = page.next_page_token
            if not token:
                break
        assert told == mine[::-1], (told, mine)


@case
def a_log_is_followed_to_its_end_without_gap_or_duplicate(world):
    ledger, model = world.pb["ledger"], world.pb["model"]
    with world.services() as (jobs, records), world.ipc() as ipc:
        accepted = world.accepted(ipc, world.submit(world.manifest([]), job_type="outside"))
        request = ledger.QueryLogsRequest(job_id=accepted.job_id, follow=True, limit=10)
        stream = records.QueryLogs(request, timeout=60)

        def speak():
            with world.ipc() as other:
                for at in range(50):
                    line = model.LogRecord(message=f"said {at}")
                    other.ask(append_logs=ledger.AppendLogsRequest(job_id=accepted.job_id, records=[line]))
                status = model.JobStatus(job_id=accepted.job_id, state=model.JOB_STATE_COMPLETED)
                other.ask(update_status=ledger.UpdateJobStatusRequest(status=status))

        speaker = threading.Thread(target=speak)
        speaker.start()
        heard = [record for page in stream for record in page.records]
        speaker.join()
        assert [record.offset for record in heard] == list(range(len(heard)))
        said = [record.message for record in heard if record.message.startswith("said ")]
        assert said == [f"said {at}" for at in range(50)], said


@case
def grpc_errors_carry_the_same_detail_as_the_socket(world):
    import grpc

    with world.services() as (jobs, _):
        broken = world.manifest(["/x"]) | {"manifest_version": "v9"}
        try:
            jobs.SubmitJob(world.submit(broken), timeout=30)
            raise AssertionError("accepted")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            trailer = dict(error.trailing_metadata())["grpc-status-details-bin"]
            detail = detail_in(trailer, world.pb["model"].ErrorDetail)
            assert detail.code == "INVALID_PAYLOAD" and paths_of(detail) == {"manifest_version"}, detail
        try:
            jobs.GetJob(world.get(str(uuid.UUID(int=7 << 76 | 2 << 62))), timeout=30)
            raise AssertionError("found")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.NOT_FOUND, error


def detail_in(trailer, message):
    """ErrorDetail inside google.rpc.Status{details 3: Any{value 2}}: two length-delimited fields deep."""
    any_bytes = field_of(trailer, 3)
    return message.FromString(field_of(any_bytes, 2))


def field_of(data, wanted):
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            varint()
            continue
        assert tag & 7 == 2, tag
        length = varint()
        value = data[at : at + length]
        at += length
        if tag >> 3 == wanted:
            return value
    raise AssertionError(f"no field {wanted}")


@case
def after_all_this_the_daemon_serves_and_stops_in_order(world):
    with world.ipc() as ipc:
        assert ipc.ask(ping=world.pb["ipc"].Ping()).pong.serving
    world.daemon.send_signal(signal.SIGTERM)
    assert world.daemon.wait(timeout=40) == 0
    log = (world.folder / "daemon.log").read_text()
    assert "panicked" not in log, log[-4000:]


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    binary = pathlib.Path(sys.argv[1]).resolve()
    # Short, because a Unix socket's path has about 107 bytes.
    with tempfile.TemporaryDirectory(prefix="fbx") as name:
        folder = pathlib.Path(name)
        generated = folder / "generated"
        generated.mkdir()
        world = World(binary, folder, generate(generated))
        failed = 0
        try:
            for function in CASES:
                began = time.monotonic()
                try:
                    function(world)
                    word = "ok"
                except Exception:
                    traceback.print_exc(file=sys.stdout)
                    word = "FAILED"
                    failed += 1
                print(f"{word}  {function.__name__}  {time.monotonic() - began:.2f} s", flush=True)
        finally:
            if world.daemon.poll() is None:
                world.daemon.kill()
                world.daemon.wait()
        if failed:
            print("the daemon's log ends:\n" + (folder / "daemon.log").read_text()[-4000:])
        print(f"{len(CASES) - failed} passed, {failed} failed", flush=True)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
