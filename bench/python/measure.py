"""What the Python release takes for the work of P1, P3 and P5: prints one JSON
object on a line that begins with ANSWER. Times are medians.

    measure.py DIRECTORY TURNS [URL-OF-AN-ECHO-AGENT RECIPIENT]
"""

import asyncio
import json
import logging
import statistics
import sys
import time
from datetime import datetime, timedelta, timezone

import structlog
from asap.economics.delegation import DelegationConstraints, create_delegation_jwt, validate_delegation
from asap.economics.metering import UsageMetrics
from asap.economics.storage import SQLiteMeteringStorage
from asap.models.envelope import Envelope
from asap.models.payloads import TaskRequest
from asap.transport.client import ASAPClient
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
logging.disable(logging.CRITICAL)

DIRECTORY, TURNS = sys.argv[1], int(sys.argv[2])


def verify():
    key = Ed25519PrivateKey.generate()
    limits = DelegationConstraints(max_tasks=100, expires_at=datetime.now(timezone.utc) + timedelta(hours=1))
    token = create_delegation_jwt("urn:asap:agent:a", "urn:asap:agent:b", ["task.execute", "data.read"], limits, key)
    public = key.public_key()
    took = []
    for _ in range(TURNS):
        begin = time.perf_counter()
        result = validate_delegation(
            token,
            "task.execute",
            public_key_resolver=lambda _: public,
            usage_count_for_token=lambda _: 0,
            allowed_delegators={"urn:asap:agent:a"},
            is_revoked=lambda _: False,
        )
        took.append(time.perf_counter() - begin)
        if not result.success:
            raise SystemExit(f"refused: {result}")
    return statistics.median(took) * 1e6


async def record():
    store = SQLiteMeteringStorage(DIRECTORY + "/python-usage.db")
    count = 0

    async def one():
        nonlocal count
        while count < TURNS:
            count += 1
            await store.record(
                UsageMetrics(
                    task_id=f"task_{count}",
                    agent_id="urn:asap:agent:worker",
                    consumer_id=f"urn:asap:agent:consumer-{count % 8}",
                    tokens_in=1200,
                    tokens_out=340,
                    duration_ms=12,
                    api_calls=2,
                    timestamp=datetime.now(timezone.utc),
                )
            )

    await one()  # the table is made once
    count, begin = 0, time.perf_counter()
    # The store opens a connection for each record: with 64 at once it fails with "database is locked".
    await asyncio.gather(*(one() for _ in range(8)))
    return count / (time.perf_counter() - begin)


async def send(url, recipient):
    took = []
    async with ASAPClient(url, require_https=False) as client:
        for n in range(TURNS):
            payload = TaskRequest(conversation_id="bench", skill_id="echo", input={"n": n, "text": "the quick brown fox jumps over the lazy dog"})
            envelope = Envelope(
                asap_version="0.1", sender="urn:asap:agent:bench-python", recipient=recipient, payload_type="task.request", payload=payload.model_dump()
            )
            begin = time.perf_counter()
            await client.send(envelope)
            took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e6


answer = {"verify_us": verify(), "records_per_second": asyncio.run(record())}
if len(sys.argv) > 3:
    answer["task_us"] = asyncio.run(send(sys.argv[3], sys.argv[4]))
print("ANSWER " + json.dumps(answer), flush=True)
