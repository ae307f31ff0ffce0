"""The echo agent of the Python release with its durable usage store, on a free
port; the first line of its output says where.

    server.py USAGE-DATABASE
"""

import asyncio
import logging
import socket
import sys

import structlog
import uvicorn
from asap.economics.storage import SQLiteMeteringStorage
from asap.models.entities import Capability, Endpoint, Manifest, Skill
from asap.transport.handlers import HandlerRegistry, create_echo_handler
from asap.transport.server import create_app

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
logging.disable(logging.CRITICAL)

listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
manifest = Manifest(
    id="urn:asap:agent:python-echo",
    name="Echo of the Python release",
    version="1.3.0",
    description="Gives back its input",
    capabilities=Capability(asap_version="0.1", skills=[Skill(id="echo", description="Gives back its input")]),
    endpoints=Endpoint(asap=url + "/asap"),
)
registry = HandlerRegistry()
registry.register("task.request", create_echo_handler())
app = create_app(
    manifest, registry, metering_storage=SQLiteMeteringStorage(sys.argv[1]), rate_limit="100000000/minute", websocket_message_rate_limit=None
)
print("serves at " + url, flush=True)
try:
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).serve(sockets=[listener]))
except KeyboardInterrupt:
    pass
