"""What the release has types for, but no client: its REST routes and the breaches
told over its WebSocket, on a node that has something of everything. The release's
types refuse members they do not know, so what it knows is taken out first.

    full.py URL OPERATOR-TOKEN AGENT-TOKEN AGENT-PRIVATE-KEY
"""

import asyncio
import json
import sys
from datetime import UTC, datetime

import httpx
import websockets
from asap.crypto.keys import load_private_key_from_file_sync
from asap.economics.delegation import validate_delegation
from asap.economics.metering import UsageMetrics
from asap.economics.sla import SLABreach, SLAMetrics
from asap.transport.delegation_api import DelegationTokenDetail, DelegationTokenSummary
from asap.transport.websocket import SLA_BREACH_NOTIFICATION_METHOD, decode_frame_to_json

from checks import check, equal, quiet, true

URL, OPERATOR, AGENT, KEY = sys.argv[1:5]
ME, HELPER = "urn:asap:agent:go", "urn:asap:agent:helper"


def known(model, document):
    return model.model_validate({name: document[name] for name in model.model_fields if name in document})


def rest(token):
    return httpx.AsyncClient(base_url=URL, headers={"Authorization": "Bearer " + token})


async def get(path, token=OPERATOR, **params):
    async with rest(token) as http:
        answer = await http.get(path, params=params)
        equal(answer.status_code, 200, path)
        return answer.json()


async def delegations():
    """Created, listed, shown and revoked as the release does; its library takes the token."""
    async with rest(AGENT) as http:
        made = await http.post("/asap/delegations", json={"delegate": HELPER, "scopes": ["task.execute"], "expires_in_seconds": 600, "max_tasks": 3})
        equal(made.status_code, 201, "POST /asap/delegations")
        token, found = made.json()["token"], made.json()["id"]
        public = load_private_key_from_file_sync(KEY).public_key()
        judged = validate_delegation(token, "task.execute", public_key_resolver=lambda urn: public)
        true(judged.success, judged)
        listed = (await http.get("/asap/delegations")).json()
        true(found in [known(DelegationTokenSummary, one).id for one in listed], "it is not listed")
        detail = known(DelegationTokenDetail, (await http.get("/asap/delegations/" + found)).json())
        equal((detail.delegator, detail.delegate, detail.active, detail.revoked_at), (ME, HELPER, True, None), "detail")
        equal((await http.delete("/asap/delegations/" + found)).status_code, 204, "DELETE")
        detail = known(DelegationTokenDetail, (await http.get("/asap/delegations/" + found)).json())
        true(not detail.active and detail.revoked_at is not None, "not revoked")
    return "201, listed, 204, revoked"


async def usage():
    """A report as the release's model writes it is stored, once, and read back as that."""
    mine = UsageMetrics(task_id="release-1", agent_id=ME, consumer_id=HELPER, tokens_in=7, tokens_out=8, duration_ms=9, api_calls=1, timestamp=datetime.now(UTC))
    async with rest(AGENT) as http:
        for status in (201, 200):
            answer = await http.post("/usage", json=mine.model_dump(mode="json"))
            equal(answer.status_code, status, "POST /usage")
        equal((await http.post("/usage/batch", json={"events": [mine.model_dump(mode="json")]})).json()["count"], 1, "POST /usage/batch")
        equal((await http.post("/usage/validate", json=mine.model_dump(mode="json"))).json()["valid"], True, "POST /usage/validate")
    back = (await get("/usage", task_id="release-1"))["data"]
    equal([known(UsageMetrics, one) for one in back], [mine], "records")
    grouped = (await get("/usage/aggregate", group_by="agent"))["data"]
    true(all({"agent_id", "total_tokens", "total_duration_ms", "total_tasks"} <= set(one) for one in grouped), grouped[:1])
    for path in ("/usage/summary", "/usage/agents", "/usage/consumers", "/usage/stats", "/usage/export"):
        await get(path)
    return "counted once"


async def service_levels():
    for row in (await get("/sla", window="1h"))["data"]:
        metrics = {name: value or 0 for name, value in row["metrics"].items()}  # null is ours: no data
        known(SLAMetrics, metrics)
    for row in (await get("/sla/history"))["data"]:
        known(SLAMetrics, {name: value or 0 for name, value in row.items()})
    breaches = [known(SLABreach, one) for one in (await get("/sla/breaches", agent_id=ME, severity="critical"))["data"]]
    true(breaches and all(one.breach_type == "error_rate" and one.severity == "critical" for one in breaches), breaches)
    return f"{len(breaches)} breaches"


async def breaches_told():
    """sla.subscribe, and notifications that the release's type takes."""
    headers = {"Authorization": "Bearer " + OPERATOR}
    async with websockets.connect(URL.replace("http://", "ws://") + "/asap/ws", additional_headers=headers) as ws:
        await ws.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "sla.subscribe", "params": {"since_seq": 0}}))
        told, answered = [], False
        while not (told and answered):
            frame = decode_frame_to_json(await asyncio.wait_for(ws.recv(), 20))
            if frame.get("id") == 1:
                true("error" not in frame, frame)
                answered = True
            elif frame.get("method") == SLA_BREACH_NOTIFICATION_METHOD:
                true("id" not in frame, "a notification has no id")
                told.append(known(SLABreach, frame["params"]["breach"]))
        equal(told[0].agent_id, ME, "agent")
        await ws.send(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "sla.unsubscribe"}))
        while frame.get("id") != 2:
            frame = decode_frame_to_json(await asyncio.wait_for(ws.recv(), 20))
        return f"{told[0].breach_type} {told[0].severity}, unsubscribed"


async def heartbeat():
    """The release answers {"type":"ping"}; so do we, and do not charge for it."""
    async with websockets.connect(URL.replace("http://", "ws://") + "/asap/ws") as ws:
        await ws.send('{"type":"ping"}')
        equal(json.loads(await asyncio.wait_for(ws.recv(), 20)), {"type": "pong"}, "answer")
        return "pong"


CHECKS = {
    "REST: /asap/delegations, created, listed, shown, revoked": delegations,
    "REST: /usage with the release's UsageMetrics": usage,
    "REST: /sla with the release's SLAMetrics and SLABreach": service_levels,
    "WebSocket: sla.subscribe, sla.breach, sla.unsubscribe": breaches_told,
    "WebSocket: heartbeat": heartbeat,
}


async def main():
    for name, function in CHECKS.items():
        await check(name, function)


quiet()
asyncio.run(main())
