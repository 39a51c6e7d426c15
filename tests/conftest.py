"""Places that a store can be in: a folder, and an object store served by a process of its own."""

import os
import subprocess
import sys
import time
import urllib.request
from itertools import count

import pytest
from hypothesis import settings
from ports import free_ports, listens

from trainables.storage.paths import ObjectPath, store_path

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

SECRET = "secret-that-must-not-be-written-anywhere"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATOKENSWEEPTESTS", "AWS_SECRET_ACCESS_KEY": SECRET}
BUCKET = "bucket"

_numbers = count()


class S3Server:
    """An S3 server in a process of its own, which keeps what it has in memory."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it, with an empty bucket."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not listens(self.port):
            assert self.process.poll() is None, "the S3 server did not start"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)
        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request).close()

    def stop(self) -> None:
        """End it and wait for that."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def s3_server():
    """Start an S3 server, for all tests and the processes that they start."""
    server = S3Server()
    variables = {**CREDENTIALS, "AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": "us-east-1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    server.start()
    yield server
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture
def s3_folder(s3_server):
    """Return an empty place in the object store."""
    return ObjectPath(f"s3://{BUCKET}/test-{next(_numbers)}")


@pytest.fixture(params=["folder", "s3"])
def store_folder(request, tmp_path):
    """Return an empty place of each kind."""
    if request.param == "folder":
        return store_path(str(tmp_path))
    return request.getfixturevalue("s3_folder")
