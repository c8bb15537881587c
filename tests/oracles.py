"""Which tests need an oracle, found in their source: from a test through helpers and fixtures to an import.

A test, a helper or a fixture needs one when its body imports it, or when it uses something that does. Where a
module imports an oracle at its top, all of it needs one. Attributes are followed where the type of their
owner is written down: `tiny: Checkpoints`, `self`, or a name that was just made by calling the class.
"""

import ast
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

ORACLES = ("diffusers", "transformers", "peft", "sentencepiece", "torchvision")
REPOSITORY = Path(__file__).resolve().parents[1]
FOLDERS = ("tests", "benchmarks")
BY_NAME = ("import_module", "importorskip", "__import__")
"""Calls that import what their first argument names."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_oracle(module: str | None) -> bool:
    return (module or "").split(".")[0] in ORACLES


def imports_oracle(node: ast.AST) -> bool:
    """Whether this very node, which its children are no part of, imports an oracle."""
    match node:
        case ast.Import(names=names):
            return any(is_oracle(name.name) for name in names)
        case ast.ImportFrom(module=module, level=0):
            return is_oracle(module)
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=name), *_]):
            return called in BY_NAME and is_oracle(str(name))
    return False


def own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when `tree` does, with the bodies of its methods left out where it is a class."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.ClassDef) and isinstance(child, Function) and child.name != "__init__":
            yield from (part for decorator in child.decorator_list for part in ast.walk(decorator))
        else:
            yield from ast.walk(child)


class Module:
    """The definitions of a file, and where the names come from that it imports from tests and benchmarks."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.definitions: dict[str, ast.AST] = {}
        self.imported: dict[str, tuple[str, str | None]] = {}
        for node in self.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                self.definitions[node.name] = node
            if isinstance(node, ast.ClassDef):
                for child in node.body:
                    if isinstance(child, Function):
                        self.definitions[f"{node.name}.{child.name}"] = child
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                self.definitions |= {t.id: node for t in targets if isinstance(t, ast.Name)}
        for part in ast.walk(self.tree):
            if isinstance(part, ast.ImportFrom) and (part.module or "").split(".")[0] in FOLDERS:
                for alias in part.names:
                    self.imported[alias.asname or alias.name] = (str(part.module), alias.name)

    @cached_property
    def top_level(self) -> list[ast.stmt]:
        """The imports that run when the module is imported."""
        return [node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]


def _types(module: Module, definition: str, tree: ast.AST, nodes: list[ast.AST]) -> dict[str, tuple[str, str]]:
    """The classes of the names in a definition, as far as they are written down, each with a module."""
    types: dict[str, tuple[str, str]] = {}
    if "." in definition:
        types["self"] = (module.name, definition.split(".", maxsplit=1)[0])
    if isinstance(tree, ast.ClassDef):
        types["self"] = (module.name, tree.name)
    for node in nodes:
        match node:
            case ast.arg(arg=name, annotation=ast.Name(id=kind)):
                types[name] = (module.name, kind)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id=kind))):
                types[name] = (module.name, kind)
    return types


class Oracles:
    """The modules of tests and benchmarks, and for each definition whether it needs an oracle."""

    def __init__(self, root: Path = REPOSITORY) -> None:
        self._paths: dict[str, Path] = {}
        for folder in FOLDERS:
            for path in (root / folder).rglob("*.py"):
                parts = path.relative_to(root).with_suffix("").parts
                self._paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        self._modules: dict[str, Module] = {}
        self._answers: dict[tuple[str, str], bool] = {}

    def module(self, name: str) -> Module | None:
        if name not in self._modules and name in self._paths:
            self._modules[name] = Module(name, self._paths[name])
        return self._modules.get(name)

    @cache  # noqa: B019 - one object lives as long as the run
    def import_needs(self, name: str) -> bool:
        """Whether importing a module imports an oracle."""
        module = self.module(name)
        if module is None:
            return False
        if any(imports_oracle(node) for node in module.top_level):
            return True
        found = [node for node in module.top_level if isinstance(node, ast.ImportFrom)]
        inner = {str(node.module) for node in found}
        inner |= {f"{node.module}.{alias.name}" for node in found for alias in node.names}
        return any(self.import_needs(other) for other in inner if other in self._paths)

    def test_needs(self, name: str, test: str) -> bool:
        """Whether a test of a module does, by its name: `test_one`, or `TestClass.test_one`."""
        return (
            self.import_needs(name)
            or self.needs(name, test)
            or any(self.needs(*fixture) for fixture in self._automatic(name))
        )

    def needs(self, name: str, definition: str) -> bool:
        """Whether what is defined in a module imports an oracle when it is used."""
        key = (name, definition)
        if key not in self._answers:
            self._answers[key] = False
            self._answers[key] = self._search(name, definition)
        return self._answers[key]

    def _search(self, name: str, definition: str) -> bool:
        module = self.module(name)
        if module is None:
            return False
        if definition in module.imported:
            origin, original = module.imported[definition]
            return self.needs(origin, str(original)) or self.import_needs(origin)
        tree = module.definitions.get(definition)
        if tree is None:
            return False
        nodes = list(own_nodes(tree))
        if any(imports_oracle(node) for node in nodes):
            return True
        return any(self.needs(*used) for used in set(self._used(module, definition, tree, nodes)))

    def _used(self, module: Module, definition: str, tree: ast.AST, nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
        """What a definition uses, as modules and names: names, methods of what it is given, fixtures."""
        types = _types(module, definition, tree, nodes)
        if isinstance(tree, Function):
            for argument in (*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs):
                yield from self._fixture(module.name, argument.arg)
        for node in nodes:
            match node:
                case ast.Name(id=name) if name in module.definitions or name in module.imported:
                    yield module.name, name
                case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in types:
                    yield from self._method(*types[owner], attribute)
                case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in module.imported:
                    origin, original = module.imported[owner]
                    yield f"{origin}.{original}", attribute
                case ast.Call(func=ast.Attribute(attr="usefixtures" | "getfixturevalue"), args=arguments):
                    for constant in arguments:
                        if isinstance(constant, ast.Constant):
                            yield from self._fixture(module.name, str(constant.value))

    def _method(self, name: str, kind: str, attribute: str) -> Iterator[tuple[str, str]]:
        module = self.module(name)
        if module is None:
            return
        if kind in module.imported:
            origin, original = module.imported[kind]
            yield from self._method(origin, str(original), attribute)
        elif f"{kind}.{attribute}" in module.definitions:
            yield name, f"{kind}.{attribute}"
        elif isinstance(tree := module.definitions.get(kind), ast.ClassDef):
            for base in tree.bases:
                if isinstance(base, ast.Name):
                    yield from self._method(name, base.id, attribute)

    def _homes(self, name: str) -> list[str]:
        """The modules whose fixtures a module may use: itself, and each conftest above it."""
        parts = name.split(".")
        return [name, *(".".join([*parts[:depth], "conftest"]) for depth in range(len(parts) - 1, 0, -1))]

    def _fixture(self, name: str, fixture: str) -> Iterator[tuple[str, str]]:
        for home in self._homes(name):
            module = self.module(home)
            if module is not None and (fixture in module.definitions or fixture in module.imported):
                yield home, fixture
                return

    @cache  # noqa: B019 - one object lives as long as the run
    def _automatic(self, name: str) -> list[tuple[str, str]]:
        """The fixtures that every test of a module has."""
        found = []
        for home in self._homes(name):
            module = self.module(home)
            for key, tree in (module.definitions if module else {}).items():
                if isinstance(tree, Function) and any(
                    "autouse=True" in ast.unparse(decorator) for decorator in tree.decorator_list
                ):
                    found.append((home, key))
        return found
