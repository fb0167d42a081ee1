"""Every command in README.md and docs/: run on a throw-away ring, or parsed where it cannot run here, for a reason.

A command is a line with a `$ ` prompt in a block ```console, or any line in a block ```sh, and what prose says in
`backticks` that begins with one of our programs.
"""

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from peer.cli import peerctl
from peer.cli_peerd import peerd
from peer.control_client import ControlClient
from peer.errors import PeerError
from peer.local_ring import LocalBoards, LocalRing, free_port, local_ring
from tests.unit.tools.hf_folders import write_calibration, write_folder

pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LIMIT_S = 120.0

# What is not run here, by how it begins, and who runs it instead. Everything else is run.
ELSEWHERE = {
    "make demo": "installs from scratch; the ring that it starts is that of test_up.py",
    "make test": "is this",
    "make ": "benchmarks, fault rows and builds take minutes to hours; that the target exists is checked",
    "pip install": "downloads what this environment has, or torch; that the extra exists is checked",
    "peerctl up --boards 4 -- peerctl infer": "test_up.py runs the same with two boards",
    "peerctl up --boards 4 --models models_onnx --model NAME": "test_up.py starts rings of a model that is named",
    "peerctl token new | peerctl join": "would make this user's own token; test_administration.py does it in a folder",
    "peerctl join": "changes the cluster; test_administration.py",
    "peerctl token rotate": "changes the cluster; test_administration.py",
    "peerctl leave": "ends a daemon; test_administration.py",
    "peerctl forget": "takes a board off the list; test_administration.py",
    "peerctl models fetch": "test_fetch.py gets models from other boards",
    "peerctl members --watch": "never ends; test_watching.py presses q",
    "peerctl top": "never ends without --once; test_watching.py presses q",
    "peerd --listen 0.0.0.0": "needs a network of its own; test_mdns.py and test_network.py make one",
    "python -m tools.train": "needs torch and hours; tests/unit/tools trains for a moment",
    "python -m tools.finetune": "needs torch and hours; tests/unit/tools tunes for a moment",
    "python -m tools.evaluate": "minutes; tests/unit/tools/test_evaluate.py measures a tiny model",
    "python -m tools.export.card": "needs matplotlib; tests/unit/tools",
    "python -m tools.bench": "minutes of measuring",
    "python -m tests.faults": "hours, as root",
}
# What only a board can do; make boot-test, on machines of its own, is the place for it.
ON_BOARD = {
    "systemctl": "there is no systemd here",
    "journalctl": "there is no journal here",
    "apt": "changes the machine",
    "tar xf tokenring": "make wheelhouse makes the archive; tests/boot unpacks it",
    "peerctl token new | sudo": "changes the machine",
    "sudo": "changes the machine",
    "scp": "needs another machine",
    "ssh": "needs another machine",
    "rsync": "needs another machine",
    "systemd/install.sh": "installs into the machine; test_install.py runs it in a root folder of its own",
}
# What may end otherwise than with 0: the machine decides.
CODES = {"peerctl doctor --strict": (0, 1)}
PROGRAMS = ("peerctl", "peerd", "python -m", "make", "pip install")


@dataclass(frozen=True, slots=True)
class Command:
    """One command, and where it stands."""

    document: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.text}"


def blocks(document: Path) -> Iterator[Command]:
    """The commands of fenced blocks; a line that ends with a backslash goes on in the next one."""
    language, pending, began = None, "", 0
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            language = (line[3:].strip() or "plain") if language is None else None
            continue
        if language is None:
            continue
        text = line
        if not pending:
            prompt = re.match(r"(?:[a-z-]+)?[$#] ", line)
            if language == "console" and prompt is None:
                continue  # output
            if language not in ("console", "sh"):
                continue
            text, began = line[prompt.end() :] if prompt else line, number
        pending += text.strip().removesuffix("\\")
        if text.rstrip().endswith("\\"):
            continue
        command, pending = re.sub(r"(^|\s)#.*", "", pending).strip() if language == "sh" else pending, ""
        command = re.sub(r"\s{2,}\S.*$", "", command) if command.startswith("make ") else command
        if command:
            yield Command(document.relative_to(ROOT).as_posix(), began, command)


def spoken(document: Path) -> Iterator[Command]:
    """Commands in prose and tables, where `[...]` and `...` stand for what a person adds."""
    fenced = False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        fenced ^= line.startswith("```")
        for text in () if fenced else re.findall(r"`([^`]+)`", line):
            if text.startswith(tuple(f"{program} " for program in PROGRAMS)):
                yield Command(document.relative_to(ROOT).as_posix(), number, text)


BLOCKS = [command for document in DOCUMENTS for command in blocks(document)]
SPOKEN = [command for document in DOCUMENTS for command in spoken(document)]


def excuse(text: str) -> str | None:
    """Why a command is not run here; None when it is. The longest beginning that fits decides."""
    text = text.replace("sudo peerctl", "peerctl")  # on a board the socket belongs to the daemon's group
    if "/run/tokenring-" in text:
        return "sudo"  # the socket of a peerd@.service
    fitting = [start for start in (*ELSEWHERE, *ON_BOARD) if text == start or text.startswith(start)]
    fitting = [start for start in fitting if start != "peerctl top" or "--once" not in text]
    return max(fitting, key=len, default=None)


def check(text: str) -> None:
    """Whether our programs would take this command; anything else is left alone. Raises AssertionError."""
    for said in simple_commands(text):
        words = list(itertools.dropwhile(re.compile(r"[A-Z_]+=.*|sudo").fullmatch, said))
        if words[:1] == ["peerctl"]:
            check_click(peerctl, "peerctl", words[1:])
        elif words[:1] == ["peerd"]:
            check_click(peerd, "peerd", words[1:])
        elif words[:2] == ["python", "-m"]:
            check_module(words[2], [word for word in words[3:] if word.startswith("--")])
        elif words[:1] == ["make"] and len(words) > 1:
            assert re.search(
                rf"^{re.escape(words[1])}:|^\.PHONY:.*\b{re.escape(words[1])}\b", makefile(), re.MULTILINE
            ), words
        elif words[:2] == ["pip", "install"]:
            for extra in re.findall(r"\.\[(\w+)\]", " ".join(words)):
                assert re.search(rf"^{extra} =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE), extra


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command of a pipeline or list, as a shell would split them."""
    lexer = shlex.shlex(text.replace("...", ""), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, ""
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;<>"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def check_click(command: click.Command, name: str, words: Sequence[str]) -> None:
    """Every command, option and choice is there; placeholders in capitals stand for any value."""
    ctx = click.Context(command, info_name=name, **command.context_settings)
    left = [re.sub(r"[\[\]]", "", word) for word in words if word not in ("-h", "--help", "--version")]
    if not left:
        return
    while isinstance(command, click.Group):
        child = command.get_command(ctx, left[0]) if left else None
        assert child is not None, f"{name} has no command {left[:1]}"
        command, left = child, left[1:]
        ctx = click.Context(command, info_name=name, parent=ctx, **command.context_settings)
    known = {
        opt: option
        for option in command.params
        if isinstance(option, click.Option)
        for opt in (*option.opts, *option.secondary_opts)
    }
    values = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    taken = 0
    while left:
        word = left.pop(0)
        if word == "--":
            return
        if word.startswith("-") and word != "-":
            assert word in known, f"{command.name} has no option {word}"
            option = known[word]
            if not option.is_flag and left and not left[0].startswith("--"):
                check_value(option, left.pop(0))
        else:
            assert values, f"{command.name} takes no argument {word}"
            argument = values[min(taken, len(values) - 1)]
            assert taken < len(values) or argument.nargs == -1, f"{command.name} takes no argument {word}"
            taken += 1
            if "|" in word:
                return  # one of several ways to go on
            if word:
                check_value(argument, word)
                if argument.nargs == -1 and not isinstance(argument.type, click.Path):
                    return  # the rest is another program's


def check_value(parameter: click.Parameter, word: str) -> None:
    if re.fullmatch(r"[A-Z_:,.]+", word):
        return  # a placeholder
    try:
        parameter.type.convert(word, parameter, None)
    except click.UsageError as problem:
        raise AssertionError(problem.format_message()) from problem


def check_module(name: str, options: Sequence[str]) -> None:
    """The script is there, and each option is written in it, in what lies beside it or in what it imports of ours."""
    place = ROOT / Path(*name.split("."))
    sources = [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else list(place.glob("*.py"))
    assert sources, f"there is no {name}"
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    for imported in re.findall(r"^from ((?:tests|tools)[\w.]*) import", text, re.MULTILINE):
        if (beside := ROOT / Path(*imported.split(".")).with_suffix(".py")).is_file():
            text += beside.read_text(encoding="utf-8")
    for option in options:
        flag = option.partition("=")[0]
        field = flag.removeprefix("--").replace("-", "_")  # of a dataclass, each of whose fields is an option
        assert f'"{flag}"' in text or re.search(rf"^    {field}: ", text, re.MULTILINE), f"{name} has no option {flag}"


def test_there_are_commands_in_every_document_that_should_have_some() -> None:
    with_blocks = {command.document for command in BLOCKS}
    assert with_blocks >= {
        "README.md",
        "docs/install.md",
        "docs/models.md",
        "docs/operations.md",
        "docs/training.md",
        "docs/troubleshooting.md",
        "docs/watching.md",
    }
    assert len(BLOCKS) >= 30
    assert len(SPOKEN) >= 40
    assert sum(excuse(command.text) is None for command in BLOCKS) >= 15, "most of them are run"


def test_no_fenced_block_hides_a_command() -> None:
    """A block without a language is read by nobody."""
    for document in DOCUMENTS:
        fences = re.findall(r"^```(.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, document
        assert all(opening.strip() for opening in fences[::2]), f"{document}: a block has no language"


def test_no_excuse_is_out_of_date() -> None:
    used = {excuse(command.text) for command in (*BLOCKS, *SPOKEN)}
    assert set(ELSEWHERE) <= used


@pytest.mark.parametrize("command", [*BLOCKS, *SPOKEN], ids=str)
def test_our_programs_would_take_it(command: Command) -> None:
    check(command.text)


class Desk:
    """A folder with what the documents speak of, and the environment of somebody who sits before a board."""

    def __init__(self, folder: Path, ring: LocalRing) -> None:
        self.folder = folder
        for name in ("docs", "tools", "peer", "runtime", "tests", "systemd"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "models_onnx").mkdir()
        (folder / "models_onnx/vit-cifar10").symlink_to(ROOT / "models_onnx/vit-cifar10")
        shutil.copyfile(ROOT / "docs/photos/rocket.jpg", folder / "photo.jpg")
        write_folder(folder / "FOLDER")
        write_calibration(folder / "PICTURES.npy")
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOKENRING_SOCKET": str(ring.sockets[0]),
            "TOKENRING_TOKEN_FILE": str(ring.token_file),
        }
        (folder / "home").mkdir()

    def fill_in(self, text: str) -> str:
        """A person would put real names where the documents have capitals."""
        for word, value in (
            ("PICTURES", "PICTURES.npy"),
            ("models show NAME", "models show vit-cifar10"),
            ("models verify NAME", "models verify vit-cifar10"),
            ("OUT/NAME", "OUT/tiny"),
        ):
            text = re.sub(rf"(?<![A-Z_]){word}(?![A-Z_])", value, text)
        text = text.replace("sudo peerctl", "peerctl")
        text = text.replace("peerctl up ", "peerctl up --timeout 110 ")  # of patience, on a machine that is busy
        text = text.replace("models_onnx/NAME", "models_onnx/tiny")
        return text.replace("127.0.0.1:9700", f"127.0.0.1:{self.metrics}")

    metrics = 0

    @contextmanager
    def daemon(self, text: str) -> Iterator[None]:
        """A `peerd ...` of the documents runs while what follows it does: on ports and in folders of its own."""
        self.metrics = free_port()
        words = shlex.split(text.replace("--metrics 9700", f"--metrics {self.metrics}"))
        home = self.folder / "daemon"
        home.mkdir()
        own = ["--config", os.devnull, "--state-dir", str(home), "--socket", str(home / "sock"), "--threads", "1"]
        own += ["--listen", f"127.0.0.1:{free_port()}", "--models", str(ROOT / "models_onnx"), "--name", "documented"]
        with subprocess.Popen(
            [sys.executable, "-m", "peer.cli_peerd", *words[1:], *own], stderr=subprocess.PIPE
        ) as process:
            until = time.monotonic() + LIMIT_S
            while not self._ready(home / "sock"):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0

    @staticmethod
    def _ready(socket: Path) -> bool:
        try:
            with ControlClient(socket, timeout_s=5) as client:
                return client.status().ready
        except PeerError:
            return False

    def run(self, command: Command) -> None:
        script = self.fill_in(command.text)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            cwd=self.folder,
            env=self.environment,
        )
        allowed = next((codes for start, codes in CODES.items() if command.text.startswith(start)), (0,))
        assert done.returncode in allowed, f"{command}\n{script}\n{done.stdout[-600:]}\n{done.stderr[-600:]}"
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with local_ring(LocalBoards(count=2, threads=1), timeout_s=LIMIT_S) as ring:
        yield Desk(tmp_path_factory.mktemp("desk"), ring)


@pytest.mark.parametrize("document", sorted({command.document for command in BLOCKS}))
def test_what_a_document_says_can_be_done(desk: Desk, document: str) -> None:
    """In the order of the document, as one would who reads it."""
    commands = [command for command in BLOCKS if command.document == document and excuse(command.text) is None]
    if any("jq" in command.text for command in commands) and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    following = iter(commands)
    for command in following:
        if not command.text.startswith("peerd "):
            desk.run(command)
            continue
        with desk.daemon(command.text):
            desk.run(next(following))
