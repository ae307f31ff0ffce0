"""Agents of the release for our client: create_app with echo and metering, on
one port each.

    server.py PORT PORT-WITH-LIMITS PORT-WITH-TOKEN
"""

import asyncio
import sys

import uvicorn
from asap.economics.storage import InMemoryMeteringStorage
from asap.models.entities import AuthScheme, Capability, Endpoint, Manifest, Skill
from asap.transport.handlers import HandlerRegistry, create_echo_handler
from asap.transport.server import create_app

from checks import quiet

TOKEN = "interop-token"
TOKEN_HOLDER = "urn:asap:agent:go-token"


def app(port, auth=None, **options):
    manifest = Manifest(
        id="urn:asap:agent:python-echo",
        name="Echo of the Python release",
        version="1.3.0",
        description="Gives back its input",
        capabilities=Capability(asap_version="0.1", skills=[Skill(id="echo", description="Gives back its input")]),
        endpoints=Endpoint(asap=f"http://127.0.0.1:{port}/asap"),
        auth=auth,
    )
    registry = HandlerRegistry()
    registry.register("task.request", create_echo_handler())
    return create_app(manifest, registry, metering_storage=InMemoryMeteringStorage(), **options)


async def main(plain, limited, token):
    free = {"rate_limit": "1000000/minute", "websocket_message_rate_limit": None}
    apps = {
        plain: app(plain, **free),
        # Few enough that our client meets the limits, many enough for its three attempts.
        limited: app(limited, rate_limit="5/second", websocket_message_rate_limit=10.0),
        token: app(
            token,
            auth=AuthScheme(schemes=["bearer"]),
            token_validator=lambda text: TOKEN_HOLDER if text == TOKEN else None,
            **free,
        ),
    }
    servers = [
        uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_level="error"))
        for port, application in apps.items()
    ]
    for server in servers:
        server.install_signal_handlers = lambda: None
    await asyncio.gather(*(server.serve() for server in servers))


quiet()
asyncio.run(main(*map(int, sys.argv[1:4])))
