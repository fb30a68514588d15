"""Settings: every HEADRACE_… variable, with its unit, its default and its limits."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from headrace.domain.errors import Invalid
from headrace.domain.server import Role

KEY_CHARACTERS_MIN: Final = 16
_SIZE: Final = re.compile(r"(\d+)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def size_bytes(text: str, name: str) -> int:
    """Read a size such as 512MB or 2GiB (both powers of two). Raises Invalid, naming it."""
    if not (found := _SIZE.fullmatch(text.strip())):
        raise Invalid(f"{name}: {text!r} is not a size.", hint="Write 512MB or 2GiB.", field=name)
    return int(found[1]) << _UNITS[found[2].lower()]


SERVER_BYTES: Final = 192 << 20  # what the server's own process may come to hold
CHILD_BYTES: Final = 128 << 20  # and a worker's before its first row
RUN_BYTES_MIN: Final = 64 << 20  # of the rows of a run
THREADS_MIN: Final = 2  # of a run, whatever its memory
THREAD_BYTES: Final = 128 << 20  # of it for each thread, where there are more


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests of one address in so many seconds; 0 requests: no limit."""

    requests: int = 0
    seconds: int = 60


def rate(env: Mapping[str, str], name: str, default: Rate | None = None) -> Rate:
    """Read a rate such as 200/30 (requests in seconds). Raises Invalid, naming the variable."""
    if not (text := env.get(name, "")):
        return default or Rate()
    requests, _, seconds = text.partition("/")
    if not (requests.isdecimal() and seconds.isdecimal() and int(seconds)):
        raise Invalid(f"{name}: {text!r} is not a rate.", hint="Write 200/30.", field=name)
    return Rate(int(requests), int(seconds))


def roles(text: str) -> frozenset[Role]:
    """Read what a server does, by commas; nothing: everything. Raises Invalid."""
    given = [part.strip() for part in text.split(",") if part.strip()]
    for part in given:
        if part not in tuple(Role):
            raise Invalid(
                f"--role: {part[:40]!r} is no role.", hint=f"Write {','.join(Role)}, or some.",
                field="--role",
            )  # fmt: skip
    return frozenset(map(Role, given)) or frozenset(Role)


def url(env: Mapping[str, str], name: str, schemes: Sequence[str] = ("https", "http")) -> str:
    """Read the address of a service. Raises Invalid, naming the variable."""
    text = env.get(name, "").rstrip("/")
    try:
        parts = urlsplit(text)
        known = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is no number
        known = False
    if text and not known:
        raise Invalid(f"{name} is no URL.", hint=f"Write {schemes[0]}://host:port.", field=name)
    return text


def address(env: Mapping[str, str], name: str) -> str:
    """Read mail addresses, by commas. Raises Invalid, naming the variable."""
    text = env.get(name, "").strip()
    for part in text.split(",") if text else ():
        name_, at, host = part.strip().rpartition("@")
        if not (name_ and at and host) or not part.isprintable():
            raise Invalid(f"{name}: {part!r} is no mail address.", field=name)
    return text


def number(env: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """Read a number within bounds. Raises Invalid, naming the variable."""
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise Invalid(f"{name} must be a number from {low:g} to {high:g}.", field=name)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one process goes by."""

    data_dir: Path = Path("headrace-data")
    host: str = "127.0.0.1"
    port: int = 8000
    database: str = ""  # empty: SQLite in the data dir
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_self_signed: bool = False
    admin_key: str = field(default="", repr=False)  # HEADRACE_ADMIN_KEY: 16 characters or more
    master_key: str = field(default="", repr=False)  # HEADRACE_MASTER_KEY: base64 of 32 bytes
    hash_key: str = field(
        default="", repr=False
    )  # HEADRACE_HASH_KEY: of hashed columns; 16 or more
    files_roots: tuple[Path, ...] = ()  # HEADRACE_FILES_ROOTS: folders besides files/, by `:`
    egress_allow: str = ""  # HEADRACE_EGRESS_ALLOW: private networks, by commas
    memory_bytes: int = 1 << 30  # HEADRACE_MEMORY: bytes of the whole server, e.g. 2GB
    workers: int = 2  # HEADRACE_WORKERS: runs at a time; fewer where the memory has no room
    lease_s: float = 30.0  # HEADRACE_LEASE: seconds a server may be silent before it loses its runs
    stall_s: float = 600.0  # HEADRACE_STALL: seconds after which a silent worker is killed
    run_max_s: float = 86_400.0  # HEADRACE_RUN_MAX: seconds after which a run is ended, and fails
    keep_days: float = 90.0  # HEADRACE_KEEP_DAYS: days that ended runs are kept; 0 for ever
    audit_days: float = 0.0  # HEADRACE_AUDIT_DAYS: days that the audit log is kept; 0 for ever
    queue_max: int = 10_000  # HEADRACE_QUEUE_MAX: runs of a tenant that may wait; then 429
    rejects_max: int = 100_000  # HEADRACE_REJECTS_MAX: rejected rows of a run; more fail it
    body_bytes_max: int = 8 << 20  # HEADRACE_BODY_MAX: bytes of a request, e.g. 8MB
    algolia_rate: Rate = Rate()  # HEADRACE_ALGOLIA_RATE: requests/seconds of an address, 200/60
    algolia_looks_rate: Rate = Rate()  # HEADRACE_ALGOLIA_LOOKS_RATE: of runs and events, 200/30
    amperity_rate: Rate = Rate(10, 1)  # HEADRACE_AMPERITY_RATE: requests/seconds of a tenant
    celonis_rate: Rate = Rate(200, 1)  # HEADRACE_CELONIS_RATE: requests/seconds of an address
    lucidum_rate: Rate = Rate()  # HEADRACE_LUCIDUM_RATE: the vendor's own is 60/60
    chunk_bytes_max: int = 1 << 30  # HEADRACE_CHUNK_MAX: bytes of an uploaded file, e.g. 1GB
    algolia_host: str = ""  # HEADRACE_ALGOLIA_HOST: URL instead of https://APPID.algolia.net
    algolia_insights_host: str = ""  # HEADRACE_ALGOLIA_INSIGHTS_HOST: URL of the events' service
    algolia_record_bytes_max: int = 100_000  # HEADRACE_ALGOLIA_RECORD_MAX: 10000 on small plans
    smtp: str = field(default="", repr=False)  # HEADRACE_SMTP: smtp://user:password@host:587
    mail_from: str = ""  # HEADRACE_MAIL_FROM: the sender of notifications
    mail_to: tuple[str, ...] = ()  # HEADRACE_MAIL_TO: who gets them, by commas
    roles: frozenset[Role] = frozenset(Role)  # HEADRACE_ROLE: api, ticker, dispatcher, by commas
    shared: Path | None = None  # HEADRACE_SHARED: a folder that all servers over one store see
    advertise: str = ""  # HEADRACE_ADVERTISE: URL at which the other servers reach this one
    grace_s: float = 10.0  # HEADRACE_GRACE: seconds that a cancelled run has before it is killed
    drain_s: float = 20.0  # HEADRACE_DRAIN: seconds that runs under way have to end, at a stop
    log_level: str = "info"  # HEADRACE_LOG: debug, info, warning or error

    @property
    def loopback(self) -> bool:
        """Whether the server listens on loopback only."""
        return self.host in ("127.0.0.1", "::1", "localhost")

    @property
    def common(self) -> Path:
        """The folder of rejected rows and uploads: shared by all servers, or this one's own."""
        return (self.shared or self.data_dir).absolute()

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'control.db'}"

    @property
    def runs_at_once(self) -> int:
        """How many runs the memory has room for, and no more than the workers."""
        room = (self.memory_bytes - SERVER_BYTES) // (CHILD_BYTES + RUN_BYTES_MIN)
        return max(min(self.workers, room), 1)

    @property
    def child_bytes(self) -> int:
        """What one run's process may hold."""
        share = (self.memory_bytes - SERVER_BYTES) // self.runs_at_once
        return max(share, CHILD_BYTES + RUN_BYTES_MIN)

    @property
    def run_memory_bytes(self) -> int:
        """What the rows of one run may take."""
        return self.child_bytes - CHILD_BYTES

    @property
    def run_threads(self) -> int:
        """How many threads a run works with: its share of the cores, as far as its memory goes."""
        share = (os.cpu_count() or 1) // self.runs_at_once
        return max(min(share, self.run_memory_bytes // THREAD_BYTES), THREADS_MIN)


def from_env(env: Mapping[str, str] | None = None, **given: object) -> Settings:
    """Read the environment; `given` (command line) wins where it is not None."""
    env = os.environ if env is None else env
    values: dict[str, object] = {
        "admin_key": env.get("HEADRACE_ADMIN_KEY", ""),
        "master_key": env.get("HEADRACE_MASTER_KEY", ""),
        "hash_key": env.get("HEADRACE_HASH_KEY", ""),
        "database": env.get("HEADRACE_DATABASE", ""),
        "egress_allow": env.get("HEADRACE_EGRESS_ALLOW", ""),
        "files_roots": tuple(
            Path(part) for part in env.get("HEADRACE_FILES_ROOTS", "").split(os.pathsep) if part
        ),
        "memory_bytes": size_bytes(env.get("HEADRACE_MEMORY", "1GB"), "HEADRACE_MEMORY"),
        "body_bytes_max": size_bytes(env.get("HEADRACE_BODY_MAX", "8MB"), "HEADRACE_BODY_MAX"),
        "workers": int(number(env, "HEADRACE_WORKERS", 2, 1, 256)),
        "lease_s": number(env, "HEADRACE_LEASE", 30, 0.5, 3600),
        "stall_s": number(env, "HEADRACE_STALL", 600, 1, 86_400),
        "run_max_s": number(env, "HEADRACE_RUN_MAX", 86_400, 1, 31_536_000),
        "keep_days": number(env, "HEADRACE_KEEP_DAYS", 90, 0, 36_500),
        "audit_days": number(env, "HEADRACE_AUDIT_DAYS", 0, 0, 36_500),
        "queue_max": int(number(env, "HEADRACE_QUEUE_MAX", 10_000, 1, 10_000_000)),
        "rejects_max": int(number(env, "HEADRACE_REJECTS_MAX", 100_000, 0, 10_000_000)),
        "algolia_rate": rate(env, "HEADRACE_ALGOLIA_RATE"),
        "algolia_looks_rate": rate(env, "HEADRACE_ALGOLIA_LOOKS_RATE"),
        "amperity_rate": rate(env, "HEADRACE_AMPERITY_RATE", Rate(10, 1)),
        "celonis_rate": rate(env, "HEADRACE_CELONIS_RATE", Rate(200, 1)),
        "lucidum_rate": rate(env, "HEADRACE_LUCIDUM_RATE"),
        "chunk_bytes_max": size_bytes(env.get("HEADRACE_CHUNK_MAX", "1GB"), "HEADRACE_CHUNK_MAX"),
        "algolia_host": url(env, "HEADRACE_ALGOLIA_HOST"),
        "algolia_insights_host": url(env, "HEADRACE_ALGOLIA_INSIGHTS_HOST"),
        "algolia_record_bytes_max": int(
            number(env, "HEADRACE_ALGOLIA_RECORD_MAX", 100_000, 1_000, 10_000_000)
        ),
        "smtp": url(env, "HEADRACE_SMTP", ("smtp", "smtps")),
        "mail_from": address(env, "HEADRACE_MAIL_FROM"),
        "mail_to": tuple(
            part.strip() for part in address(env, "HEADRACE_MAIL_TO").split(",") if part.strip()
        ),
        "roles": roles(env.get("HEADRACE_ROLE", "")),
        "shared": Path(env["HEADRACE_SHARED"]) if env.get("HEADRACE_SHARED") else None,
        "advertise": url(env, "HEADRACE_ADVERTISE"),
        "grace_s": number(env, "HEADRACE_GRACE", 10, 0.1, 3600),
        "drain_s": number(env, "HEADRACE_DRAIN", 20, 0, 86_400),
        "log_level": env.get("HEADRACE_LOG", "info"),
    }
    values |= {name: value for name, value in given.items() if value is not None}
    settings = Settings(**values)  # type: ignore[arg-type]  # names and types as above
    for name, key in (
        ("HEADRACE_ADMIN_KEY", settings.admin_key), ("HEADRACE_HASH_KEY", settings.hash_key),
    ):  # fmt: skip
        if key and len(key) < KEY_CHARACTERS_MIN:
            raise Invalid(f"{name} must have at least {KEY_CHARACTERS_MIN} characters.", field=name)
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise Invalid("--tls-cert and --tls-key go together.", field="--tls-cert")
    if settings.tls_cert and settings.tls_self_signed:
        raise Invalid(
            "--tls-self-signed makes a certificate; --tls-cert gives one.",
            field="--tls-self-signed",
        )
    if settings.smtp and not (settings.mail_from and settings.mail_to):
        raise Invalid(
            "HEADRACE_SMTP needs HEADRACE_MAIL_FROM and HEADRACE_MAIL_TO: who writes to whom?",
            field="HEADRACE_SMTP",
        )
    if settings.memory_bytes < (128 << 20):
        raise Invalid("HEADRACE_MEMORY must be at least 128MB.", field="HEADRACE_MEMORY")
    return settings
