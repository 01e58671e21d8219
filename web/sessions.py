"""Signed sessions in a cookie, and how often somebody may try to log in."""

import secrets
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadData, URLSafeTimedSerializer

COOKIE: Final = "nightread_session"
#: Seconds after which a session ends, whatever its user does: a long shift.
LIFETIME_S: Final = 12 * 3600
#: Attempts to log in of one address, and the seconds in which they count.
ATTEMPTS: Final = 10
ATTEMPTS_S: Final = 60.0
_MOST_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Session:
    """What the cookie holds.

    Attributes:
        user: name of who has logged in; "" for nobody.
        form_token: random; every form repeats it, and it identifies the session.
    """

    user: str
    form_token: str


class Sessions:
    """Signs sessions and reads them back; those that were ended are refused until they would have expired."""

    def __init__(self, key: bytes) -> None:
        """Prepare the signature with a secret key."""
        self._serializer = URLSafeTimedSerializer(key, salt="nightread.web.session")
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, user: str = "") -> Session:
        """Return a new session of a user."""
        return Session(user, secrets.token_urlsafe(24))

    def write(self, session: Session) -> str:
        """Return the value of the cookie."""
        return str(self._serializer.dumps([session.user, session.form_token]))

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is forged, expired or ended."""
        try:
            user, form_token = self._serializer.loads(cookie, max_age=LIFETIME_S)
        except (BadData, ValueError, TypeError):
            return None
        with self._lock:
            return None if form_token in self._ended else Session(str(user), str(form_token))

    def end(self, session: Session) -> None:
        """End a session, also for whoever copied its cookie."""
        now = time.monotonic()
        with self._lock:
            self._ended[session.form_token] = now
            while self._ended and next(iter(self._ended.values())) < now - LIFETIME_S:
                self._ended.popitem(last=False)


class Attempts:
    """Counts attempts to log in, by address."""

    def __init__(self) -> None:
        """Begin without any."""
        self._times: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_allowed(self, address: str) -> bool:
        """Count an attempt; returns whether it may be made."""
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault(address, deque())
            self._times.move_to_end(address)
            if len(self._times) > _MOST_REMEMBERED:
                self._times.popitem(last=False)
            while times and times[0] < now - ATTEMPTS_S:
                times.popleft()
            if len(times) >= ATTEMPTS:
                return False
            times.append(now)
            return True
