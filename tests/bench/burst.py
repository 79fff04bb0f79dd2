"""Frames lines as joblet's core does and sends them in one burst: a writer in another language than the daemon's.

burst.py SOCKET LINES JOBS
    LINES: a file, one line of output each; the line's end is part of what the job wrote. Line i goes to job i % JOBS.
Builds every frame, prints `ready`, waits for a line on stdin, sends, prints the seconds it took.
"""

import socket
import struct
import sys
import time


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field_number(field, number):
    return varint(field << 3) + varint(number) if number else b""


def field_bytes(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def frame(job, sequence, timestamp, content):
    line = (
        field_bytes(1, job)
        + field_number(2, 1)
        + field_number(3, timestamp)
        + field_number(4, sequence)
        + field_bytes(5, content)
    )
    message = (
        field_number(1, 1)
        + field_number(2, 1)
        + field_bytes(3, job)
        + field_number(4, timestamp)
        + field_number(5, sequence)
        + field_bytes(6, line)
    )
    return struct.pack(">I", len(message)) + message


def main():
    path, lines, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(lines, "rb") as file:
        contents = file.readlines()
    timestamp = 1_760_000_000 * 1_000_000_000
    names = [b"00000000-0000-4000-8000-%012x" % job for job in range(jobs)]
    frames = b"".join(
        frame(names[at % jobs], at // jobs, timestamp + at // 50_000 * 1_000_000_000, content)
        for at, content in enumerate(contents)
    )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    connection.connect(path)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    connection.sendall(frames)
    print(f"{time.monotonic() - begun:.3f}", flush=True)
    sys.stdin.readline()


main()
