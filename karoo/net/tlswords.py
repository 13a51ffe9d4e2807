"""What went wrong with a peer's TLS handshake, as this side's listener tells it. No I/O."""

from __future__ import annotations

import ssl

_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG",
           "BAD_RECORD_TYPE", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE", "LENGTH_MISMATCH", "BAD_PACKET"}
_TOO_OLD = {"UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_SHARED_CIPHER", "TLSV1_ALERT_PROTOCOL_VERSION",
            "NO_PROTOCOLS_AVAILABLE"}
_REFUSES_US = ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_CERTIFICATE_EXPIRED")


def words(failure: ssl.SSLError) -> str:
    """Why a miner did not get through the handshake, and what its owner may do."""
    reason = failure.reason or ""
    if reason in _NO_TLS:
        return "what it sent is not TLS (a miner set to stratum+tcp?)"
    if reason in _TOO_OLD:
        return "it speaks no version or cipher of TLS that is spoken here (tls.min_version)"
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate, and tls.client_ca_file asks for one"
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {failure.verify_message}"
    if reason.endswith(_REFUSES_US):
        return "it does not trust the certificate that it is shown"
    return reason.replace("_", " ").lower() or str(failure)
