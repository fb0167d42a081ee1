"""The daemon's configuration: frozen records, where they come from, and what is refused.

Options win over the environment, the environment over the TOML file, the file over the defaults. This is the one
place of the daemon that reads the environment. An unknown key or a value of a wrong type is an error that names the
key, the file and the line. Knows nothing of boards, models or sockets beyond their paths.
"""

import enum
import os
import re
import socket as system_socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from peer.errors import ConfigError
from peer.paths import SOCKET_PATH_LIMIT_BYTES, Places, places, shipped_models

DEFAULT_PORT = 7700
# A board runs one stage at a time; more than a few requests in flight only wait inside instead of outside.
DEFAULT_MAX_REQUESTS = 64
_CONFIG_LIMIT_BYTES = 1 << 20
_LONGEST_NONE_BYTES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Prepack(enum.Enum):
    """Whether onnxruntime keeps a second, rearranged copy of the weights: faster, for twice the memory."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A place to listen on or to dial; `str()` writes it the way `parse` reads it."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "HostPort":
        """Read `HOST:PORT`, `[IPV6]:PORT`; ValueError with a reason."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        name = host[1:-1] if bracketed else host
        if not colon or not name or (":" in name and not bracketed):
            raise ValueError(f"{text!r} is not HOST:PORT")
        if re.search(r"[\s/\x00-\x1f\[\]]", name) or not name.isascii():
            raise ValueError(f"{name!r} is not a host name or address")
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise ValueError(f"{port!r} is not a port number between 0 and 65535")
        return cls(host=name, port=int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one source (options, environment, file) says; None where it says nothing. Field names are the TOML keys."""

    state_dir: Path | None = None
    models: Path | None = None
    listen: HostPort | None = None
    seeds: tuple[HostPort, ...] | None = None
    interfaces: tuple[str, ...] | None = None
    mdns: bool | None = None
    name: str | None = None
    socket: Path | None = None
    token_file: Path | None = None
    threads: int | str | None = None
    spinning: bool | None = None
    prepack: Prepack | None = None
    default_model: str | None = None
    max_requests: int | None = None
    metrics: HostPort | None = None

    def over(self, lower: "Settings") -> "Settings":
        """These settings, completed by `lower`."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return Settings(**{key: getattr(lower, key) if value is None else value for key, value in chosen.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerdConfig:
    """Everything one daemon is told at its start."""

    state_dir: Path
    models: Path
    listen: HostPort
    # Addresses of other boards to greet at the start; each may be down for now.
    seeds: tuple[HostPort, ...]
    # Names of the network interfaces on which boards are looked for; empty: all of them.
    interfaces: tuple[str, ...]
    # Whether boards are looked for, and this one is announced, by mDNS; never on loopback.
    mdns: bool
    name: str
    socket: Path
    # None: no token was given, and the daemon admits whoever speaks to its port.
    token_file: Path | None
    # Threads of one stage; None: the daemon chooses from the cores it may use.
    threads: int | None
    # Whether idle compute threads busy-wait: a little faster, and a core burnt while standing by.
    spinning: bool
    prepack: Prepack
    # The model to serve when a request names none; None: the only one there is.
    default_model: str | None
    # Requests in flight on this board; one more is refused at once.
    max_requests: int
    # Where metrics are served to whoever asks; None: nowhere.
    metrics: HostPort | None = None


def load(
    *,
    flags: Settings,
    environ: Mapping[str, str],
    config_file: Path | None = None,
    uid: int | None = None,
    hostname: str | None = None,
) -> PeerdConfig:
    """Combine the options, the environment, the file and the defaults; ConfigError with one line otherwise."""
    here = places(environ, uid=os.geteuid() if uid is None else uid)
    said = flags.over(_from_environment(environ)).over(_from_file(config_file, here))
    state_dir = said.state_dir or here.state_dir
    config = PeerdConfig(
        state_dir=state_dir.absolute(),
        models=_models(said.models, state_dir).absolute(),
        listen=said.listen or HostPort(host="127.0.0.1", port=DEFAULT_PORT),
        seeds=said.seeds or (),
        interfaces=said.interfaces or (),
        mdns=True if said.mdns is None else said.mdns,
        name=_name(said.name, system_socket.gethostname() if hostname is None else hostname),
        socket=(said.socket or here.socket).absolute(),
        token_file=_token_file(said.token_file, here.provided_token, state_dir),
        threads=said.threads if isinstance(said.threads, int) else None,
        spinning=bool(said.spinning),
        prepack=said.prepack or Prepack.AUTO,
        default_model=said.default_model,
        max_requests=said.max_requests or DEFAULT_MAX_REQUESTS,
        metrics=said.metrics,
    )
    if len(os.fsencode(config.socket)) > SOCKET_PATH_LIMIT_BYTES:
        raise ConfigError(
            f"the control socket's path is longer than {SOCKET_PATH_LIMIT_BYTES} bytes: {config.socket}; "
            "give a shorter one with --socket"
        )
    return config


def token_place(environ: Mapping[str, str], *, uid: int) -> Path:
    """Where a daemon of this user looks for its token; the file need not be there yet."""
    here = places(environ, uid=uid)
    said = _from_environment(environ).over(_from_file(None, here))
    if said.token_file is None and here.provided_token is not None and here.provided_token.is_file():
        return here.provided_token.absolute()
    return (said.token_file or (said.state_dir or here.state_dir) / "token").absolute()


def parse(text: str, *, origin: str) -> Settings:
    """Read a TOML configuration; `origin` names it in errors (`FILE:LINE: ...`)."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError(f"{origin}: {str(exc) or 'nested too deeply'}") from exc
    known = {f.name for f in fields(Settings)}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{_position(text, key, origin)}: unknown key {key!r}; known keys: {', '.join(sorted(known))}"
            )
    values: dict[str, object] = {}
    for key, value in table.items():
        try:
            values[key] = _value(key, value)
        except ValueError as exc:
            raise ConfigError(f"{_position(text, key, origin)}: {key}: {exc}") from exc
    # _value returned the type that its key's field declares.
    return Settings(**values)  # type: ignore[arg-type]


def parse_threads(value: object) -> int | str:
    """`auto` or a number of threads from 1 to 256; ValueError otherwise."""
    if value == "auto":
        return "auto"
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}", value):
        value = int(value)
    return _whole(value, 1, 256, 'must be "auto" or')


def parse_metrics(value: object) -> HostPort:
    """`HOST:PORT`, or a port alone, which means loopback; ValueError otherwise."""
    text = str(value) if type(value) is int else _text(value)
    return HostPort.parse(f"127.0.0.1:{text}" if re.fullmatch(r"[0-9]+", text) else text)


def _value(key: str, value: object) -> object:
    match key:
        case "state_dir" | "models" | "socket" | "token_file":
            return Path(_text(value)).expanduser()
        case "listen":
            return HostPort.parse(_text(value))
        case "metrics":
            return parse_metrics(value)
        case "seeds":
            if not isinstance(value, list):
                raise ValueError('must be a list like ["192.168.1.20:7700"]')
            return tuple(HostPort.parse(_text(item)) for item in value)
        case "threads":
            return parse_threads(value)
        case "interfaces":
            if not isinstance(value, list):
                raise ValueError('must be a list like ["eth0"]')
            return tuple(_text(item) for item in value)
        case "spinning" | "mdns":
            if not isinstance(value, bool):
                raise ValueError("must be true or false")
            return value
        case "prepack":
            return Prepack(_text(value))
        case "max_requests":
            return _whole(value, 1, 1024, "must be")
        case _:
            return _text(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\x00" in value:
        raise ValueError("must be a text in quotes, not empty")
    return value


def _whole(value: object, low: int, high: int, words: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{words} a whole number from {low} to {high}")
    return value


def _position(text: str, key: str, origin: str) -> str:
    """`FILE:LINE` of a top-level key or table; the file alone where the key is written in an unusual way."""
    name = rf"[\"']?{re.escape(key)}[\"']?"
    found = re.search(rf"^[ \t]*(?:\[{{1,2}}[ \t]*{name}[ \t]*[\].]|{name}[ \t]*[=.])", text, re.MULTILINE)
    return f"{origin}:{text.count(chr(10), 0, found.start()) + 1}" if found else origin


def _from_environment(environ: Mapping[str, str]) -> Settings:
    def path(variable: str) -> Path | None:
        value = environ.get(variable)
        return Path(value) if value else None

    return Settings(
        socket=path("TOKENRING_SOCKET"), token_file=path("TOKENRING_TOKEN_FILE"), models=path("TOKENRING_MODELS")
    )


def _from_file(config_file: Path | None, here: Places) -> Settings:
    """The named file, or the default one when it is there."""
    path = config_file or here.config_file
    try:
        with path.open("rb") as file:
            data = file.read(_CONFIG_LIMIT_BYTES + 1)
    except FileNotFoundError as exc:
        if config_file is None:
            return Settings()
        raise ConfigError(f"no configuration file {path}; check --config") from exc
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}; check --config and its permissions") from exc
    if len(data) > _CONFIG_LIMIT_BYTES:
        raise ConfigError(f"{path} is larger than 1 MiB; this is no configuration file")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from exc
    return parse(text, origin=str(path))


def _models(said: Path | None, state_dir: Path) -> Path:
    if said is not None:
        if not said.is_dir():
            raise ConfigError(f"no models folder {said}; check --models")
        return said
    # What lies in the state folder is served in any case.
    return shipped_models() or state_dir / "models"


def _name(said: str | None, hostname: str) -> str:
    """The board's name: as said, or the host's first label with odd characters replaced."""
    if said is None:
        return re.sub(r"[^A-Za-z0-9._-]", "-", hostname.partition(".")[0]).lstrip("._-")[:63] or "board"
    if not _NAME.fullmatch(said):
        raise ConfigError(f"the name {said!r} is not usable; take up to 63 letters, digits, dots and dashes")
    return said


def _token_file(said: Path | None, provided: Path | None, state_dir: Path) -> Path | None:
    if said is not None:
        if not said.is_file():
            raise ConfigError(f"no token file {said}; check --token-file")
        return said.absolute()
    if provided is not None and provided.is_file() and not _stands_for_none(provided):
        return provided.absolute()
    own = state_dir / "token"
    return own.absolute() if own.is_file() else None


def with_late_token(config: PeerdConfig) -> PeerdConfig:
    """The configuration, with the token that was joined while the program was loaded: seconds, on a slow board."""
    token_file = config.token_file or _token_file(None, None, config.state_dir)
    return replace(config, token_file=token_file)


def _stands_for_none(path: Path) -> bool:
    """A unit has no other way to say that a credential is optional than to provide something in its place."""
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_NONE_BYTES).strip() == b"none"
    except OSError:
        return False  # whoever reads the token will say what is wrong
