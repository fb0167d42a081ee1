"""`peerctl` against a daemon that answers from memory: output, exit codes, and fault row B11 as far as it decides."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_control_daemon import Daemon, Ran

from peer.cli_bench import generated_image, percentile
from peer.cli_inputs import gather

Peerctl = Callable[..., Ran]
RESULT_KEYS = {
    *("input", "request", "model", "model_id", "top", "mode", "codec", "exchange", "boards", "latency_ms"),
    *("predicted_ms", "rounds", "attempts", "degraded", "lost", "payload_bytes", "wire_bytes", "input_bytes", "timing"),
}


def image(folder: Path, name: str, data: bytes = b"image") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def one_line(ran: Ran) -> str:
    assert ran.out == ""
    assert ran.err.startswith("peerctl: ")
    assert ran.err.count("\n") == 1
    return ran.err


def test_help_names_every_command_and_loads_click_alone() -> None:
    probe = "import sys; from peer.cli import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in ("up", "infer", "members", "ring", "models", "bench"))
    heavy = {"numpy", "onnxruntime", "zmq", "PIL", "msgpack", "asyncio", "peer.config", "peer.control_client"}
    assert not heavy & set(done.stderr.split())


@pytest.mark.parametrize("command", ["up", "infer", "members", "ring", "models", "bench", "top", "trace"])
def test_every_command_explains_itself_with_examples(peerctl: Peerctl, command: str) -> None:
    ran = peerctl(command, "--help")
    assert ran.code == 0
    assert f"peerctl {command}" in ran.out
    assert "Examples:" in ran.out


def test_infer_prints_labels_and_how_the_work_was_shared(peerctl: Peerctl, tmp_path: Path) -> None:
    ran = peerctl("infer", image(tmp_path, "a.jpg"))
    assert (ran.code, ran.err) == (0, "")
    assert "cat" in ran.out
    assert "90.0%" in ran.out
    assert "4 boards" in ran.out
    assert "board-3 tokens 48-63" in ran.out
    assert "1,280 bytes of codes, 1,500 on the wire" in ran.out


def test_explain_adds_a_row_per_board(peerctl: Peerctl, tmp_path: Path) -> None:
    ran = peerctl("infer", image(tmp_path, "a.jpg"), "--boards", 2, "--explain")
    assert "why: asked for" in ran.out
    rows = [line.split() for line in ran.out.splitlines() if line.strip().startswith("board-")]
    assert rows == [
        ["board-0", "0-31", "0.1", "0.2", "2.0", "0.5", "0.2", "640"],
        ["board-1", "32-63", "0.1", "0.2", "2.0", "0.5", "0.2", "640"],
    ]


def test_json_has_the_contracts_keys_and_the_path_as_it_was_typed(peerctl: Peerctl, tmp_path: Path) -> None:
    path = image(tmp_path, "a.jpg")
    result = json.loads(peerctl("infer", path, "--json").out)
    assert set(result) == RESULT_KEYS
    assert result["input"] == str(path)
    assert result["boards"][1] == {"id": "0000000000000001", "name": "board-1", "tokens": [16, 32]}
    full = json.loads(peerctl("infer", path, "--json", "--logits", "--explain").out)
    assert set(full) == RESULT_KEYS | {"logits", "explain"}


def test_every_option_reaches_the_daemon(peerctl: Peerctl, daemon: Daemon, tmp_path: Path) -> None:
    options = "--model toy --boards 3 --codec int8 --exchange ring --mode sequence --top 2 --logits --deadline 9"
    assert peerctl("infer", image(tmp_path, "a.jpg"), *options.split(), "--allow-degraded").code == 0
    query, images = daemon.api.queries[0]
    assert images == (b"image",)
    assert (query.inputs, query.model, query.boards, query.codec, query.exchange) == (
        ("a.jpg",),
        "toy",
        3,
        "int8",
        "ring",
    )
    assert (query.mode, query.top, query.logits, query.deadline_s, query.allow_degraded) == (
        "sequence",
        2,
        True,
        9.0,
        True,
    )


def test_a_folder_means_its_images_in_order(peerctl: Peerctl, tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.txt", "c.webp"):
        image(tmp_path, name)
    lines = [json.loads(line) for line in peerctl("infer", tmp_path, "--json").out.splitlines()]
    assert [Path(line["input"]).name for line in lines] == ["a.jpg", "b.PNG", "c.webp"]


def test_the_first_of_a_folder_tells_that_more_will_come(peerctl: Peerctl, daemon: Daemon, tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path, f"{number}.jpg")
    peerctl("infer", tmp_path, "--batch", 2, "--json")
    told = {query.inputs: query.requests for query, _ in daemon.api.queries}
    assert told == {("0.jpg", "1.jpg"): 3, ("2.jpg", "3.jpg"): 2, ("4.jpg",): 1}
    peerctl("infer", tmp_path / "0.jpg")
    assert daemon.api.queries[-1][0].requests == 1


def test_batches_go_out_as_one_request_each(peerctl: Peerctl, daemon: Daemon, tmp_path: Path) -> None:
    for number in range(5):
        image(tmp_path, f"{number}.jpg")
    ran = peerctl("infer", tmp_path, "--batch", 2, "--json")
    # Several are under way at once, so that they may arrive in any order.
    assert sorted(len(images) for _, images in daemon.api.queries) == [1, 2, 2]
    assert len(ran.out.splitlines()) == 5


def test_one_bad_image_does_not_spoil_its_batch_or_the_rest(peerctl: Peerctl, tmp_path: Path) -> None:
    good, bad, empty = (
        image(tmp_path, "good.jpg"),
        image(tmp_path, "bad.jpg", b"bad"),
        image(tmp_path, "empty.jpg", b""),
    )
    ran = peerctl("infer", good, empty, bad, good, "--batch", 3, "--json")
    assert ran.code == 5
    assert [json.loads(line)["input"] for line in ran.out.splitlines()] == [str(good), str(good)]
    assert ran.err.splitlines() == [
        f"peerctl: {empty}: the file is empty; give an image",
        f"peerctl: {bad}: cannot be decoded; give a JPEG or PNG",
        "peerctl: 2 of 4 inputs failed",
    ]


def test_the_exit_code_is_that_of_the_first_failure(peerctl: Peerctl, tmp_path: Path) -> None:
    late, bad = image(tmp_path, "late.jpg", b"late"), image(tmp_path, "bad.jpg", b"bad")
    assert peerctl("infer", late, bad).code == 6
    assert peerctl("infer", bad, late).code == 5


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(32 * 1024 * 1024 + 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.touch, "is empty"),
        (fifo, "a FIFO, not a regular file"),
        (Path.mkdir, "no images in this folder"),
        (loop, "cannot be read"),
        (huge, "larger than 32 MiB"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a regular file"),
        (lambda path: None, "cannot be read: No such file"),
    ],
    ids=["empty", "fifo", "folder", "loop", "huge", "device", "missing"],
)
def test_a_bad_input_is_one_line_and_5_and_is_never_sent(
    peerctl: Peerctl, daemon: Daemon, tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "in put.jpg"
    make(path)
    ran = peerctl("infer", path)
    assert ran.code == 5
    assert reason in one_line(ran)
    assert str(path) in ran.err
    assert daemon.api.queries == []


def test_an_unreadable_folder_is_a_failure_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    paths, failures = gather([tmp_path])
    assert paths == []
    assert "Permission denied" in str(failures[0])


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--model", "none"], 4, "no model"),
        (["--codec", "none"], 4, "unknown codec"),
        (["--boards", "99"], 7, "99 boards"),
        (["--boards", "0"], 2, "--boards"),
        (["--boards", "many"], 2, "--boards"),
        (["--exchange", "pigeon"], 2, "--exchange"),
        (["--top", "0"], 2, "--top"),
        (["--deadline", "0"], 2, "--deadline"),
        (["--nonsense"], 2, "--nonsense"),
        (["--mode", "single", "--boards", "3"], 2, "--boards"),
        (["--socket", "/nonexistent"], 3, "no daemon"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_contracts_code(
    peerctl: Peerctl, tmp_path: Path, arguments: list[str], code: int, reason: str
) -> None:
    ran = peerctl("infer", image(tmp_path, "a.jpg"), *arguments)
    assert ran.code == code
    assert reason in one_line(ran)


def test_the_first_error_that_concerns_all_files_ends_the_run(peerctl: Peerctl, daemon: Daemon, tmp_path: Path) -> None:
    ran = peerctl("infer", image(tmp_path, "a.jpg"), image(tmp_path, "b.jpg"), "--codec", "none")
    assert ran.code == 4
    assert len(daemon.api.queries) == 1


@pytest.mark.parametrize("arguments", [["nonsense"], ["infer"], ["models", "show"], ["models", "list", "x"], ["up"]])
def test_wrong_usage_is_one_line_and_2(peerctl: Peerctl, arguments: list[str]) -> None:
    ran = peerctl(*arguments)
    assert ran.code == 2
    assert "--help" in one_line(ran)


def test_no_arguments_print_the_help_and_2(peerctl: Peerctl) -> None:
    ran = peerctl()
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


def test_members_are_a_table_and_a_hostile_name_cannot_draw_on_the_terminal(peerctl: Peerctl) -> None:
    ran = peerctl("members")
    assert ran.code == 0
    assert "board-3" in ran.out
    assert "\x1b" not in ran.out
    assert "\\x1b[2Jevil" in ran.out
    assert "gone\\x0afor good" in ran.out
    listed = json.loads(peerctl("members", "--json").out)
    assert set(listed[0]) >= {
        "id",
        "name",
        "endpoint",
        "status",
        "reason",
        "incarnation",
        "models",
        "rtt_ms",
        "since_s",
    }


def test_ring_shows_order_epoch_and_tokens(peerctl: Peerctl) -> None:
    ran = peerctl("ring")
    assert "epoch 7: 4 boards, tokens of toy" in ran.out
    assert "board-0 (this board)" in ran.out
    assert "48-63" in ran.out
    value = json.loads(peerctl("ring", "--json").out)
    assert (value["epoch"], value["self"], len(value["order"])) == (7, "0" * 16, 4)


def test_models_are_listed_shown_and_verified(peerctl: Peerctl) -> None:
    assert "toy (default)" in peerctl("models").out
    assert "random" in peerctl("models", "list").out
    shown = peerctl("models", "show", "toy").out
    assert "int8 (default)" in shown
    assert "3.9x" in shown
    assert json.loads(peerctl("models", "show", "toy", "--json").out)["codecs"][0]["bits_per_token"] == 2112
    assert "every digest right" in peerctl("models", "verify").out
    assert json.loads(peerctl("models", "verify", "toy", "--json").out)["files"] == 9
    for action in ("show", "verify"):
        ran = peerctl("models", action, "none")
        assert ran.code == 4
        assert "no model 'none'" in one_line(ran)


def test_bench_compares_the_ring_with_one_board_in_turns(peerctl: Peerctl, daemon: Daemon) -> None:
    result = json.loads(peerctl("bench", "-n", 4, "--json").out)
    assert (result["single"]["p50_ms"], result["ring"]["p95_ms"], result["speed_up"]) == (4.0, 5.0, 0.8)
    assert (result["ring"]["boards"], result["ring"]["n"], result["same_machine"]) == (4, 4, True)
    asked = [query.boards for query, _ in daemon.api.queries]
    assert asked == [1, 4] * 7, "three warm-ups and four runs, in turns"
    assert "share its cores" in peerctl("bench", "-n", 1).out


def test_bench_of_a_lonely_board_says_so(peerctl: Peerctl, daemon: Daemon) -> None:
    daemon.api.size = 1
    ran = peerctl("bench")
    assert ran.code == 7
    assert "alone" in one_line(ran)


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 95) == 95.0
    assert percentile([7.0], 95) == 7.0


def test_the_generated_image_is_a_whole_ppm() -> None:
    assert len(generated_image()) == len(b"P6\n224 224\n255\n") + 224 * 224 * 3


def test_the_version_is_printed(peerctl: Peerctl) -> None:
    ran = peerctl("--version")
    assert (ran.code, ran.out.split()[0]) == (0, "peerctl")


def test_a_plan_shows_every_number_of_boards_and_codec_and_the_choice(peerctl: Peerctl) -> None:
    ran = peerctl("plan")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert (
        lines[0]
        == "toy: 4 boards (tokens: board-0 16, board-1 16, board-2 16, board-3 16), codec int8, direct, 11 ms predicted"
    )
    assert lines[1] == "  why: 4 boards are predicted to take 11 ms, this board alone 41 ms"
    rows = [line.split() for line in lines]
    assert ["boards", "int8", "f32"] in rows
    assert ["4", "11", "~10"] in rows
    assert "not measured yet" in ran.out
    assert "\x1b" not in ran.out
    assert peerctl("plan", "--model", "nothing").code == 4


def test_a_plan_has_stable_keys(peerctl: Peerctl) -> None:
    plan = json.loads(peerctl("plan", "--model", "toy", "--json").out)
    assert set(plan) == {"model", "model_id", "default_codec", "choice", "reason", "settings", "boards"}
    row = {"boards", "mode", "names", "tokens", "codec", "exchange", "predicted_ms", "per_s", "measured"}
    assert set(plan["choice"]) == row
    assert set(plan["settings"][0]) == row
    assert set(plan["boards"][0]) == {"id", "name", "measured", "alone_ms", "slower", "link_mbit", "rtt_ms", "reason"}


def test_explain_shows_predicted_beside_measured(peerctl: Peerctl, tmp_path: Path) -> None:
    ran = peerctl("infer", image(tmp_path, "a.jpg"), "--explain")
    assert "predicted" in ran.out
    assert "measured" in ran.out
