"""docs/troubleshooting.md has a line for every note and every wrong that doctor can find, under its topic."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from peer import findings

PAGE = (Path(findings.__file__).parents[1] / "docs/troubleshooting.md").read_text(encoding="utf-8")
_FRAGMENT = 2  # characters of what a finding says, at least: "°C"


def literals(node: ast.expr) -> list[str]:
    """The fixed parts of a text: those of an f-string between its fields."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [text for part in node.values if isinstance(part, ast.Constant) for text in literals(part)]
    return [text for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr) for text in literals(part)]


def said() -> Iterator[tuple[str, list[str]]]:
    """(where, fixed parts) of what each finding says: second arguments, texts called `what`, rows of a loop."""
    for node in ast.walk(ast.parse(Path(findings.__file__).read_text(encoding="utf-8"))):
        name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
        if isinstance(node, ast.Call) and name in ("note", "wrong"):
            yield f"line {node.lineno}", literals(node.args[1])
        elif isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["what"]:
            yield f"line {node.lineno}", literals(node.value)
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
            for row in node.iter.elts:
                if isinstance(row, ast.Tuple):
                    yield f"line {row.lineno}", literals(row.elts[1])


def test_every_finding_is_explained() -> None:
    found = [(where, max(parts, key=len).strip(" :()")) for where, parts in said() if parts]
    found = [(where, fragment) for where, fragment in found if len(fragment) >= _FRAGMENT]
    assert len(found) >= 45
    missing = [f"{where}: {fragment}" for where, fragment in found if fragment not in PAGE]
    assert missing == []


def test_every_topic_is_there_and_no_other() -> None:
    source = Path(findings.__file__).read_text(encoding="utf-8")
    tree = ast.walk(ast.parse(source))
    calls = [node for node in tree if isinstance(node, ast.Call) and ast.unparse(node.func) in ("note", "wrong")]
    topics = {node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)}
    explained = set(re.findall(r"^\| \*\*([^*]+)\*\*", PAGE, re.MULTILINE))
    # The command line adds one of its own.
    assert explained == topics | {"configuration"}
