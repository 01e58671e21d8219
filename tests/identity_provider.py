"""An OpenID Connect identity provider on this host, for tests: one user, who is logged in at once."""

import base64
import functools
import hashlib
import secrets
import threading
import time
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Route

CLIENT, SECRET = "page", "s" * 40


class Provider:
    """What it knows and signs; tests change its attributes.

    Attributes:
        address: of the provider, and the issuer of its tokens.
        claims: added to each ID token, or put in the place of others; None leaves a claim out.
        sign: makes an ID token of claims.
        asked: names of the endpoints that were asked.
    """

    def __init__(self):
        self.address = ""
        self.known = {}
        self.claims = {"preferred_username": "ana"}
        self.keys = KeySet([_make_key()])
        self.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": self.keys.keys[0].kid}, claims, self.keys)
        self.asked = []
        self._codes = {}

    def tell(self, _request):
        """Answer a request for what the provider says of itself."""
        self.asked.append("discovery")
        return JSONResponse(
            {
                "issuer": self.address, "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": f"{self.address}/token", "jwks_uri": f"{self.address}/keys", **self.known,
            }
        )  # fmt: skip

    def tell_keys(self, _request):
        self.asked.append("keys")
        return JSONResponse(self.keys.as_dict(private=False))

    def authorize(self, request):
        """Log the user in and send the browser back with a code."""
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert {"openid", "profile", "email"} == set(asked["scope"].split())
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}", 302)

    async def exchange(self, request):
        """Exchange a code, once, for whoever knows the verifier and the client's secret."""
        self.asked.append("token")
        form = dict(parse_qsl((await request.body()).decode()))
        asked = self._codes.pop(form.get("code"), None)
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        if asked is None or request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_grant"}, 400)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if challenge.decode() != asked["code_challenge"] or form["redirect_uri"] != asked["redirect_uri"]:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.address, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 60, "nonce": asked["nonce"],
            **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return JSONResponse({"access_token": "t", "token_type": "Bearer", "id_token": self.sign(claims)})


@functools.cache
def _make_key():
    return RSAKey.generate_key(2048, {"kid": "1"})


@contextmanager
def serve_provider():
    """Serve a provider on loopback; yields it."""
    provider = Provider()
    routes = [
        Route("/.well-known/openid-configuration", provider.tell), Route("/keys", provider.tell_keys),
        Route("/authorize", provider.authorize), Route("/token", provider.exchange, methods=["POST"]),
    ]  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        provider.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield provider
    finally:
        server.should_exit = True
        thread.join()
