"""The release's OAuth2 client and its client certificates (mTLS) against a node that
demands proof of who calls.

    proof.py URL TOKEN-URL CERTIFICATE KEY AUTHORITY
"""

import asyncio
import sys

import httpx
from asap.auth.oauth2 import OAuth2ClientCredentials
from asap.models.envelope import Envelope
from asap.models.payloads import TaskRequest
from asap.transport.client import ASAPClient, ASAPConnectionError, ASAPRemoteError
from asap.transport.mtls import MTLSConfig

from checks import check, equal, quiet

URL, TOKEN_URL, CERTIFICATE, KEY, AUTHORITY = sys.argv[1:6]
HOLDER = "urn:asap:agent:holder"


class WithToken(httpx.AsyncBaseTransport):
    def __init__(self, token):
        self.inner, self.token = httpx.AsyncHTTPTransport(verify=AUTHORITY), token

    async def handle_async_request(self, request):
        request.headers["Authorization"] = "Bearer " + self.token
        return await self.inner.handle_async_request(request)

    async def aclose(self):
        await self.inner.aclose()


def request(sender):
    payload = TaskRequest(conversation_id="interop", skill_id="echo", input={"n": 1})
    return Envelope(asap_version="0.1", sender=sender, recipient="urn:asap:agent:echo", payload_type="task.request", payload=payload.model_dump())


async def passes(c):
    e = request(HOLDER)
    answer = await c.send(e)
    equal((answer.correlation_id, answer.payload["status"]), (e.id, "completed"), "answer")


async def refused(c, sender):
    try:
        await c.send(request(sender))
    except (ASAPRemoteError, ASAPConnectionError) as error:
        return str(getattr(error, "data", None) and error.data.get("code") or "401" if "401" in str(error) else error)[:80]
    raise AssertionError("not refused")


async def oauth2():
    token = await OAuth2ClientCredentials("interop", "secret", TOKEN_URL, scope="asap:execute").get_valid_token()
    async with ASAPClient(URL, transport=WithToken(token.access_token), max_retries=1) as c:
        await passes(c)
        return "another sender: " + await refused(c, "urn:asap:agent:other")


async def oauth2_forged():
    token = (await OAuth2ClientCredentials("interop", "secret", TOKEN_URL).get_valid_token()).access_token
    async with ASAPClient(URL, transport=WithToken(token[:-8] + "AAAAAAAA"), max_retries=1) as c:
        return await refused(c, HOLDER)


def mtls(authority=None, **options):
    """Over HTTP the authority comes from SSL_CERT_FILE: with one of its own, httpx 0.28
    leaves the client certificate out."""
    return ASAPClient(URL, mtls_config=MTLSConfig(CERTIFICATE, KEY, authority), max_retries=1, **options)


async def certificate():
    async with mtls() as c:
        await passes(c)
        return "another sender: " + await refused(c, "urn:asap:agent:other")


async def certificate_on_socket():
    async with mtls(AUTHORITY, transport_mode="websocket") as c:
        await passes(c)


async def no_certificate():
    async with ASAPClient(URL, max_retries=1) as c:
        return await refused(c, HOLDER)


CHECKS = {
    "OAuth2: a token of client credentials": oauth2,
    "OAuth2: a forged token": oauth2_forged,
    "mTLS: a client certificate": certificate,
    "mTLS: a client certificate on a WebSocket": certificate_on_socket,
    "mTLS: no certificate": no_certificate,
}


async def main():
    for name, function in CHECKS.items():
        await check(name, function)


quiet()
asyncio.run(main())
