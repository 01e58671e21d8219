"""Login by an OpenID Connect identity provider, such as Keycloak or Entra ID: authorization code with PKCE.

The browser goes to the provider and comes back with a code. This module exchanges the code for an ID token, and checks
it: signature, issuer, audience, times and nonce (OpenID Connect Core 1.0, section 3.1.3.7). What a login needs until
the browser is back lies in a signed cookie of that browser, so that nobody can end the login of another.
"""

import hmac
import logging
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from authlib.common.security import generate_token
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from itsdangerous import BadData, URLSafeTimedSerializer
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from nightread.errors import NightreadError
from nightread.page_settings import is_protected
from nightread.settings import Settings

_log = logging.getLogger(__name__)

COOKIE: Final = "nightread_login"
#: Seconds in which a browser must come back.
LIFETIME_S: Final = 600
#: Signatures that a public key checks; neither `none` nor those with a shared secret.
_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_TIMEOUT_S: Final = 10.0
#: Seconds by which the provider's clock may differ.
_LEEWAY_S: Final = 60
_LONGEST_CODE: Final = 4096


class LoginRefused(NightreadError):
    """A login that the provider or a check refuses; the text holds nothing of the provider's answer."""


class ProviderUnavailable(NightreadError):
    """The provider cannot be reached, or is not the one of the settings."""


class IdentityProvider:
    """An identity provider whose users may log in; it is first asked when somebody does.

    Attributes:
        host: of its address, to tell users.
    """

    def __init__(self, settings: Settings, key: bytes) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: the provider's address, and what it knows of this page.
            key: signs the cookie of a login.
        """
        self._issuer, self._client = settings.web_oidc_issuer, settings.web_oidc_client
        self._secret = settings.web_oidc_secret.get_secret_value()
        self._claim = settings.web_oidc_claim
        self._return_to = f"{settings.web_address}/login/return"
        self.host = urlsplit(self._issuer).netloc
        self._serializer = URLSafeTimedSerializer(key, salt="nightread.web.login")
        self._known: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._lock = threading.Lock()

    def begin(self, following: str) -> tuple[str, str]:
        """Return the provider's address for a login, and the value of its cookie.

        Args:
            following: path of this page that is shown afterwards.

        Raises:
            ProviderUnavailable: it cannot be reached.
        """
        known, nonce, verifier = self._find_known(), generate_token(32), generate_token(64)
        with self._open(known) as session:
            address, state = session.create_authorization_url(
                known["authorization_endpoint"], code_verifier=verifier, nonce=nonce
            )
        return address, str(self._serializer.dumps([state, nonce, verifier, following]))

    def end(self, cookie: str | None, answer: Mapping[str, str]) -> tuple[str, str]:
        """Exchange the code with which a browser came back.

        Args:
            cookie: of `begin`.
            answer: parameters of the address.

        Returns:
            The user's name, and the path that is shown afterwards.

        Raises:
            LoginRefused: the login is another's, too old, or not what the provider signed.
            ProviderUnavailable: it cannot be reached.
        """
        try:
            state, nonce, verifier, following = self._serializer.loads(cookie or "", max_age=LIFETIME_S)
        except BadData:
            raise LoginRefused("the login was begun in another browser, or too long ago") from None
        if not hmac.compare_digest(state.encode(), answer.get("state", "").encode("utf-8", "replace")):
            raise LoginRefused("the login was begun elsewhere")
        code = answer.get("code", "")
        if answer.get("error") or not 0 < len(code) <= _LONGEST_CODE:
            raise LoginRefused("the identity provider refused the login")
        known = self._find_known()
        if answer.get("iss", known["issuer"]) != known["issuer"]:  # RFC 9207: another provider answered
            raise LoginRefused("the answer is another identity provider's")
        try:
            with self._open(known) as session:
                tokens = session.fetch_token(
                    known["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=verifier
                )
        except OAuthError:
            raise LoginRefused("the identity provider does not know the code") from None
        except (requests.RequestException, ValueError) as error:
            raise _unavailable(error) from None
        return self._read_name(self._read_claims(tokens, nonce)), following

    def _open(self, known: Mapping[str, Any]) -> OAuth2Session:
        methods = known.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        return OAuth2Session(
            self._client, self._secret or None, scope="openid profile email", redirect_uri=self._return_to,
            token_endpoint_auth_method=method if self._secret else "none", code_challenge_method="S256",
            default_timeout=_TIMEOUT_S,
        )  # fmt: skip

    def _find_known(self) -> dict[str, Any]:
        """Return what the provider says of itself (OpenID Connect Discovery 1.0); it is asked once.

        Raises:
            ProviderUnavailable: it cannot be reached, or names another issuer or addresses without TLS.
        """
        with self._lock:
            if not self._known:
                known = _get(f"{self._issuer}/.well-known/openid-configuration")
                addresses = [known.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
                if str(known.get("issuer", "")).rstrip("/") != self._issuer:
                    raise ProviderUnavailable("the identity provider is not the issuer in NIGHTREAD_WEB_OIDC_ISSUER")
                if not all(isinstance(address, str) and is_protected(address) for address in addresses):
                    raise ProviderUnavailable("the identity provider names addresses without TLS")
                self._known = known
            return self._known

    def _find_keys(self, *, anew: bool = False) -> KeySet:
        with self._lock:
            if self._keys is None or anew:
                self._keys = KeySet.import_key_set(_get(self._known["jwks_uri"]))  # type: ignore[arg-type]
            return self._keys

    def _read_claims(self, tokens: Mapping[str, Any], nonce: str) -> CodeIDToken:
        """Return the claims of an ID token, checked."""
        registry = JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
        text = tokens.get("id_token", "")
        try:
            try:
                token = jwt.decode(text, self._find_keys(), registry=registry)
            except InvalidKeyIdError:  # the provider has new keys
                token = jwt.decode(text, self._find_keys(anew=True), registry=registry)
            claims = CodeIDToken(
                token.claims, token.header,
                {
                    "iss": {"essential": True, "value": self._known["issuer"]},
                    "aud": {"essential": True, "value": self._client},
                },
                {"nonce": nonce, "client_id": self._client, "access_token": tokens.get("access_token")},
            )  # fmt: skip
            claims.validate(leeway=_LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            _log.warning("an ID token was refused: %s", type(error).__name__)
            raise LoginRefused("the identity provider's token is not valid") from None
        return claims

    def _read_name(self, claims: Mapping[str, Any]) -> str:
        name = claims.get(self._claim)
        if not isinstance(name, str) or not name:
            raise LoginRefused(f"the identity provider does not tell {self._claim} (NIGHTREAD_WEB_OIDC_CLAIM)")
        if self._claim == "email" and claims.get("email_verified") is not True:
            raise LoginRefused("the identity provider has not verified the email address")
        return name


def _get(address: str) -> dict[str, Any]:
    try:
        answer = requests.get(address, timeout=_TIMEOUT_S, allow_redirects=False)
        answer.raise_for_status()
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        raise _unavailable(error) from None
    if not isinstance(found, dict):
        raise _unavailable(TypeError())
    return found


def _unavailable(error: Exception) -> ProviderUnavailable:
    _log.warning("the identity provider cannot be used: %s", type(error).__name__)
    return ProviderUnavailable("the identity provider cannot be reached: try again, or tell who runs this page")
