"""The release's client against our node: HTTP, WebSocket, TLS, discovery. Every
check that does work has a sender of its own, and looks in the node's ledger for
what was recorded for it: each task once.

    client.py URL URL-WITH-TLS OPERATOR-TOKEN-FILE SIGNED-MANIFEST-URL SIGNER-PUBLIC-KEY
"""

import asyncio
import sys
from pathlib import Path

import httpx
from asap.discovery.registry import discover_from_registry, find_by_id, find_by_skill, reset_registry_cache
from asap.errors import SignatureVerificationError
from asap.models.entities import Manifest
from asap.models.envelope import Envelope
from asap.models.payloads import StateQuery, TaskCancel, TaskRequest, TaskResponse
from asap.transport import compression
from asap.transport.client import ASAPClient, ASAPConnectionError, ASAPRemoteError
from asap.transport.websocket import WebSocketConnectionPool, WebSocketTransport

from checks import check, equal, quiet, true

URL, TLS_URL, TOKEN_FILE, SIGNED_URL, SIGNER = sys.argv[1:6]
OPERATOR = {"Authorization": "Bearer " + Path(TOKEN_FILE).read_text().strip()}
AGENT = "urn:asap:agent:echo"
NOTES = {"text": "žluťoučký 🐎 \u2028 \"\\", "list": [1, 2.5, -0.001, 1e21, True, None], "deep": {"a": {"b": [{}]}}}


def request(sender, given=None, skill="echo", **more):
    payload = TaskRequest(conversation_id="interop", skill_id=skill, input=NOTES if given is None else given)
    members = {"payload_type": "task.request"} | more
    return Envelope(asap_version="0.1", sender=urn(sender), recipient=AGENT, payload=payload.model_dump(), **members)


def urn(sender):
    return "urn:asap:agent:interop-" + sender


def client(url=URL, **options):
    return ASAPClient(url, require_https=False, **{"base_delay": 0.05, "jitter": False} | options)


def answered(envelope, answer):
    """Checks an answer and returns the id of its task."""
    equal(answer.payload_type, "task.response", "payload type")
    equal(answer.correlation_id, envelope.id, "correlation id")
    equal(answer.sender, AGENT, "sender")
    equal(answer.recipient, envelope.sender, "recipient")
    response = TaskResponse.model_validate(dict(answer.payload))
    equal(response.status.value, "completed", "status")
    given = envelope.payload["input"]
    true(given in (response.result, response.result.get("echoed")), f"the echo is {str(response.result)[:100]}")
    true(set(answer.extensions["asap-receipt"]) == {"seq", "id", "hash"}, "receipt")
    return response.task_id


async def recorded(sender, tasks):
    """Checks that the ledger holds the tasks of the sender, and each of them once."""
    async with httpx.AsyncClient(headers=OPERATOR) as http:
        answer = await http.get(URL + "/usage", params={"consumer_id": urn(sender), "limit": 1000})
        answer.raise_for_status()
        found = answer.json()["data"]
    equal(sorted(one["task_id"] for one in found), sorted(tasks), "tasks in the ledger")
    return f"{len(found)} recorded"


async def refused(call, code, name=None):
    try:
        await call
    except ASAPRemoteError as error:
        equal(error.code, code, "JSON-RPC code")
        if name:
            equal((error.data or {}).get("code"), name, "stable code")
        return f"{error.code} {(error.data or {}).get('code', '')}"
    raise AssertionError("not refused")


class Wire(httpx.AsyncBaseTransport):
    """The network, with what a check wants to see or break."""

    def __init__(self, broken=0, how=None):
        self.inner, self.broken, self.how = httpx.AsyncHTTPTransport(), broken, how
        self.encodings, self.bodies = [], []

    async def handle_async_request(self, request):
        self.encodings.append(request.headers.get("Content-Encoding", "identity"))
        self.bodies.append(await request.aread())
        answer = await self.inner.handle_async_request(request)
        if self.broken > 0:
            # The node has done the work; its answer does not arrive.
            self.broken -= 1
            await answer.aread()
            return self.how(request)
        return answer

    async def aclose(self):
        await self.inner.aclose()


def lost(request):
    raise httpx.ReadTimeout("the answer is lost", request=request)


def gateway(request):
    return httpx.Response(502, text="bad gateway", request=request)


# --- HTTP ---


async def send():
    async with client() as c:
        e = request("send", trace_id="trace-of-interop")
        answer = await c.send(e)
        equal(answer.trace_id, "trace-of-interop", "trace id")
        return await recorded("send", [answered(e, answer)])


async def names():
    async with client() as c:
        tasks = []
        for name in ("TaskRequest", "task_request"):
            e = request("names", payload_type=name)
            tasks.append(answered(e, await c.send(e)))
        return await recorded("names", tasks)


async def batch():
    async with client() as c:
        es = [request("batch", {"n": n}) for n in range(200)]
        return await recorded("batch", [answered(e, a) for e, a in zip(es, await c.send_batch(es), strict=True)])


async def batch_with_refusals():
    async with client() as c:
        es = [request("mixed", {"n": n}, skill="echo" if n % 3 else "nobody") for n in range(60)]
        got = await c.send_batch(es, return_exceptions=True)
        equal([isinstance(a, ASAPRemoteError) for a in got], [n % 3 == 0 for n in range(60)], "which are refused")
        return await recorded("mixed", [answered(e, a) for e, a in zip(es, got, strict=True) if isinstance(a, Envelope)])


async def compressed(sender, want, **options):
    wire = Wire()
    async with client(transport=wire, **options) as c:
        e = request(sender, {"text": "large enough to be worth it " * 4000})
        task = answered(e, await c.send(e))
    equal(wire.encodings, [want], "content encoding")
    return f"{len(wire.bodies[0])} bytes, " + await recorded(sender, [task])


async def brotli():
    return await compressed("br", "br")


async def gzip():
    best, compression.is_brotli_available = compression.is_brotli_available, lambda: False
    try:
        return await compressed("gzip", "gzip")
    finally:
        compression.is_brotli_available = best


async def identity():
    return await compressed("identity", "identity", compression=False)


async def too_large():
    for compress in (False, True):
        async with client(compression=compress) as c:
            try:
                await c.send(request("huge", {"text": "x" * 11_000_000}))
            except ASAPConnectionError as error:
                true("413" in str(error), str(error)[:200])
            else:
                raise AssertionError("11 MB were taken")
    return await recorded("huge", [])


async def retried(sender, how, broken=2):
    wire = Wire(broken, how)
    async with client(transport=wire) as c:
        e = request(sender)
        task = answered(e, await c.send(e))
    equal(len(wire.bodies), broken + 1, "attempts")
    return f"{len(wire.bodies)} attempts, " + await recorded(sender, [task])


async def retry_after_lost_answer():
    return await retried("lost", lost)


async def retry_after_502():
    return await retried("gateway", gateway)


async def same_again():
    async with client() as c:
        e = request("again")
        first, second = await c.send(e), await c.send(e)
        equal(second.model_dump(), first.model_dump(), "second answer")
        return await recorded("again", [answered(e, first)])


async def same_at_once():
    async with client() as c:
        e = request("once")
        got = await c.send_batch([e] * 20)
        equal(len({a.id for a in got}), 1, "answers")
        return await recorded("once", [answered(e, got[0])])


async def other_content():
    async with client() as c:
        e = request("conflict")
        task = answered(e, await c.send(e))
        other = request("conflict", {"other": 1}, id=e.id)
        how = await refused(c.send(other), -32602, "idempotency_conflict")
        await recorded("conflict", [task])
        return how


async def unknown_skill():
    async with client() as c:
        how = await refused(c.send(request("skill", skill="dance")), -32601, "skill_unknown")
        await recorded("skill", [])
        return how


async def unknown_payload_type():
    async with client() as c:
        return await refused(c.send(request("type", payload_type="task.dance")), -32601)


async def bad_payload():
    async with client() as c:
        e = request("payload")
        e = e.model_copy(update={"payload": {"skill_id": "echo", "surprise": 1}})
        return await refused(c.send(e), -32602, "payload_invalid")


async def old_timestamp():
    async with client() as c:
        e = request("old", timestamp="2020-01-01T00:00:00Z")
        how = await refused(c.send(e), -32602, "asap:protocol/invalid_timestamp")
        await recorded("old", [])
        return how


async def query_and_cancel():
    async with client() as c:
        e = request("query")
        task = answered(e, await c.send(e))

        def about(kind, payload):
            return Envelope(asap_version="0.1", sender=urn("query"), recipient=AGENT, payload_type=kind, payload=payload.model_dump())

        answer = await c.send(about("state.query", StateQuery(task_id=task)))
        response = TaskResponse.model_validate(dict(answer.payload))
        equal((response.task_id, response.status.value), (task, "completed"), "state")
        how = await refused(c.send(about("task.cancel", TaskCancel(task_id=task))), -32602, "asap:task/already_completed")
        return how + ", " + await recorded("query", [task])


# --- discovery ---


async def discover():
    async with client() as c:
        manifest = await c.discover(URL)
        equal(manifest.id, AGENT, "agent")
        equal((await c.get_manifest()).model_dump(), manifest.model_dump(), "get_manifest")
        return manifest.endpoints.asap


async def revalidate():
    async with httpx.AsyncClient() as http:
        where = URL + "/.well-known/asap/manifest.json"
        first = await http.get(where)
        again = await http.get(where, headers={"If-None-Match": first.headers["ETag"]})
        equal((first.status_code, again.status_code, again.content), (200, 304, b""), "answers")
        return first.headers["Cache-Control"]


async def follow_manifest():
    async with client() as c:
        manifest = await c.discover(URL)
    async with client(manifest.endpoints.asap.removesuffix("/asap")) as c:
        e = request("follow")
        return await recorded("follow", [answered(e, await c.send(e))])


async def health():
    async with client() as c:
        status = await c.health_check(URL)
        equal((status.status, status.agent_id), ("healthy", AGENT), "health")
        return f"version {status.version}, ASAP {status.asap_version}"


async def lite_registry():
    registry = await discover_from_registry(URL + "/registry.json")
    true(find_by_id(registry, AGENT), "the echo agent is not found by its id")
    equal([one.id for one in find_by_skill(registry, "echo")].count(AGENT), 1, "found by skill")
    return f"{len(registry.agents)} agents"


async def signed():
    async with client(verify_signatures=True, trusted_manifest_keys={SIGNED_URL: SIGNER}) as c:
        return (await c.get_manifest(SIGNED_URL)).id


async def signed_by_another():
    other = "A" * 42 + "E="
    async with client(verify_signatures=True, trusted_manifest_keys={SIGNED_URL: other}) as c:
        try:
            await c.get_manifest(SIGNED_URL)
        except SignatureVerificationError as error:
            return type(error).__name__
    raise AssertionError("a signature of another key was taken")


async def registered():
    """A manifest that the release signed, in our registry, is found as it was."""
    from asap.crypto.keys import generate_keypair
    from asap.crypto.models import SignedManifest
    from asap.crypto.signing import sign_manifest, verify_manifest
    from asap.models.entities import Capability, Endpoint, Skill

    agent = "urn:asap:agent:registered"
    manifest = Manifest(
        id=agent, name="Registered", version="1.0.0", description="Signed by the Python release, držitel",
        capabilities=Capability(asap_version="0.1", skills=[Skill(id="count", description="Counts")]),
        endpoints=Endpoint(asap="https://agent.example.com/asap"),
    )
    mine = sign_manifest(manifest, generate_keypair()[0])
    async with httpx.AsyncClient(headers=OPERATOR) as http:
        put = await http.put(f"{URL}/registry/agents/{agent}", json=mine.model_dump(mode="json"))
        true(put.status_code == 201, f"{put.status_code} {put.text[:200]}")
        got = (await http.get(f"{URL}/registry/agents/{agent}")).json()
    found = [v for v in got.values() if isinstance(v, dict) and "public_key" in v]
    verify_manifest(SignedManifest.model_validate(found[0]))
    equal(found[0], mine.model_dump(mode="json"), "signed manifest")
    reset_registry_cache()
    true(find_by_id(await discover_from_registry(URL + "/registry.json"), agent), "it is not in /registry.json")
    return "also in /registry.json"


# --- WebSocket ---


async def ws_send():
    async with client(transport_mode="websocket") as c:
        tasks = []
        for n in range(30):
            e = request("ws", {"n": n})
            tasks.append(answered(e, await c.send(e)))
        return await recorded("ws", tasks)


async def ws_at_once():
    async with client(transport_mode="websocket") as c:
        es = [request("wsmany", {"n": n}) for n in range(100)]
        got = await asyncio.gather(*(c.send(e) for e in es))
        return await recorded("wsmany", [answered(e, a) for e, a in zip(es, got, strict=True)])


async def ws_scheme():
    async with client(URL.replace("http://", "ws://")) as c:
        e = request("wsscheme")
        return await recorded("wsscheme", [answered(e, await c.send(e))])


async def ws_large():
    async with client(transport_mode="websocket") as c:
        e = request("wslarge", {"text": "x" * 900_000})
        return await recorded("wslarge", [answered(e, await c.send(e))])


async def ws_refusal():
    async with client(transport_mode="websocket") as c:
        how = await refused(c.send(request("wsskill", skill="dance")), -32601, "skill_unknown")
        e = request("wsskill")
        await recorded("wsskill", [answered(e, await c.send(e))])
        return how + ", and the connection goes on"


async def ws_acknowledged():
    transport = WebSocketTransport(receive_timeout=10)
    await transport.connect(URL.replace("http://", "ws://") + "/asap/ws")
    async with transport:
        e = request("wsack")
        answer = await transport.send_and_receive(e)
        for _ in range(100):
            if not transport._pending_acks:
                break
            await asyncio.sleep(0.02)
        equal(list(transport._pending_acks), [], "messages without acknowledgement")
        return await recorded("wsack", [answered(e, answer)])


async def ws_resent():
    """The client sends again, under another JSON-RPC id, what it thinks lost."""
    transport = WebSocketTransport(receive_timeout=10)
    await transport.connect(URL.replace("http://", "ws://") + "/asap/ws")
    async with transport:
        e = request("wsresent")
        first = await transport.send_and_receive(e)
        await transport._send_envelope_only(e)
        second = await transport.send_and_receive(e)
        equal(second.id, first.id, "answer")
        return await recorded("wsresent", [answered(e, first)])


async def ws_then_http():
    e = request("both")
    async with client(transport_mode="websocket") as c:
        first = await c.send(e)
    async with client() as c:
        second = await c.send(e)
    equal(second.model_dump(), first.model_dump(), "answer over HTTP")
    return await recorded("both", [answered(e, first)])


async def ws_pool():
    pool = WebSocketConnectionPool(URL.replace("http://", "ws://") + "/asap/ws", max_size=4)

    async def one(n):
        e = request("pool", {"n": n})
        async with pool.acquire_context() as transport:
            return answered(e, await transport.send_and_receive(e))

    try:
        return await recorded("pool", await asyncio.gather(*(one(n) for n in range(40))))
    finally:
        await pool.close()


# --- TLS ---


async def http2():
    async with client(TLS_URL) as c:
        versions = []
        c._client.event_hooks["response"].append(lambda r: seen(versions, r))
        es = [request("h2", {"n": n}) for n in range(50)]
        for e, a in zip(es, await c.send_batch(es), strict=True):
            answered(e, a)
        equal(set(versions), {"HTTP/2"}, "HTTP versions")
        return f"{len(versions)} answers over HTTP/2"


async def seen(versions, response):
    versions.append(response.http_version)


async def wss():
    async with client(TLS_URL, transport_mode="websocket") as c:
        e = request("wss")
        answered(e, await c.send(e))


CHECKS = {
    "HTTP: a task, trace id and receipt": send,
    "HTTP: the other spellings of task.request": names,
    "HTTP: a batch of 200": batch,
    "HTTP: a batch of 60, every third refused": batch_with_refusals,
    "HTTP: brotli": brotli,
    "HTTP: gzip": gzip,
    "HTTP: uncompressed": identity,
    "HTTP: 11 MB, plain and compressed, are refused with 413": too_large,
    "HTTP: retries after lost answers": retry_after_lost_answer,
    "HTTP: retries after 502": retry_after_502,
    "HTTP: the same envelope twice": same_again,
    "HTTP: the same envelope twenty times at once": same_at_once,
    "HTTP: other content under a used envelope id": other_content,
    "HTTP: unknown skill": unknown_skill,
    "HTTP: unknown payload type": unknown_payload_type,
    "HTTP: payload that does not fit": bad_payload,
    "HTTP: old timestamp": old_timestamp,
    "HTTP: state.query and task.cancel of a task that has ended": query_and_cancel,
    "discovery: discover and get_manifest": discover,
    "discovery: ETag": revalidate,
    "discovery: calling what the manifest names": follow_manifest,
    "discovery: health": health,
    "discovery: Lite Registry": lite_registry,
    "discovery: signed manifest, trusted key": signed,
    "discovery: signed manifest, another key": signed_by_another,
    "discovery: a manifest it signed, in our registry": registered,
    "WebSocket: 30 tasks": ws_send,
    "WebSocket: 100 tasks at once": ws_at_once,
    "WebSocket: a ws:// URL": ws_scheme,
    "WebSocket: 900 kB": ws_large,
    "WebSocket: refusal": ws_refusal,
    "WebSocket: acknowledgement": ws_acknowledged,
    "WebSocket: sent again": ws_resent,
    "WebSocket: answered there, asked again over HTTP": ws_then_http,
    "WebSocket: connection pool": ws_pool,
    "TLS: a batch of 50 over HTTP/2": http2,
    "TLS: WebSocket": wss,
}


async def main():
    for name, function in CHECKS.items():
        await check(name, function)


quiet()
asyncio.run(main())
