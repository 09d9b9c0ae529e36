"""The line numbers of a document's references to definitions: `python -m tests.support.references FILE` renews them."""

import ast
import re
import sys
from pathlib import Path

REFERENCE = re.compile(r"\[(?P<name>[\w.]+)\]\((?P<path>[\w./]+\.py)#L(?P<line>\d+)\)")


def with_lines(document: Path) -> str:
    """The document's text with the line of every `[Class.method](../file.py#L1)` as the file has it now.

    Raises:
        KeyError: a file does not define a name that the document refers to.
    """

    def renew(found: re.Match[str]) -> str:
        path = document.parent / found["path"]
        return f"[{found['name']}]({found['path']}#L{definitions(path)[found['name']]})"

    return REFERENCE.sub(renew, document.read_text(encoding="utf-8"))


def definitions(path: Path) -> dict[str, int]:
    """The line of every class, function and method of a module, by its qualified name."""
    lines: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines[prefix + node.name] = node.lineno
                visit(node.body, f"{prefix}{node.name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return lines


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(with_lines(Path(name)), encoding="utf-8")
