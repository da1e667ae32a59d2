"""The little of S3 that reading a corpus needs, on loopback: listing, sizes, content by ranges, and refusals as S3 words them."""

import http.server
import re
import threading
import urllib.parse
from collections import Counter
from xml.sax.saxutils import escape

#: Keys a listing gives at a time; a real bucket gives 1000.
KEYS_AT_A_TIME = 5


class S3Double(http.server.ThreadingHTTPServer):
    """One bucket of objects in memory.

    Attributes:
        objects (`dict[str, bytes]`): Content by key.
        busy (`dict[str, int]`): How many more times a key is answered by 503; -1 for always.
        forbidden (`set[str]`): Keys that may not be read.
        asked (`Counter`): Requests for each key, for its content or its size; of listings under the empty key.
    """

    daemon_threads = True

    def __init__(self, bucket: str = "bucket"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.busy: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "S3Double":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Double

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        address = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(address.path).lstrip("/").partition("/")
        query = dict(urllib.parse.parse_qsl(address.query, keep_blank_values=True))
        self.server.asked[key] += 1
        if "Authorization" not in self.headers or key in self.server.forbidden:
            self._error(403, "AccessDenied", with_body)
        elif self.server.busy.get(key, 0):
            self.server.busy[key] -= 1
            self._error(503, "SlowDown", with_body)
        elif bucket != self.server.bucket:
            self._error(404, "NoSuchBucket", with_body)
        elif not key:
            self._send(200, self._listing(query), {"Content-Type": "application/xml"}, with_body)
        elif key not in self.server.objects:
            self._error(404, "NoSuchKey", with_body)
        else:
            self._content(self.server.objects[key], with_body)

    def _content(self, content, with_body):
        headers = {"ETag": '"0"', "Last-Modified": "Thu, 01 Jan 1970 00:00:00 GMT", "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._send(200, content, headers, with_body)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], headers, with_body)

    def _listing(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "")
        entries = {}
        for key in sorted(self.server.objects):
            if key.startswith(prefix):
                folder, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
                entries[prefix + folder + cut if cut else key] = bool(cut)
        names = [name for name in sorted(entries) if name > after]
        shown = names[: min(KEYS_AT_A_TIME, int(query.get("max-keys", 1000)))]
        xml = f"<Name>{self.server.bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(shown)}</KeyCount>"
        xml += f"<IsTruncated>{str(len(shown) < len(names)).lower()}</IsTruncated>"
        if len(shown) < len(names):
            xml += f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>"
        for name in shown:
            if entries[name]:
                xml += f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            else:
                xml += f"<Contents><Key>{escape(name)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
                xml += f'<ETag>"0"</ETag><Size>{len(self.server.objects[name])}</Size></Contents>'
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{xml}</ListBucketResult>'.encode()

    def _error(self, status, code, with_body):
        xml = f"<Error><Code>{code}</Code><Message>{code} of the double</Message></Error>"
        self._send(status, xml.encode(), {"Content-Type": "application/xml"}, with_body)

    def _send(self, status, content, headers, with_body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass
