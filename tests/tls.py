"""Certificates of a throw-away authority, and servers that speak TLS with them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import trustme

HOST = "127.0.0.1"
_YEAR = timedelta(days=365)


class Papers:
    """Certificate and key of one side, as PEM."""

    def __init__(self, leaf: trustme.LeafCert) -> None:
        self.certificate = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        self.key = leaf.private_key_pem.bytes()

    def put(self, folder: Path, name: str) -> None:
        """Write them to `name.crt` and `name.key`, in the place of what is there."""
        (folder / f"{name}.crt").write_bytes(self.certificate)
        (folder / f"{name}.key").write_bytes(self.key)


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.certificate = self._ca.cert_pem.bytes()

    def server(self, *names: str) -> Papers:
        """Papers of a server with these names or addresses."""
        return Papers(self._ca.issue_cert(*(names or (HOST,))))

    def client(self) -> Papers:
        """Papers of a client."""
        return Papers(self._ca.issue_cert("usage-worker.example", common_name="usage_worker"))

    def expired(self, *names: str) -> Papers:
        """Papers that ran out yesterday."""
        now = datetime.now(UTC)
        return Papers(
            self._ca.issue_cert(*(names or (HOST,)), not_before=now - _YEAR, not_after=now - timedelta(days=1))
        )


class Client:
    """The files of one client, in a folder of its own."""

    def __init__(self, folder: Path, authority: Authority, papers: Papers | None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        (folder / "ca.crt").write_bytes(authority.certificate)
        if papers is not None:
            papers.put(folder, "client")
        self._has_papers = papers is not None

    def amqps(self, host: str, port: int, user: str = "guest:guest") -> str:
        """A URL with these files."""
        return f"amqps://{user}@{host}:{port}/?{self._query('cafile', 'certfile', 'keyfile', {})}"

    def postgresql(self, host: str, port: int, database: str, user: str) -> str:
        """A DSN with these files, and the server's name verified."""
        query = self._query("sslrootcert", "sslcert", "sslkey", {"sslmode": "verify-full"})
        return f"postgresql://{user}@{host}:{port}/{database}?{query}"

    def _query(self, ca: str, certificate: str, key: str, given: Mapping[str, str]) -> str:
        files = {ca: "ca.crt"} | ({certificate: "client.crt", key: "client.key"} if self._has_papers else {})
        return urlencode(dict(given) | {name: str(self.folder / file) for name, file in files.items()}, safe="/")
