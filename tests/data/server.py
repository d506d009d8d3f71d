"""A server on this machine that behaves as servers do on bad days."""

import contextlib
import http.server
import socket
import struct
import threading

GOOD = "good"
CHUNKED = "good, in chunks"
# What a request may get instead of the file.
BAD = ("404", "500", "cut", "cut, unannounced", "wrong", "longer", "endless", "slow", "silent", "slow headers",
       "slow chunk-size line", "endless trailers", "reset", "nonsense", "loop")  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        todo = server.behaviours.get(self.path)
        behaviour = (todo.pop(0) if len(todo) > 1 else todo[0]) if todo else "404"
        server.served.append(behaviour)
        with contextlib.suppress(OSError):
            self.behave(behaviour, server.contents.get(self.path, b"?"), server.over)

    def behave(self, behaviour, content, over):
        if behaviour in ("404", "500"):
            self.send_error(int(behaviour))
            return
        if behaviour == "silent":
            over.wait()
            return
        if behaviour == "slow headers":
            self.drip(b"HTTP/1.0 200 OK\r\nX-Slow: ", b"a", over)
            return
        if behaviour in (CHUNKED, "slow chunk-size line", "endless trailers"):
            self.behave_in_chunks(behaviour, content, over)
            return
        if behaviour == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if behaviour == "nonsense":
            self.wfile.write(b"\x00\xff these are no headers\r\n\r\n")
            return
        if behaviour == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
            return
        self.send_response(200)
        if behaviour in (GOOD, "cut", "slow", "wrong"):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if behaviour == GOOD:
            self.wfile.write(content)
        elif behaviour in ("cut", "cut, unannounced"):
            self.wfile.write(content[: len(content) // 2])
        elif behaviour == "wrong":
            self.wfile.write(content[:-1] + bytes([content[-1] ^ 1]))
        elif behaviour == "longer":
            self.wfile.write(content + b"and more")
        elif behaviour == "endless":
            while not over.is_set():
                self.wfile.write(bytes(1 << 16))
        elif behaviour == "slow":
            for byte in content:
                self.wfile.write(bytes([byte]))
                if over.wait(0.05):
                    return

    def behave_in_chunks(self, behaviour, content, over):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        half = len(content) // 2
        first, second = (b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:half], content[half:]))
        if behaviour == CHUNKED:
            self.wfile.write(first + second + b"0\r\nX-Trailer: y\r\n\r\n")
        elif behaviour == "slow chunk-size line":
            self.drip(first + b"5;", b"a", over)
        elif behaviour == "endless trailers":
            self.drip(first + second + b"0\r\n", b"X-Trailer: y\r\n", over)

    def drip(self, beginning, drop, over):
        """It ends after ten seconds, so that a client without limits fails its test and does not hang it."""
        self.wfile.write(beginning)
        for _ in range(200):
            if over.wait(0.05):
                return
            self.wfile.write(drop)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request, client_address):
        pass


@contextlib.contextmanager
def serving(contents, behaviours=None):
    """A server with `contents` (path: bytes); each request takes the next of ``behaviours[path]``, the last stays."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.contents, server.over, server.requests, server.served = contents, threading.Event(), [], []
        server.behaviours = {path: list((behaviours or {}).get(path, [GOOD])) for path in contents}
        server.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
