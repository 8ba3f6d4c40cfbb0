# Copyright (c) 2026, keyslot.redis contributors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every message with which the collection can fail stands on the page of errors, and no other.

The messages are read from the source: what is given to an error of the family, what the functions
return that put a sentence together for one, and what the roles say.
"""

from __future__ import annotations

import ast
import re
import typing as t
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs/docsite/rst/errors.rst"
PLUGINS = ROOT / "plugins"
ERRORS = PLUGINS / "module_utils/_errors.py"
# A message that is built of less text of its own passes on another one.
LEAST_WORDS = 3
ENTRY = re.compile(r"^``(.+)``$", re.MULTILINE)


@dataclass(frozen=True)
class Message:
    """`parts` are the pieces of text that stay the same, `holes` what stands between them."""

    where: str
    parts: tuple[str, ...]
    holes: tuple[str, ...]

    @property
    def pattern(self) -> str:
        return ".{1,90}?".join(re.escape(part) for part in self.parts)

    def __str__(self) -> str:
        holes = [f"<{hole}>" for hole in self.holes] + [""]
        return "".join(f"{part}{hole}" for part, hole in zip(self.parts, holes))


def pieces(node: ast.expr) -> t.Iterator[ast.expr]:
    """Strings and expressions of a string, an f-string, or a sum of them, in order."""
    if isinstance(node, ast.JoinedStr):
        yield from node.values
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from pieces(node.left)
        yield from pieces(node.right)
    else:
        yield node


def message(where: str, node: ast.expr) -> Message | None:
    """None if the expression has hardly any text of its own."""
    parts, holes = [""], []
    for piece in pieces(node):
        if isinstance(piece, ast.Constant) and isinstance(piece.value, str):
            parts[-1] += piece.value
        else:
            value = piece.value if isinstance(piece, ast.FormattedValue) else piece
            holes.append(ast.unparse(value))
            parts.append("")
    words = re.findall(r"[A-Za-z_]{2,}", " ".join(parts))
    return Message(where, tuple(parts), tuple(holes)) if len(words) >= LEAST_WORDS else None


def family() -> set[str]:
    """The names of the errors, with those that other files derive from them, and those of
    ansible-core with which plugins of the controller fail."""
    names = {"KeyslotError", "AnsibleFilterError", "AnsibleParserError"}
    classes = [
        node
        for path in sorted(PLUGINS.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    for _round in classes:
        names |= {c.name for c in classes if {ast.unparse(base) for base in c.bases} & names}
    return names


def returned(function: ast.FunctionDef) -> t.Iterator[ast.expr]:
    """What a function returns that may have something to complain of, and whole sentences."""
    kind = ast.unparse(function.returns) if function.returns else ""
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            last = list(pieces(node.value))[-1]
            sentence = isinstance(last, ast.Constant) and str(last.value).endswith(".")
            if kind == "str | None" or (kind == "str" and sentence):
                yield node.value


def named(function: ast.FunctionDef, raised: list[ast.expr]) -> t.Iterator[ast.expr]:
    """What is assigned to the names that stand in the messages of this function."""
    used = {n.id for e in raised for n in ast.walk(e) if isinstance(n, ast.Name)}
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) not in used:
            continue
        value = node.value
        # `f"…".rstrip(".")`
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            value = value.func.value
        if isinstance(value, (ast.JoinedStr, ast.BinOp)):
            yield value


def messages() -> list[Message]:
    names = family()
    found: dict[str, Message] = {}
    for path in sorted(PLUGINS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            raised = [
                node.args[0]
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in names
                and node.args
            ]
            sentences = list(returned(function))
            for node in [*raised, *sentences, *named(function, raised + sentences)]:
                made = message(f"{path.relative_to(ROOT)}:{node.lineno}", node)
                if made:
                    found.setdefault(made.pattern, made)
    for path in sorted(ROOT.glob("roles/*/tasks/*.yml")):
        for text in fail_messages(yaml.safe_load(path.read_text(encoding="utf-8"))):
            parts = tuple(re.split(r"\{\{.+?\}\}", " ".join(text.split())))
            made = Message(str(path.relative_to(ROOT)), parts, ("…",) * (len(parts) - 1))
            found.setdefault(made.pattern, made)
    return list(found.values())


def fail_messages(tasks: t.Any) -> t.Iterator[str]:
    """Each `fail_msg` of a file of tasks."""
    if isinstance(tasks, list):
        for task in tasks:
            yield from fail_messages(task)
    elif isinstance(tasks, dict):
        for name, value in tasks.items():
            if name == "fail_msg":
                yield value
            else:
                yield from fail_messages(value)


def entries() -> list[str]:
    """The messages that the page explains."""
    return ENTRY.findall(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("told", messages(), ids=lambda told: told.where)
def test_every_message_stands_on_the_page(told: Message) -> None:
    if not any(re.search(told.pattern, entry) for entry in entries()):
        pytest.fail(f"docs/docsite/rst/errors.rst lacks this of {told.where}:\n``{told}``\n")


def test_the_page_has_no_message_that_nothing_says() -> None:
    patterns = [re.compile(told.pattern) for told in messages()]
    assert len(entries()) > len(patterns) // 2
    assert [entry for entry in entries() if not any(p.search(entry) for p in patterns)] == []


def test_a_message_of_any_form_is_found() -> None:
    source = 'raise Refused(f"{name} owns {n} slots. " + "Nothing was changed: drain it first.")'
    call = t.cast(ast.Raise, ast.parse(source).body[0]).exc
    told = message("here", t.cast(ast.Call, call).args[0])
    assert told is not None
    assert str(told) == "<name> owns <n> slots. Nothing was changed: drain it first."
    assert re.fullmatch(told.pattern, "a:1 owns 7 slots. Nothing was changed: drain it first.")
    assert message("here", ast.parse("str(exc)", mode="eval").body) is None


def test_the_errors_that_other_files_derive_belong_to_the_family() -> None:
    assert {"Refused", "Stopped", "ReplyError", "_Uncertain"} <= family()
    assert ERRORS.is_file()
