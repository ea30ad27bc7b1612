"""The one thing that a kubelet is asked by the API server here: the log of a container. Used by ``cluster_story.py``.

Every container has said one line and has ended its log, so that ``logs -f`` ends too.
"""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kube_api import Api


class KubeletLogs:
    """Serves ``https://127.0.0.1:PORT/containerLogs/NAMESPACE/POD/CONTAINER`` of node ``node``, which it makes."""

    def __init__(self, api: Api, node: str, certificate: Path, key: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = self.path.partition("?")[0].strip("/").split("/")
                known = parts[0] == "containerLogs" and len(parts) == 4
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", "text/plain")
                self.end_headers()
                if known:
                    self.wfile.write(f"{parts[3]} of {parts[2]} says this\n".encode())

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="kubelet", daemon=True)
        self._thread.start()
        api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        endpoint = {"kubeletEndpoint": {"Port": self._server.server_port}}
        status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": endpoint}
        api.patch("Node", "", node, {"status": status}, subresource="status")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
