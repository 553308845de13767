"""Which addresses a broker may listen on: the one rule of who on the network can do what."""

from __future__ import annotations

from vanilla.protocol.urls import UNRELIABLE, Address

WAY_OUT = "listen on 127.0.0.1 or unix://, or say --insecure (insecure=True) if you mean it"


def check_exposure(address: Address, authenticated: bool, insecure: bool) -> None:
    """May a broker listen at *address*?

    Yes, if only this machine can reach it; else it has to be encrypted, and who connects has to show who it is. Tokens
    do not make up for encryption: they would be read on the way.

    :param authenticated: does who connects have to show who it is (client certificates, tokens)?
    :param insecure: whoever runs the broker takes the consequences.
    :raises ValueError: no; the text says what is missing.
    """
    if address.datagram:
        raise ValueError(f"{address}: a broker is told by --udp-datagram BYTES how long its datagrams may be")
    if not address.reliable:
        raise ValueError(f"{address}: who dials says whether what it sends may be lost: listen without {UNRELIABLE}")
    if address.is_local or insecure:
        return
    if not address.encrypted:
        raise ValueError(
            f"{address}: other machines can reach this address, and nothing is encrypted; listen on tls://, {WAY_OUT}"
        )
    if not authenticated:
        raise ValueError(
            f"{address}: other machines can reach this address, and whoever connects may do everything; "
            f"ask for tokens (--token-file) or client certificates (--tls-client-ca), {WAY_OUT}"
        )
