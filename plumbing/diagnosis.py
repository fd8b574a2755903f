"""What is wrong when there is no connection: the SDK's errors, as a sentence that says where it is and what to do."""

from __future__ import annotations

import re

NOBODY = "no Temporal server answers at {address}; start one (python run_server.py) or set TEMPORAL_ADDRESS"

# What the SDK's error contains, after `TLS` or `plain text`, and what is wrong; the first that fits counts. The SDK has
# one class for all of them, so its text has to tell: a text that it changes is shown as it is, after NOBODY.
DIAGNOSES = (
    (
        r"UnknownIssuer|BadSignature",
        "the certificate of the Temporal server at {address} is from a CA that is not trusted here;"
        " name that CA's certificate in TEMPORAL_TLS_SERVER_CA_CERT_PATH",
    ),
    (
        r"InvalidCertificate\(Expired",
        "the certificate of the Temporal server at {address} has expired; it must be renewed there",
    ),
    (
        r"NotValidForName",
        "the certificate of the Temporal server at {address} is for another host name; connect by a name that is in"
        " it, or set TEMPORAL_TLS_SERVER_NAME",
    ),
    (
        r"InvalidCertificate\((?:Other\(OtherError\()?(\w+)",
        "the certificate of the Temporal server at {address} is refused here ({0}); it must be replaced there",
    ),
    (
        r"InvalidContentType",
        "the server at {address} speaks plain text, not TLS; correct TEMPORAL_ADDRESS or, on a network that you trust,"
        " set TEMPORAL_TLS=false",
    ),
    (
        r"KeyMismatch|NoCertificatesPresented|PrivateKeyParseError|both client cert and private key",
        "the client's certificate and its key cannot be used together (for {address});"
        " check TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH",
    ),
    (
        r'(?:Unauthenticated|PermissionDenied), message: "(.*?)"',
        "the Temporal server at {address} refuses: {0}; check TEMPORAL_API_KEY",
    ),
    (
        r"^TLS.*(?:AlertReceived|handshake eof|hyper::Error)",
        "the Temporal server at {address} ends the TLS connection: it may refuse the client's certificate; check that"
        " TEMPORAL_TLS_CLIENT_CERT_PATH names one that it trusts and that has not expired",
    ),
    (
        r"^plain text.*hyper::Error",
        "the server at {address} does not answer in plain text; set TEMPORAL_TLS=true if it speaks TLS, or correct"
        " TEMPORAL_ADDRESS",
    ),
)


def diagnose(error: Exception, address: str, *, is_secure: bool) -> str:
    """Return in one line what is wrong, where, and what to do."""
    said = " ".join(str(error).split()) or "no answer in time"
    for pattern, diagnosis in DIAGNOSES:
        if match := re.search(pattern, f"{'TLS' if is_secure else 'plain text'}: {said}"):
            return diagnosis.format(*match.groups(), address=address)
    return f"{NOBODY.format(address=address)}; the SDK says: {said}"
