# A preforking server and its clients, for live tests: workers made by os.fork()
# serve requests and touch what they share, which in Python is to write to it.
# Prints the kernel's own count of every process's minor faults as one line of
# JSON: the ground truth.
#
#     python3 prefork.py WORKERS REQUESTS
import json
import os
import resource
import socket
import sys

QUIT = b"quit"


def minflt():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def start_ticks(pid):
    with open(f"/proc/{pid}/stat") as stat:
        # Field 22; the name before it ends with the last parenthesis.
        return int(stat.read().rsplit(")", 1)[1].split()[19])


def serve(listener, shared, report):
    while True:
        connection, _ = listener.accept()
        with connection:
            request = connection.recv(64)
            if request == QUIT:
                break
            begin = int(request) % len(shared)
            connection.sendall(b"%d" % sum(len(item) for item in shared[begin:begin + 5000]))
    os.write(report, json.dumps({"pid": os.getpid(), "minflt": minflt()}).encode() + b"\n")
    os._exit(0)


def request(address, text):
    with socket.create_connection(address) as connection:
        connection.sendall(text)
        return connection.recv(64)


def main(workers, requests):
    shared = ["item %d" % n for n in range(200_000)]
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    address = listener.getsockname()
    reading, report = os.pipe()
    started = {}
    for _ in range(workers):
        pid = os.fork()
        if pid == 0:
            serve(listener, shared, report)
        started[pid] = start_ticks(pid)
    served = 0
    for n in range(requests):
        served += bool(request(address, b"%d" % (n * 7919)))
    for _ in started:
        request(address, QUIT)
    for pid in started:
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"worker {pid} failed")
    os.close(report)
    with os.fdopen(reading) as reports:
        told = [json.loads(line) for line in reports]
    for worker in told:
        worker["start_ticks"] = started[worker["pid"]]
    own = {"pid": os.getpid(), "start_ticks": start_ticks(os.getpid()), "minflt": minflt()}
    print(json.dumps({"parent": own, "workers": told, "served": served}))


main(int(sys.argv[1]), int(sys.argv[2]))
