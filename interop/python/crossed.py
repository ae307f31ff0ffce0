"""What the library does with keys, manifests and delegation tokens, for the Go
side to compare: reads one JSON request from standard input, and answers with one
JSON object on a line that begins with ANSWER."""

import json
import sys
from datetime import datetime, timedelta, timezone

from asap.crypto.keys import load_private_key_from_pem, load_public_key_from_base64, public_key_to_base64
from asap.crypto.models import SignedManifest
from asap.crypto.signing import sign_manifest, verify_manifest
from asap.crypto.trust import sign_with_ca, verify_ca_signature
from asap.discovery.registry import LiteRegistry, generate_registry_entry
from asap.economics.delegation import DelegationConstraints, create_delegation_jwt, validate_delegation
from asap.models.entities import Manifest

from checks import quiet


def key(request, name="key"):
    return load_private_key_from_pem(request[name].encode())


def sign(request):
    return sign_manifest(Manifest.model_validate(request["manifest"]), key(request)).model_dump(mode="json")


def sign_as_authority(request):
    manifest = Manifest.model_validate(request["manifest"])
    return sign_with_ca(manifest, key(request), key(request)).model_dump(mode="json")


def verify(request):
    public = request.get("public_key")
    verify_manifest(SignedManifest.model_validate(request["signed"]), load_public_key_from_base64(public) if public else None)


def verify_authority(request):
    verify_ca_signature(SignedManifest.model_validate(request["signed"]), request["known"])


def public_key(request):
    return public_key_to_base64(key(request).public_key())


def delegate(request):
    constraints = DelegationConstraints(
        max_tasks=request.get("max_tasks"),
        max_cost_usd=request.get("max_cost_usd"),
        expires_at=datetime.now(timezone.utc) + timedelta(seconds=request.get("expires_in", 3600)),
    )
    return create_delegation_jwt(request["delegator"], request["delegate"], request["scopes"], constraints, key(request))


def judge(request):
    keys = {urn: load_public_key_from_base64(text) for urn, text in request["keys"].items()}
    used = request.get("used")
    revoked = request.get("revoked", [])
    result = validate_delegation(
        request["token"],
        request["action"],
        public_key_resolver=lambda urn: keys[urn],
        usage_count_for_token=None if used is None else lambda _: used,
        is_revoked=lambda jti: jti in revoked,
    )
    return {"success": result.success, "error": result.error, "delegator": result.delegator,
            "delegate": result.delegate, "jti": result.jti, "scopes": result.scopes}


def lite_registry(request):
    entries = [generate_registry_entry(Manifest.model_validate(one["manifest"]), one["endpoints"]) for one in request["agents"]]
    document = LiteRegistry(version="1.0", updated_at=datetime.now(timezone.utc), agents=entries)
    return json.loads(document.model_dump_json())


ACTIONS = {f.__name__: f for f in (sign, sign_as_authority, verify, verify_authority, public_key, delegate, judge, lite_registry)}

quiet()
request = json.load(sys.stdin)
try:
    answer = {"value": ACTIONS[request["do"]](request)}
except Exception as error:  # the Go side decides whether it was to be refused
    answer = {"error": f"{type(error).__name__}: {error}"}
print("ANSWER " + json.dumps(answer))
