"""The release's client against a node of ours that demands credentials and limits
what a caller may send. The client has no option for credentials: the checks add
the header below it.

    strict.py URL OPERATOR-TOKEN-FILE TOKEN-OF-THE-SENDER
"""

import asyncio
import sys
from pathlib import Path

import httpx
from asap.models.envelope import Envelope
from asap.models.payloads import TaskRequest
from asap.transport.client import ASAPClient, ASAPRemoteError

from checks import check, equal, quiet, true

URL, TOKEN_FILE, TOKEN = sys.argv[1:4]
OPERATOR = {"Authorization": "Bearer " + Path(TOKEN_FILE).read_text().strip()}
SENDER = "urn:asap:agent:python"


class WithToken(httpx.AsyncBaseTransport):
    """Sends a bearer token along, and counts the answers by status."""

    def __init__(self, token):
        self.inner, self.token, self.statuses = httpx.AsyncHTTPTransport(), token, []

    async def handle_async_request(self, request):
        if self.token:
            request.headers["Authorization"] = "Bearer " + self.token
        answer = await self.inner.handle_async_request(request)
        self.statuses.append(answer.status_code)
        return answer

    async def aclose(self):
        await self.inner.aclose()


def request(n, sender=SENDER, text=""):
    payload = TaskRequest(conversation_id="interop", skill_id="echo", input={"n": n, "text": text})
    return Envelope(asap_version="0.1", sender=sender, recipient="urn:asap:agent:echo", payload_type="task.request", payload=payload.model_dump())


def client(transport, **options):
    return ASAPClient(URL, require_https=False, transport=transport, max_retries=30, base_delay=0.2, **options)


async def recorded(tasks):
    async with httpx.AsyncClient(headers=OPERATOR) as http:
        for _ in range(20):
            answer = await http.get(URL + "/usage", params={"consumer_id": SENDER, "limit": 1000})
            if answer.status_code != 429:
                break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        answer.raise_for_status()
        found = [one["task_id"] for one in answer.json()["data"]]
    equal(sorted(found), sorted(tasks), "tasks in the ledger")
    return f"{len(found)} recorded"


async def refused(token, sender, code):
    async with client(WithToken(token)) as c:
        try:
            await c.send(request(0, sender))
        except ASAPRemoteError as error:
            equal((error.data or {}).get("code"), code, "stable code")
            return f"{error.code} {code}"
    raise AssertionError("not refused")


async def nobody():
    return await refused("", SENDER, "unauthenticated")


async def forged():
    return await refused(TOKEN[:-8] + "AAAAAAAA", SENDER, "unauthenticated")


async def somebody_else():
    return await refused(TOKEN, "urn:asap:agent:other", "sender_mismatch")


done = []


async def limited():
    """More than may pass, large bodies among them: 429 must arrive, and be obeyed."""
    wire = WithToken(TOKEN)
    async with client(wire, compression=False) as c:
        es = [request(n, text="x" * (3_000_000 if n % 5 == 0 else 10)) for n in range(20)]
        for e, a in zip(es, await c.send_batch(es), strict=True):
            equal(a.correlation_id, e.id, "correlation id")
            done.append(a.payload["task_id"])
    true(429 in wire.statuses, "the limit was not met")
    return f"429 {wire.statuses.count(429)} times, " + await recorded(done)


CHECKS = {
    "credentials: none": nobody,
    "credentials: forged": forged,
    "credentials: those of another sender": somebody_else,
    "credentials: a token of asap token mint, 20 tasks at once where 5 a second may pass": limited,
}


async def main():
    for name, function in CHECKS.items():
        await check(name, function)


quiet()
asyncio.run(main())
