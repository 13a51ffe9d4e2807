"""Why a dial failed, in words, and how to mend it. No I/O.

The first words are what counts: where losses are counted a text is cut, at the latest at a semicolon. So few reasons
have one, and what differs from dial to dial comes behind it.
"""

from __future__ import annotations

import re
import ssl

IS_IT_TLS = "is this its port for TLS? If it has none, set tls: false"
CLOSED = "the pool closed the connection"

# What is wrong with a certificate, and how to mend it, by OpenSSL's number for it: X509_V_ERR_...
_CERTIFICATES = {
    **dict.fromkeys((2, 18, 19, 20, 21), (  # UNABLE_TO_GET_ISSUER_CERT, ..., UNABLE_TO_VERIFY_LEAF_SIGNATURE
        "of an unknown authority",
        "if it is the pool's, set fingerprint to its SHA-256, or ca_file to a file with its authority")),
    9: ("not yet valid", "is the clock of this machine right?"),
    10: ("expired", "the pool has to renew it, unless the clock of this machine is wrong"),
    **dict.fromkeys((62, 64), ("for another name", "set server_name to a name that it is for")),  # of hosts, of IPs
}

_NO_TLS = ("the pool's answer is not TLS", IS_IT_TLS)
_TOO_OLD = ("the pool's TLS is older than 1.2", "it has to be renewed there")
_WANTS = ("the pool wants a certificate of its clients", "set cert_file and key_file")
_REFUSES = ("the pool refuses the certificate in cert_file", "ask there which ones it takes")

# What a fault means, and how to mend it, by OpenSSL's name for it: without a certificate of this side's, and with one.
_FAULTS = {
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE",
                     "BAD_RECORD_TYPE", "PACKET_LENGTH_TOO_LONG", "WRONG_SSL_VERSION"),  # which one depends on OpenSSL
                    (_NO_TLS, _NO_TLS)),
    **dict.fromkeys(("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"), (_TOO_OLD, _TOO_OLD)),
    "CERTIFICATE_REQUIRED": (_WANTS, _WANTS),
    **dict.fromkeys(("BAD_CERTIFICATE", "NO_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED", "UNKNOWN_CA",
                     "CERTIFICATE_REVOKED", "UNSUPPORTED_CERTIFICATE", "ACCESS_DENIED"), (_WANTS, _REFUSES)),
    "HANDSHAKE_FAILURE": (
        ("the pool refuses the handshake", "if it wants a certificate of its clients, set cert_file and key_file"),
        ("the pool refuses the handshake", "does it take the certificate in cert_file?")),
    "UNRECOGNIZED_NAME": (("the pool does not know the name", "set host or server_name to one that it has"),) * 2,
}


def no_address(whose: str, option: str, why: str) -> str:
    """A name does not lead to addresses; `option` is where it is written."""
    return f"{whose} name does not resolve ({why}): check {option}, and the DNS of this machine"


def plain(failure: Exception) -> str:
    """What the system said."""
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__


# ------------------------------------------------------------------ TLS

def tls(failure: Exception, own_certificate: bool = False) -> str:
    """Why a handshake failed. `own_certificate`: this side has one to show."""
    if isinstance(failure, ssl.SSLCertVerificationError):
        return _certificate(failure.verify_code, failure.verify_message.rstrip("."))
    if isinstance(failure, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)):
        return f"{CLOSED}: {IS_IT_TLS}"
    if isinstance(failure, ssl.SSLError):
        return tls_fault(failure.reason or str(failure), own_certificate)
    return plain(failure)


def tls_fault(fault: str, own_certificate: bool = False) -> str:
    """A fault in an operator's words; it is OpenSSL's name, or what the layer of a connection made of that.

    With TLS 1.3 a pool that wants a certificate says so when the handshake is over for this side: it is the connection
    that hears it, as the first thing.
    """
    name = re.sub(r"\W+", "_", fault).upper()
    name = re.sub("^(TLS_)?((SSLV|TLSV)[0-9]+_)?(ALERT_)?", "", name)
    said = name.replace("_", " ").lower()
    if name not in _FAULTS:
        return f"TLS: {said}"
    what, mend = _FAULTS[name][own_certificate]
    return f"{what} ({said}): {mend}"


def other_fingerprint(shown: str, wanted: str) -> str:
    """The pool's certificate has not the one fingerprint that is accepted. Both are 64 hex digits."""
    return (f"certificate refused: its fingerprint is another one; it is {shown[:8]}…{shown[-8:]} and not {wanted[:8]}"
            f"…{wanted[-8:]}: if the pool confirms that it has a new one, set fingerprint: {shown}")


def _certificate(code: int, message: str) -> str:
    if code not in _CERTIFICATES:
        return f"certificate refused: {message}"
    wrong, mend = _CERTIFICATES[code]
    return f"certificate refused: {wrong} ({message}): {mend}"
