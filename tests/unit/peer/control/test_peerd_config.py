"""The daemon's configuration: where it comes from, and that a mistake is named with its line."""

import sys
from pathlib import Path

import pytest

from peer import cli_peerd, paths
from peer.cluster_token import new_token, parse_token, read_token, write_token
from peer.config import HostPort, PeerdConfig, Prepack, Settings, load, parse, with_late_token
from peer.errors import ConfigError
from peer.paths import control_socket, places


def loaded(tmp_path: Path, text: str = "", *, flags: Settings | None = None, **environ: str) -> PeerdConfig:
    file = tmp_path / "peerd.toml"
    file.write_text(text)
    return load(
        flags=flags or Settings(),
        environ={"HOME": str(tmp_path), **environ},
        config_file=file,
        uid=1000,
        hostname="pi_four.lan",
    )


def test_defaults_of_a_person(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    state = tmp_path / ".local/state/tokenring"
    assert (config.state_dir, config.socket) == (state, state / "peerd.sock")
    assert str(config.listen) == "127.0.0.1:7700"
    assert (config.name, config.threads, config.spinning, config.prepack) == ("pi_four", None, False, Prepack.AUTO)
    assert (config.seeds, config.token_file, config.default_model, config.max_requests) == ((), None, None, 64)


def test_every_key_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    config = loaded(
        tmp_path,
        f"""
        state_dir = "{tmp_path}/state"
        models = "{tmp_path}"
        listen = "[::]:7800"
        seeds = ["192.168.1.20:7700", "[fe80::1]:7700"]
        interfaces = ["eth0"]
        mdns = false
        name = "kitchen"
        socket = "{tmp_path}/s"
        token_file = "{tmp_path}/token"
        threads = 3
        spinning = true
        prepack = "off"
        default_model = "vit"
        max_requests = 2
        """,
    )
    assert config == PeerdConfig(
        state_dir=tmp_path / "state",
        models=tmp_path,
        listen=HostPort(host="::", port=7800),
        seeds=(HostPort(host="192.168.1.20", port=7700), HostPort(host="fe80::1", port=7700)),
        interfaces=("eth0",),
        mdns=False,
        name="kitchen",
        socket=tmp_path / "s",
        token_file=tmp_path / "token",
        threads=3,
        spinning=True,
        prepack=Prepack.OFF,
        default_model="vit",
        max_requests=2,
    )


def test_options_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = f'socket = "{tmp_path}/file"\nname = "file"\nthreads = 2'
    assert loaded(tmp_path, text, TOKENRING_SOCKET="/env").socket == Path("/env")
    flags = Settings(socket=Path("/flag"), threads="auto", spinning=False)
    config = loaded(tmp_path, text, flags=flags, TOKENRING_SOCKET="/env")
    assert (config.socket, config.name, config.threads) == (Path("/flag"), "file", None)


@pytest.mark.parametrize(
    ("text", "line", "named"),
    [
        ("\n# note\nlissten = 1", 3, "lissten"),
        ("name = 'x'\n[membership]\nx = 1", 2, "membership"),
        ("[[seed]]\n", 1, "seed"),
        ('"odd key" = 1', 1, "odd key"),
        ("name = 'x'\nlisten = 7700", 2, "listen"),
        ("listen = 'here'", 1, "listen"),
        ("listen = 'here:99999'", 1, "listen"),
        ("\nseeds = 'a:1'", 2, "seeds"),
        ("seeds = ['a:1', 2]", 1, "seeds"),
        ("threads = 0", 1, "threads"),
        ("threads = true", 1, "threads"),
        ("threads = 'many'", 1, "threads"),
        ("spinning = 1", 1, "spinning"),
        ("prepack = 'perhaps'", 1, "prepack"),
        ("max_requests = 0", 1, "max_requests"),
        ("name = ''", 1, "name"),
        ("state_dir = ['x']", 1, "state_dir"),
    ],
)
def test_a_mistake_names_key_file_and_line(text: str, line: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        parse(text, origin="peerd.toml")
    assert str(caught.value).startswith(f"peerd.toml:{line}: ")


@pytest.mark.parametrize("text", ["name = ", "a = 1\na = 1", "x = " + "[" * 5000])
def test_what_is_no_toml_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, origin="peerd.toml")
    assert str(caught.value).startswith("peerd.toml: ")


def test_named_files_and_folders_must_be_there(tmp_path: Path) -> None:
    for flags, word in (
        (Settings(models=tmp_path / "no"), "--models"),
        (Settings(token_file=tmp_path), "--token-file"),
    ):
        with pytest.raises(ConfigError, match=word):
            loaded(tmp_path, flags=flags)
    with pytest.raises(ConfigError, match="--config"):
        load(flags=Settings(), environ={}, config_file=tmp_path / "no.toml")


def test_a_socket_path_that_the_kernel_refuses_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="shorter"):
        loaded(tmp_path, flags=Settings(socket=Path("/" + "x" * 107)))


def test_places_of_the_service_and_of_a_person(tmp_path: Path) -> None:
    service = places({"STATE_DIRECTORY": "/var/lib/tokenring", "RUNTIME_DIRECTORY": "/run/tokenring"}, uid=990)
    assert (service.state_dir, service.socket) == (Path("/var/lib/tokenring"), Path("/run/tokenring/peerd.sock"))
    (tmp_path / "peerd.toml").touch()
    root = places({"HOME": "/root"}, uid=0, system_config=tmp_path / "peerd.toml")
    assert (root.config_file, root.socket) == (tmp_path / "peerd.toml", Path("/run/tokenring/peerd.sock"))
    person = places({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "relative"}, uid=7)
    assert (person.state_dir, person.socket) == (
        Path("/h/.local/state/tokenring"),
        Path("/run/user/7/tokenring/peerd.sock"),
    )


def test_a_token_that_was_provided_counts_before_the_one_that_was_joined(tmp_path: Path) -> None:
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    state.mkdir()
    credentials.mkdir()
    environ = {"STATE_DIRECTORY": str(state), "CREDENTIALS_DIRECTORY": str(credentials)}

    def chosen() -> Path | None:
        return load(flags=Settings(), environ=environ, uid=990).token_file

    assert chosen() is None
    (credentials / "token").write_text("none")  # what the unit provides where there is no such file
    assert chosen() is None
    (state / "token").write_text(new_token())
    assert chosen() == state / "token"
    (credentials / "token").write_text(new_token())
    assert chosen() == credentials / "token"


def test_a_token_that_comes_during_the_start_is_used(tmp_path: Path) -> None:
    config = loaded(tmp_path, flags=Settings(state_dir=tmp_path))
    assert with_late_token(config) == config
    (tmp_path / "token").write_text(new_token())
    assert with_late_token(config).token_file == tmp_path / "token"


def test_root_reads_and_replaces_the_token_that_the_unit_provides(tmp_path: Path) -> None:
    (tmp_path / "peerd.toml").touch()
    root = places({"HOME": "/root"}, uid=0, system_config=tmp_path / "peerd.toml")
    assert root.provided_token == tmp_path / "token"
    service = places({"STATE_DIRECTORY": "/var/lib/tokenring"}, uid=990)
    assert service.provided_token is None  # it may not even look


def test_models_of_a_release_and_of_the_state_folder_are_both_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lib/peer/paths.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "release"))
    state = tmp_path / "state"
    (state / "models").mkdir(parents=True)
    assert loaded(tmp_path, flags=Settings(state_dir=state)).models == state / "models"
    (tmp_path / "release/models").mkdir(parents=True)
    assert loaded(tmp_path, flags=Settings(state_dir=state)).models == tmp_path / "release/models"


def test_peerctl_finds_its_own_daemon_first_and_the_systems_next(tmp_path: Path) -> None:
    system, environ = tmp_path / "system.sock", {"HOME": str(tmp_path)}
    own = places(environ, uid=7).socket
    assert control_socket(environ, uid=7, system_socket=system) == own
    system.touch()
    assert control_socket(environ, uid=7, system_socket=system) == system
    own.parent.mkdir(parents=True)
    own.touch()
    assert control_socket(environ, uid=7, system_socket=system) == own
    assert control_socket({"TOKENRING_SOCKET": "/x"}, uid=7, system_socket=system) == Path("/x")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen", "here"],
        ["--nonsense"],
        ["--threads", "0"],
        ["--seed", "::1:7"],
        ["--name", "a b"],
        ["stray"],
        ["--config", "/nonexistent.toml"],
        ["--prepack", "x"],
        ["--max-requests", "0"],
    ],
)
def test_wrong_usage_of_peerd_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_peerd.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("peerd: ")
    assert err.count("\n") == 1


def test_a_token_is_written_for_its_owner_only_and_read_back(tmp_path: Path) -> None:
    path, text = tmp_path / "token", new_token()
    write_token(path, text)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_token(path) == parse_token(text)
    assert len(read_token(path)) == 32
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(path)


@pytest.mark.parametrize(
    "text",
    ["", "tr1-", "tr2-" + "a" * 52, new_token()[:-1], new_token() + "a", "tr1-" + "1" * 52],
    ids=["empty", "prefix", "version", "short", "long", "digits"],
)
def test_a_damaged_token_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_token(text)
    assert len(text) < 10 or text not in str(caught.value)
