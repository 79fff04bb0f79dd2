#!/usr/bin/env python3
"""A writer on the joblet socket, made from the wire's field numbers alone: standard library only, varints by hand.

    joblet_writer.py burst SOCKET --lines N --jobs M [--prefix job] [--connections C]
    joblet_writer.py check /path/to/fetchbox

`burst` builds N log frames over M jobs (in turns) beforehand, then writes them as fast as they are taken, and prints one line of JSON:
lines, bytes, seconds from the first write to the last one done. Line K of a job is `line_of(job, K)`, so a reader can check it.

`check` starts the daemon, bursts, sends what must be refused, and asks the metrics whether all of it was kept, refused and counted.
"""

import argparse
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
import urllib.request

LOG, METRIC, EXEC = 1, 2, 3
STDOUT, STDERR = 1, 2
TIME_NS = 1_700_000_000_000_000_000


# ---- protobuf, as much as the wire needs ----


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value) if value else b""


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value if value else b""


def double(field, value):
    return varint(field << 3 | 1) + struct.pack("<d", value) if value else b""


def frame(body):
    return struct.pack(">I", len(body)) + body


def envelope(kind, job, sequence, data, time_ns=TIME_NS):
    body = number(1, 1) + number(2, kind) + text(3, job) + number(4, time_ns) + number(5, sequence) + text(6, data)
    return frame(body)


def log(job, sequence, content, stream=STDOUT, time_ns=TIME_NS):
    inner = text(1, job) + number(2, stream) + number(3, time_ns) + number(4, sequence) + text(5, content)
    return envelope(LOG, job, sequence, inner, time_ns)


def metric(job, sequence, cores, memory):
    data = double(1, cores) + number(2, memory)
    return envelope(METRIC, job, sequence, text(1, job) + number(2, TIME_NS) + number(3, sequence) + text(4, data))


def executed(job, sequence, pid, command):
    inner = text(1, job) + number(2, TIME_NS) + number(3, sequence) + number(4, pid) + text(8, command)
    return envelope(EXEC, job, sequence, inner)


# ---- the burst ----


def line_of(job, at):
    """121 bytes or so, much like the others, as services write."""
    text = f"2026-01-02T03:04:05.{at % 1000:03}Z INFO worker-{at % 16:02} request done id={at:08x} path=/api/v1/items/{at % 997:03}"
    return f"{text} status=200 bytes={at * 7919 % 65536} job={job}\n".encode()


def build(prefix, jobs, lines, connections=1):
    """For each connection its bytes. A job's lines all go over one connection."""
    names = [f"{prefix}-{at}".encode() for at in range(jobs)]
    parts = [bytearray() for _ in range(connections)]
    for at in range(lines):
        job, sequence = at % jobs, at // jobs
        stream = STDERR if sequence % 10 == 9 else STDOUT
        parts[job % connections] += log(names[job], sequence, line_of(names[job].decode(), sequence), stream)
    return parts


def connect(path):
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # As joblet's own client does.
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    sender.connect(path)
    return sender


def burst(path, parts):
    senders = [connect(path) for _ in parts]
    began = time.monotonic()
    threads = [threading.Thread(target=sender.sendall, args=(part,)) for sender, part in zip(senders, parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    for sender in senders:
        sender.close()
    return seconds


# ---- the check ----


class Daemon:
    def __init__(self, binary):
        self.folder = tempfile.TemporaryDirectory(prefix="fbx")
        self.data = pathlib.Path(self.folder.name) / "d"
        config = pathlib.Path(self.folder.name) / "fetchbox.yml"
        config.write_text(f"data_dir: {self.data}\nlisten:\n  grpc_tcp: 'off'\n  http: 127.0.0.1:0\n")
        command = [binary, "serve", "--config", str(config)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FETCHBOX")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        ready = self.process.stdout.readline().split()
        assert ready, "the daemon did not start"
        words = dict(word.split("=", 1) for word in ready if "=" in word)
        self.joblet, self.http = words["joblet"], words["http"]

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def wait_for(self, name, value):
        end = time.monotonic() + 120
        while self.metric(name) < value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)
        assert self.metric(name) == value, f"{name} is {self.metric(name)}, not {value}"

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, "the daemon did not stop cleanly"
        self.folder.cleanup()


def silent(sender):
    """The daemon hangs up and has never written a byte."""
    sender.settimeout(60)
    try:
        return sender.recv(1) == b""
    except ConnectionResetError:
        return True


def check(binary):
    daemon = Daemon(binary)
    lines = 50_000
    parts = build("conformance", 100, lines, connections=2)
    seconds = burst(daemon.joblet, parts)
    daemon.wait_for("persist_records_written_total", lines)
    print(f"ok   {lines} lines over 100 jobs kept, written in {seconds:.2f} s")
    assert daemon.metric("persist_gaps_total") == 0 and daemon.metric("persist_refused_total") == 0

    sender = connect(daemon.joblet)
    good = [metric(b"m", 0, 0.5, 1 << 20), executed(b"m", 0, 42, b"/bin/true"), log(b"m", 0, bytes(900_000))]
    unknown = envelope(99, b"m", 0, b"of a later version")
    sender.sendall(b"".join([*good, unknown]))
    daemon.wait_for("persist_records_written_total", lines + 4)
    print("ok   metrics, events, binary chunks and unknown types kept")

    names = [b"../x", b"", b"a" * (1 << 20), b"a\0b", b"a/b", b".."]
    sender.sendall(b"".join(log(name, 0, b"x") for name in names))
    sender.sendall(frame(b"\xff\xff") + frame(b"") + envelope(LOG, b"m", 1, b"\xff"))
    for reason, count in (("name", len(names)), ("body", 1), ("empty", 1), ("data", 1)):
        daemon.wait_for(f'persist_refused_total{{reason="{reason}"}}', count)
    print("ok   hostile names and broken messages refused and counted")

    sender.sendall(log(b"m", 1, b"one") + log(b"m", 5, b"five"))
    # Two lines, and one of the daemon's own about the gap.
    daemon.wait_for("persist_records_written_total", lines + 7)
    assert daemon.metric("persist_gaps_total") == 3
    print("ok   a gap counted and told")

    sender.sendall(struct.pack(">I", (128 << 20) + 1))
    assert silent(sender), "the daemon wrote to the sender"
    print("ok   a frame above the limit ends the connection, without a word")
    daemon.stop()
    print("ok   stopped")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    bursts = verbs.add_parser("burst")
    bursts.add_argument("socket")
    bursts.add_argument("--lines", type=int, default=200_000)
    bursts.add_argument("--jobs", type=int, default=1)
    bursts.add_argument("--prefix", default="job")
    bursts.add_argument("--connections", type=int, default=1)
    checks = verbs.add_parser("check")
    checks.add_argument("binary")
    arguments = parser.parse_args()
    if arguments.verb == "check":
        return check(arguments.binary)
    parts = build(arguments.prefix, arguments.jobs, arguments.lines, arguments.connections)
    seconds = burst(arguments.socket, parts)
    told = {"lines": arguments.lines, "jobs": arguments.jobs, "bytes": sum(map(len, parts)), "seconds": round(seconds, 6)}
    print(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
