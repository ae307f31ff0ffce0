"""Reports checks to the Go program that started the script: one JSON object for
each on a line that begins with CHECK. Everything else on standard output is the
library's log."""

import json
import logging
import os
import sys
import traceback

import structlog


def quiet():
    """Leaves the library's log out, which goes to standard output."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)


def tell(name, error="", detail=""):
    line = {"name": name, "error": error, "detail": detail}
    sys.stdout.write("CHECK " + json.dumps(line) + "\n")
    sys.stdout.flush()


async def check(name, function):
    """Runs one check: an exception is its failure, what it returns its detail."""
    try:
        detail = await function()
    except Exception as error:  # every failure is a result
        if os.environ.get("INTEROP_TRACE"):
            traceback.print_exc()
        tell(name, error=f"{type(error).__name__}: {error}"[:500] or "failed")
    else:
        tell(name, detail=detail or "")


def equal(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {str(got)[:150]!r}, want {str(want)[:150]!r}")


def true(condition, what):
    if not condition:
        raise AssertionError(what)
