"""TLS, both sides: contexts from files, the handshake over a socket, and the layer that a connection has from then on.
Knows no Stratum.

The layer is OpenSSL over memory and never over the socket: gevent's SSLSocket takes a greenlet for each connection, and
waits where it was told not to.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any

from karoo.line import Line

READ_SIZE = 4096
_RECORD = 16384  # bytes of a record, at most: read whole
# Bytes with nothing in them: a change of keys takes 27, and 20 us on this side, which nobody else has for shares
_WORDLESS = 4 * _RECORD

# Handshakes take their turns with each other and with everything else: one is 0.3 ms of work with an ECDSA key and 1 ms
# with one of RSA 2048, and a farm that comes back brings thousands at once.
_line = Line()


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
    for path in (cert_file, key_file):
        _check_readable(path)
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except _Encrypted:
        raise TlsError(f"{key_file}: the key is encrypted, and there is nobody to ask for its password: "
                       f"decrypt it (openssl pkey -in {key_file} -out plain.pem)") from None
    except ssl.SSLError as failure:
        if failure.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key_file} is not the key of the certificate in {cert_file}") from None
        raise TlsError(f"{cert_file}, {key_file}: no certificate chain and key in PEM "
                       f"({failure.reason or failure})") from None
    except OSError as failure:
        raise TlsError(f"{cert_file}, {key_file}: {failure.strerror or failure}") from None


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as failure:
        raise TlsError(f"{path}: no certificates of authorities in PEM "
                       f"({getattr(failure, 'reason', None) or failure})") from None


def _check_readable(path: str) -> None:
    """OpenSSL does not say which of its files is missing."""
    try:
        with open(path, "rb"):
            pass
    except OSError as failure:
        raise TlsError(f"{path}: {failure.strerror or failure}") from None


class _Encrypted(Exception):
    """A key that asks for a password."""


def _no_password() -> bytes:
    raise _Encrypted


class Tls:
    """The layer, of a server without `server_name` and of a client with it; to be used after `shake_hands`."""

    __slots__ = ("_incoming", "_object", "_outgoing", "_wordless", "ended", "fault")

    probes = False

    def __init__(self, context: ssl.SSLContext, server_name: str | None = None, server_side: bool = True) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side,
                                        server_hostname=server_name)
        self._wordless = 0  # bytes since the peer said something
        self.ended, self.fault = False, ""

    # ------------------------------------------------------------------ handshake

    def shake_hands(self, sock: Any, early: bytes = b"") -> bytes:
        """Do the handshake over a connected gevent socket, for which the running greenlet waits as long as it takes;
        `early` is what was read from it already. What the peer has said behind it. Raises ssl.SSLError, OSError."""
        self._incoming.write(early)
        begun = False
        while True:
            _line.turn(ahead=begun)  # each that has begun holds 50 kB until it is done
            begun = True
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
            data = sock.recv(READ_SIZE)
            if not data:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer left")
            self._incoming.write(data)

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
            self.ended, self.fault = True, f"TLS: {failure.reason or failure}".replace("_", " ").lower()
        self._wordless = 0 if parts else self._wordless + len(data)
        if self._wordless > _WORDLESS and not self.ended:
            self.ended, self.fault = True, f"tls: {self._wordless} bytes with nothing in them"
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def encode(self, data: bytes) -> bytes:
        """See `Layer`."""
        if self.fault:
            return b""
        try:
            while data:
                data = data[self._object.write(data):]  # a record at a time
        except ssl.SSLError:
            pass  # it comes after the farewell
        return self._outgoing.read()

    def replies(self) -> bytes:
        """See `Layer`."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def probe(self) -> bytes:
        """Nothing: TLS has no such message."""
        return b""

    def farewell(self, code: int = 0, reason: str = "") -> bytes:
        """The alert that says that nothing more comes."""
        try:
            self._object.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it waits for the peer's, or there is no sense in it after a fault
        return self.replies()
