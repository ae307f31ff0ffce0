"""The compliance harness of the release against a node: every check it reports."""

import asyncio
import sys

import httpx
from asap_compliance.config import ComplianceConfig
from asap_compliance.harness import (
    validate_handshake_async,
    validate_schema,
    validate_sla_async,
    validate_state_machine_async,
)
from asap_compliance.validators.state import _build_jsonrpc_request, _build_task_request_envelope

from checks import quiet, tell


def report(part, result):
    for one in result.checks:
        tell(f"{part}: {one.name}", "" if one.passed else one.message or "failed", one.message)
    tell(f"{part}: overall", "" if result.passed else "the harness does not pass it")


async def main(url):
    config = ComplianceConfig(agent_url=url)
    report("handshake", await validate_handshake_async(config))
    report("state", await validate_state_machine_async(config))
    report("sla", await validate_sla_async(config))

    # The schema part judges documents: here the node's answer to the harness's
    # own request, and the request itself.
    request = _build_jsonrpc_request(_build_task_request_envelope(config))
    async with httpx.AsyncClient() as client:
        answer = (await client.post(url + "/asap", json=request)).json()
    report("schema of the answer", validate_schema(answer["result"]["envelope"]))
    report("schema of the request", validate_schema(request["params"]["envelope"]))


quiet()
asyncio.run(main(sys.argv[1]))
