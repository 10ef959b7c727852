"""What tests of shards behind URLs share: an S3 server of their own, and buckets there."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from vdaprep.storage import remote, retry
from vdaprep.storage.retry import RetryPolicy


class Bucket:
    """A bucket on a server of the test's own."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.name = f"test-{time.monotonic_ns()}"
        client.create_bucket(Bucket=self.name)

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def objects(self, prefix: str) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix=f"{prefix}/").get("Contents", ())
        keys = [item["Key"] for item in listed]
        read = {key: self.client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}
        return {key.removeprefix(f"{prefix}/"): data for key, data in read.items()}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """An S3 server, and a client of it; what AWS's own programs read from the environment points there."""
    import boto3
    from moto.server import ThreadedMotoServer

    remote._object_store.cache_clear()  # connections to other tests' servers
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("no_proxy", "*"),
        ):
            patch.setenv(name, value)
        yield boto3.client("s3")
        server.stop()
    remote._object_store.cache_clear()


@pytest.fixture
def bucket(client: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(retry, "POLICY", RetryPolicy(waits_s=(0.01, 0.01)))
    return Bucket(client)
