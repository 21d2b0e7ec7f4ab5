"""Who may import whom, and how big a room may be."""

import ast
import functools
import graphlib
import subprocess
import sys

import pytest

from tests.helpers import ROOT

BASE = {"utils", "config"}
#: Each room of dust, and the rooms that it may import.
ALLOWED = {
    "utils": set(),
    "config": {"utils"},
    "zoo": {"utils"},
    "decode": {"utils"},
    "procedure": {"utils"},
    "launch": BASE,
    "models": {*BASE, "procedure"},
    "datasets": {*BASE, "decode", "procedure"},
    "synthetic": {"utils", "datasets", "decode", "procedure"},
    "convert": {"utils", "datasets", "decode", "procedure"},
    "visualization": BASE,
    "tasks": {*BASE, "procedure", "models", "visualization"},
    "engine": {*BASE, "procedure", "models", "visualization", "tasks", "datasets", "launch", "zoo"},
}
ALLOWED["streaming"] = {*ALLOWED["engine"], "engine", "decode"}
ALLOWED["deploy"] = {*ALLOWED["streaming"], "streaming"}
ALLOWED["analysis"] = {*ALLOWED["deploy"], "deploy"}
ALLOWED["benchmark"] = {*ALLOWED["analysis"]}
ALLOWED["cli"] = {*ALLOWED["analysis"], "analysis", "benchmark", "synthetic", "convert"}
MODULES = sorted(path for path in (ROOT / "dust").rglob("*.py") if len(path.relative_to(ROOT).parts) > 2)


@functools.cache
def nodes_of(path):
    """All nodes of a file's syntax tree; the first is the module."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_parts(path):
    for node in nodes_of(path):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"dust.{alias.name}" for alias in node.names] if node.module == "dust" else [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "dust" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT / "dust").parts[0]
    assert own in ALLOWED, f"{own}: say in ALLOWED what it may import"
    assert set(imported_parts(path)) <= ALLOWED[own] | {own}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in nodes_of(path):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 80, f"{path}: {node.name}"


@functools.cache
def imports_of_files():
    """{file of dust, tools or benchmarks: the files that it imports}, where and for whatever reason it does."""
    files = [path for room in ("dust", "tools", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    graph = {}
    for path in files:
        found = set()
        for node in nodes_of(path):
            wanted = []
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in wanted:
                while name and name not in names:
                    name = name.rpartition(".")[0]
                if name and names[name] != path:
                    found.add(names[name])
        graph[path] = found
    return graph


def test_no_circle_of_files():
    """TYPE_CHECKING and imports within functions count too. A package's __init__ offers what its files hold."""
    graph = {path: {one for one in found if one.name != "__init__.py"} for path, found in imports_of_files().items()}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


def test_no_crumbs():
    """A file under 40 lines that one other file imports belongs into it. Doors and sub-commands are short by nature."""
    graph = imports_of_files()
    for path in MODULES:
        if path.name == "__init__.py" or path.relative_to(ROOT / "dust").parts[0] == "cli":
            continue
        if "\nSYSTEM = System(" in path.read_text(encoding="utf-8"):
            continue  # the key file of a system, however few it has
        importers = [one for one, found in graph.items() if path in found and one.name != "__init__.py"]
        assert path.read_text(encoding="utf-8").count("\n") >= 40 or len(importers) != 1, f"{path}: into {importers[0]}"


def test_nobody_imports_benchmarks_or_tools():
    for path in MODULES:
        for node in nodes_of(path):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert (module or "").split(".")[0] not in ("benchmarks", "tools"), path


SYSTEMS = ("timesformer", "keystep", "tracks", "tstl", "fusion", "psr", "videomae", "swin")


def texts_in_code(path):
    """All names, imports and texts of a file but its docstrings."""
    nodes = nodes_of(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    parts = [node for node in nodes if isinstance(node, documented) and ast.get_docstring(node)]
    docs = {id(part.body[0].value) for part in parts}
    for node in nodes:
        fields = () if id(node) in docs else ("id", "attr", "arg", "name", "module", "asname", "value")
        yield from (text for text in (getattr(node, field, None) for field in fields) if isinstance(text, str))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.relative_to(ROOT / "dust").parts[0] in ("engine", "launch")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_engine_names_no_system(path):
    """What it must know of a system's keys or models, it asks of the schema, or of the model."""
    for text in texts_in_code(path):
        cast = "CAST" in text or (text.startswith("dust.") and "cast" in text)  # in lower case a word of torch
        assert not cast and not any(name in text.lower() for name in SYSTEMS), text


def test_configurations_are_changed_in_config_alone():
    """Everybody else asks for a copy by dust.config.with_values."""
    changing = {
        path.relative_to(ROOT / "dust").parts[0]
        for path in MODULES
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr == "defrost"
    }
    assert changing == {"config"}


def test_nothing_prints_in_the_package():
    for path in MODULES:
        room = path.relative_to(ROOT / "dust").parts[0]
        if room == "cli" or path.name == "run_net.py" or path.parts[-2:] == ("utils", "logging.py"):
            continue  # the command line, and the log that cannot log
        for node in nodes_of(path):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id == "print"), path


#: Rooms in which a configuration is read by builders alone.
BUILT = ("engine", "tasks", "launch", "streaming", "deploy")


def may_read_cfg(names):
    """``names``: of a function and of those that it stands in."""
    return any(name in ("build", "from_config", "main", "run_stage") or name.startswith("build_") for name in names)


def readers_of_cfg(tree):
    """``function: what it takes`` of those that get or keep a configuration though they build nothing: a parameter
    called cfg, CfgNode as a type, an upper-case attribute of a parameter, or an attribute called cfg."""

    def visit(node, names):
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                inner = [*names, getattr(child, "name", "lambda")]
                if not may_read_cfg(inner):
                    yield from (f"{'.'.join(inner)}: {what}" for what in sorted(taken(child)))
            elif isinstance(child, ast.ClassDef):
                inner = [*names, child.name]
                fields = [one for one in child.body if isinstance(one, ast.AnnAssign)]
                yield from (f"{'.'.join(inner)}: {ast.unparse(one)}" for one in fields if is_cfg(one.target, one))
            yield from visit(child, inner)

    def is_cfg(target, annotated):
        annotation = annotated.annotation
        name = getattr(target, "arg", getattr(target, "id", ""))
        return name in ("cfg", "cfgs") or (annotation is not None and "CfgNode" in ast.unparse(annotation))

    def taken(function):
        arguments = function.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        found = {one.arg for one in parameters if is_cfg(one, one)}
        names = {one.arg for one in parameters}
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute):
                continue
            of_parameter = isinstance(node.value, ast.Name) and node.value.id in names
            if (of_parameter and node.attr.isupper()) or node.attr in ("cfg", "cfgs"):
                found.add(ast.unparse(node))
        return found

    return list(visit(tree, []))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if path.relative_to(ROOT / "dust").parts[0] in BUILT],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_cfg_stops_at_builders(path):
    """Everything else takes plain values, so that it can be used and tested without a configuration."""
    assert not readers_of_cfg(nodes_of(path)[0])


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def build_x(cfg): return cfg.TRAIN", []),
        ("def build_x(cfg):\n  def inner(cfg): return cfg.TRAIN\n  return inner", []),
        ("class A:\n  @classmethod\n  def from_config(cls, cfg): return cfg.X", []),
        ("def f(cfg): pass", ["f: cfg"]),
        ("def f(node): return node.SOLVER.BASE_LR", ["f: node.SOLVER"]),
        ("def f(c: 'CfgNode'): pass", ["f: c"]),
        ("def f(*, c: CfgNode | None = None): pass", ["f: c"]),
        ("class A:\n  def g(self): return self.cfg", ["A.g: self.cfg"]),
        ("class A:\n  cfgs: tuple[int, ...]", ["A: cfgs: tuple[int, ...]"]),
        ("f = lambda cfg: 1", ["lambda: cfg"]),
        ("def f(path): return path.stem", []),
    ],
)
def test_a_reader_of_cfg_is_found(code, found):
    assert readers_of_cfg(ast.parse(code)) == found


#: What a function's docstring may begin with. Whoever needs another verb adds it, in the imperative.
VERBS = """
Act Adapt Add Answer Apply Ask Assign Average Be Become Begin Blend Bring Build Call Change Check Choose Claim Close
Collect Compare Compile Complete Compute Continue Convert Copy Correct Correlate Count Cut Decide Decode Delete
Describe Divide Do Draw Drop Encode End Erase Estimate Evaluate Explain Extract Fill Find Fit Flip Follow Forget Fuse
Generate Give Go Hand Handle Hold Import Join Judge Keep Kill Lay Learn Leave Let List Load Log Look Make Map Match
Measure Merge Mix Move Multiply Name Normalise Note Number Open Order Pack Parse Pass Plan Play Pool Predict Prepare
Print Put Quantise Raise Rank Re-encode Read Record Refuse Remember Remove Replace Report Restore Return Roll Round
Run Save Say Score See Seed Send Set Share Sharpen Show Silence Sort Spare Spread Stack Stand Start Step Store Stream
Stretch Strip Submit Supply Swap Switch Take Tell Test Time Trace Train Translate Turn Undo Unpack Wait Warn Watch
Work Write Yield Zero
"""


def docstrings_without_verb(nodes):
    """``name: first word`` of the functions whose docstring begins with none of VERBS; properties have nouns."""
    verbs = VERBS.split()
    for node in nodes:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(one).rpartition(".")[2] for one in node.decorator_list}
        first = (ast.get_docstring(node) or "Return").split()[0].rstrip(".,:;")
        if first not in verbs and not decorators & {"property", "cached_property", "setter"}:
            yield f"{node.name}: {first}"


@pytest.mark.parametrize("room", ["dust", "tools", "benchmarks"])
def test_docstrings_of_functions_begin_with_a_verb(room):
    files = sorted((ROOT / room).rglob("*.py"))
    wrong = [f"{path.relative_to(ROOT)}: {one}" for path in files for one in docstrings_without_verb(nodes_of(path))]
    assert not wrong, f"begin with an imperative verb, or add yours to VERBS: {wrong}"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def f():\n  'The weights.'", ["f: The"]),
        ("class A:\n  'A reader.'\n  def f(self):\n    'Whether it can.'", ["f: Whether"]),
        ("def f():\n  'Return it.'\n  async def g():\n    'Seconds.'", ["g: Seconds"]),
        ("class A:\n  @property\n  def f(self):\n    'The weights.'", []),
        ("class A:\n  @functools.cached_property\n  def f(self):\n    'The weights.'", []),
        ("def f():\n  pass", []),
    ],
)
def test_a_docstring_without_verb_is_found(code, found):
    assert list(docstrings_without_verb(ast.walk(ast.parse(code)))) == found


def modules_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    "statement",
    ["import dust", "import dust.config", "import dust.cli.main", "import dust.engine.run_net", "import dust.zoo"],
)
def test_light_imports_stay_light(statement):
    """--help, a wrong key and ``import dust`` answer without torch and what stands on it."""
    assert not modules_after(statement) & {"torch", "av", "timm", "sklearn", "matplotlib", "torchvision"}


#: Says which sub-command is the first one whose help imports torch.
HELP = """
import contextlib, io, sys
from dust.cli.main import main, names
for name in names():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([name, "--help"])
    assert out.getvalue().startswith("usage: "), name
    assert not {"torch", "timm", "sklearn", "matplotlib"} & set(sys.modules), name
"""


@pytest.mark.parametrize("code", [HELP, "import dust.convert.check, dust.convert.make_tracks, dust.convert.shards"])
def test_help_and_lists_do_without_torch(code):
    """Nobody waits for it to read what a command takes, nor does each process that looks at files."""
    assert "torch" not in modules_after(f"exec({code!r})")
