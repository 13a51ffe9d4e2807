"""TLS, both sides: contexts from files, the handshake over a socket, and the layer that a connection has from then on.
Knows no Stratum.

The layer is OpenSSL over memory and never over the socket: gevent's SSLSocket takes a greenlet for each connection, and
waits where it was told not to.
"""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass
from typing import Any

from karoo.line import Line

READ_SIZE = 4096
_LONGEST_FILE = 1 << 22
_HEADER = 5  # bytes of a record's: type, version, length
_CONTENT_TYPES = (20, 21, 22, 23)
_RECORD = 16384  # bytes of a record, at most: read whole
# Bytes with nothing in them: a change of keys takes 27, and 20 us on this side, which nobody else has for shares
_WORDLESS = 4 * _RECORD  # at most; each byte that says something makes up for so many of them:
_WORTH = 16
_MOST_UNSENT = 1 << 20  # bytes

# Handshakes take their turns with each other and with everything else: one is 0.3 ms of work with an ECDSA key and 1 ms
# with one of RSA 2048, and a farm that comes back brings thousands at once.
# Each side has a line of its own: who floods a listener must not keep the pool's handshake waiting.
_lines = {True: Line(), False: Line()}
_MOST_TURNS = 64  # of one handshake; a client with a long chain of certificates takes ten


class TlsError(Exception):
    """Certificate, key or authorities cannot be used; the text says which file and why."""


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """What a listener shows: a certificate chain and its key, both PEM. With `client_ca_file` peers must show a
    certificate of one of its authorities."""

    cert_file: str
    key_file: str
    client_ca_file: str = ""
    least: str = "1.2"


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """How a server is checked: against `ca_file` (empty: the system's authorities) and its name, unless `verify` is
    False. `cert_file` and `key_file` are this side's own, for servers that ask for one."""

    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def server_context(files: ServerFiles) -> ssl.SSLContext:
    """A context for `Tls(context)`. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if files.least == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a peer could have us compute for ever
    _load_chain(context, files.cert_file, files.key_file)
    if files.client_ca_file:
        _load_authorities(context, files.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: ClientFiles) -> ssl.SSLContext:
    """A context for `Tls(context, server_name)`. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif files.ca_file:
        _load_authorities(context, files.ca_file)
    else:
        context.load_default_certs()
    if files.cert_file:
        _load_chain(context, files.cert_file, files.key_file or files.cert_file)
    return context


def _load_chain(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    for path, holds in ((cert_file, "CERTIFICATE"), (key_file, "PRIVATE KEY")):
        if f"{holds}-----" not in _text_of(path):
            raise TlsError(f"{path}: there is no {holds.lower()} in PEM in it")
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except _Encrypted:
        raise TlsError(f"{key_file}: the key is encrypted, and there is nobody to ask for its password: "
                       f"decrypt it (openssl pkey -in {key_file} -out plain.pem)") from None
    except ssl.SSLError as failure:
        if failure.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key_file} is not the key of the certificate in {cert_file}") from None
        raise TlsError(f"{cert_file}, {key_file}: the certificate chain or the key is damaged"
                       f"{f' ({failure.reason})' if failure.reason else ''}") from None
    except OSError as failure:
        raise TlsError(f"{cert_file}, {key_file}: {failure.strerror or failure}") from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    if "CERTIFICATE-----" not in _text_of(path):
        raise TlsError(f"{path}: no certificates of authorities in PEM")
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as failure:
        raise TlsError(f"{path}: the certificates of authorities are damaged "
                       f"({getattr(failure, 'reason', None) or failure})") from None


def _text_of(path: str) -> str:
    """OpenSSL says neither which of its files is missing nor what is wrong with it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for whoever writes to it
            raise TlsError(f"{path}: it is no file")
        with open(path, "rb") as file:
            return file.read(_LONGEST_FILE).decode("latin-1")
    except OSError as failure:
        raise TlsError(f"{path}: {failure.strerror or failure}") from None


class _Encrypted(Exception):
    """A key that asks for a password."""


def _no_password() -> bytes:
    raise _Encrypted


class Tls:
    """The layer, of a server without `server_name` and of a client with it; to be used after `shake_hands`."""

    __slots__ = ("_incoming", "_left", "_line", "_object", "_outgoing", "_unsent", "_wordless", "ended", "fault")

    probes = False

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None, server_side: bool = True) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side,
                                        server_hostname=server_name)
        self._line = _lines[server_side]
        self._unsent = b""
        self._wordless = 0  # bytes without a word in them, less what the peer said
        self._left = False  # this side has taken its leave
        self.ended, self.fault = False, ""

    # ------------------------------------------------------------------ handshake

    def shake_hands(self, sock: Any, early: bytes = b"") -> bytes:
        """Do the handshake over a connected gevent socket, for which the running greenlet waits as long as it takes;
        `early` is what was read from it already. What the peer has said behind it. Raises ssl.SSLError, OSError."""
        received = early
        for turn in range(_MOST_TURNS):
            # A client speaks first. A turn for each byte of a flight would let slow peers have all of them.
            while (turn or self._object.server_side) and not _has_record(received):
                received += self._receive(sock)
            self._incoming.write(received)
            received = b""
            self._line.turn(ahead=turn > 0)  # each that has begun holds 50 kB until it is done
            try:
                self._object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError:
                self._send_alert(sock)
                raise
            if self._outgoing.pending:
                sock.sendall(self._outgoing.read())
            if done:
                return self.decode(b"")
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the handshake comes in too many pieces")

    @staticmethod
    def _receive(sock: Any) -> bytes:
        data: bytes = sock.recv(READ_SIZE)
        if not data:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer left")
        return data

    def _send_alert(self, sock: Any) -> None:
        """Tell the peer what OpenSSL has to say about its mistake, without waiting for it."""
        try:
            sock.send(self._outgoing.read(), 0, 0.0)
        except OSError:
            pass  # it does not listen

    @property
    def certificate(self) -> bytes | None:
        """The peer's, in DER."""
        return self._object.getpeercert(binary_form=True)

    @property
    def version(self) -> str:
        """Such as TLSv1.3."""
        return self._object.version() or ""

    # ------------------------------------------------------------------ the layer

    def decode(self, data: bytes) -> bytes:
        """See `Layer`. A stream that is cut without TLS's own word for it is not told from one that ended in order:
        lines say by themselves whether they are whole."""
        if self.ended:
            return b""
        if data:
            self._incoming.write(data)
        parts = []
        try:
            while True:
                part = self._object.read(_RECORD)
                if not part:
                    self.ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as failure:
            self._fail(failure)
        if self._unsent and not self.ended:
            self._send()
        said = parts[0] if len(parts) == 1 else b"".join(parts)
        self._wordless = max(0, self._wordless + (len(data) if not said else -_WORTH * len(said)))
        if self._wordless > _WORDLESS and not self.ended:
            self.ended, self.fault = True, f"tls: {self._wordless} bytes with nothing in them"
        return said

    def encode(self, data: bytes) -> bytes:
        """See `Layer`."""
        if self.fault or self._left:
            return b""
        self._unsent += data
        self._send()
        return self._outgoing.read()

    def _send(self) -> None:
        """Encode what is to be sent: while a server of TLS 1.2 renegotiates, that has to wait for its next words."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self._object.write(self._unsent):]  # a record at a time
        except ssl.SSLWantReadError:
            if len(self._unsent) > _MOST_UNSENT:
                self.ended, self.fault = True, "tls: a renegotiation without end"
        except ssl.SSLError as failure:
            self._fail(failure)

    def _fail(self, failure: ssl.SSLError) -> None:
        self.ended, self.fault = True, f"TLS: {failure.reason or failure}".replace("_", " ").lower()

    def replies(self) -> bytes:
        """See `Layer`."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def probe(self) -> bytes:
        """Nothing: TLS has no such message."""
        return b""

    def farewell(self, code: int = 0, reason: str = "") -> bytes:
        """The alert that says that nothing more comes."""
        self._left = True
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it waits for the peer's, or there is no sense in it after a fault
        return self.replies()


def _has_record(data: bytes) -> bool:
    """Whether OpenSSL can go on with these bytes: a whole record, or what cannot become one."""
    if len(data) < _HEADER:
        return bool(data) and data[0] not in _CONTENT_TYPES
    return data[0] not in _CONTENT_TYPES or len(data) >= min(_HEADER + int.from_bytes(data[3:5], "big"), _RECORD)
