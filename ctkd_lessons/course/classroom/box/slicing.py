"""Cut out of the course what a sandbox may hold.

To drive an answer, the sandbox needs the exercise's ``drive`` and what that calls; the sheet's locked
cells need what they import. The reference and the wrong answers stand in the same modules and must stay
outside. So the modules are not copied but cut: from the syntax tree, a name and all that it needs.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from ctkd_lessons.course.lessons import ROOT

PACKAGE = "ctkd_lessons"

Name = tuple[str, str]  # module, name


class Library:
    """The course's modules as syntax trees, and those given as text beside them."""

    def __init__(self, extra: dict[str, str] | None = None) -> None:
        self.extra = extra or {}
        self._trees: dict[str, ast.Module] = {}

    def holds(self, module: str) -> bool:
        """Whether ``module`` is one of the course's, or was given."""
        return module in self.extra or (module.split(".")[0] == PACKAGE and _file(module) is not None)

    def is_import(self, module: str, name: str) -> bool:
        """Whether ``module`` only imports ``name``."""
        return _bindings(self.tree(module))[name][1] is not None

    def tree(self, module: str) -> ast.Module:
        """Return a module's syntax tree."""
        if module not in self._trees:
            text = self.extra[module] if module in self.extra else _file(module).read_text(encoding="utf-8")
            self._trees[module] = ast.parse(text)
        return self._trees[module]

    def closure(self, roots: Iterable[Name]) -> set[Name]:
        """Return ``roots`` and every name of the course that they need, directly or not."""
        found: set[Name] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._needs(*name)
        return found

    def used_by(self, module: str, node: ast.AST) -> Iterator[Name]:
        """Yield the names of the course that a piece of ``module`` mentions."""
        bound = _bindings(self.tree(module))
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in bound:
                yield module, part.id
            elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                of = self._module_named(bound.get(part.value.id))
                if of:  # pipeline.fuse_knowledge, after "from ctkd_lessons import pipeline"
                    yield of, part.attr
            elif isinstance(part, ast.ImportFrom) and part is not node and self.holds(part.module or ""):
                for alias in part.names:  # an import inside a function
                    yield part.module, alias.name

    def _needs(self, module: str, name: str) -> Iterator[Name]:
        binding = _bindings(self.tree(module)).get(name)
        if binding is None:
            raise ValueError(f"slicing: {module} binds no {name!r} at its top level")
        node, alias = binding
        if alias is None:
            yield from self.used_by(module, node)
        elif isinstance(node, ast.ImportFrom) and self.holds(node.module) and not self._module_named(binding):
            yield node.module, alias.name

    def _module_named(self, binding: "_Binding | None") -> str | None:
        """Return the course's module that an import binds, if it binds one."""
        if binding is None or binding[1] is None:
            return None
        node, alias = binding
        full = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
        return full if self.holds(full) else None

    def cut(self, names: Iterable[Name]) -> dict[str, str]:
        """Return the source of each module, cut down to ``names``."""
        wanted: dict[str, set[str]] = {}
        for module, name in names:
            wanted.setdefault(module, set()).add(name)
        return {module: _cut(self.tree(module), kept) for module, kept in wanted.items()}


_Binding = tuple[ast.stmt, ast.alias | None]


@cache
def _bindings(tree: ast.Module) -> dict[str, _Binding]:
    """Return what binds each name at a module's top level: a statement, and for an import the alias."""
    bound: dict[str, _Binding] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound[alias.asname or alias.name.partition(".")[0]] = node, alias
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = node, None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for part in (part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)):
                bound[part.id] = node, None
    return bound


def _cut(tree: ast.Module, kept: set[str]) -> str:
    nodes = []
    bound = _bindings(tree)
    for node in tree.body:
        names = {name for name, (where, _) in bound.items() if where is node and name in kept}
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            nodes.append(node)
        elif names and isinstance(node, ast.Import | ast.ImportFrom):
            aliases = [bound[name][1] for name in sorted(names)]
            again = ast.Import(aliases) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, aliases, 0)
            nodes.append(again)
        elif names:
            nodes.append(node)
    return ast.unparse(ast.fix_missing_locations(ast.Module(nodes, [])))


@cache
def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()), None)
