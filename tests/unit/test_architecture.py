"""Style as tests: which way imports point, how long files and functions are, that each says what it is for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "worker"
CLIENT = ROOT / "client" / "usage_events"
FILE_LINES_MAX = 300
TEST_FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 60

# The stages: pure or waiting, but without a driver. They run on any source and any store.
CORE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in WORKER.glob("*.py")
    if path.name not in {"app.py", "__main__.py", "__init__.py"}
)
DRIVERS = {"asyncpg", "aio_pika", "aiormq", "pamqp"}
ADAPTERS = ("worker.postgres", "worker.rabbitmq")
COMPOSERS = ("worker/app.py", "worker/commands/", "worker/demo/", "worker/postgres/", "worker/rabbitmq/")
# Of these: what neither waits nor looks at a clock.
PURE = (
    "batch", "decode", "delivery", "errors", "fast_path", "findings", "prefetch", "settle", "source", "store",
    *(f"publishing/{name}" for name in ("csv_events", "csv_fields", "csv_rows")),
    *(f"dead_letters/{name}" for name in ("erasing", "event_names", "export", "json_edit", "json_layout", "letters",
                                          "mending", "redaction", "replay_pace", "text")),
    "retention/layout", "retention/months",
)  # fmt: skip
FORBIDDEN_TO_CLIENT = {"worker", "asyncpg", "click", "rich", "structlog", "prometheus_client"}


def sources(*folders: Path) -> list[str]:
    """The Python files below these folders, by their path in the project."""
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py"))


def tree(path: str) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: str) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def functions(path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def packages(modules: set[str]) -> set[str]:
    """The packages that these modules are of."""
    return {module.partition(".")[0] for module in modules}


def is_of(module: str, packages_of: tuple[str, ...]) -> bool:
    """Whether a module is one of these or below one."""
    return any(module == one or module.startswith(f"{one}.") for one in packages_of)


MODULES = sources(WORKER, CLIENT)
TESTS = sources(ROOT / "tests")


def test_there_is_something_to_look_at() -> None:
    """The rules below look at the project's files, and not at none."""
    assert {"worker/pipeline.py", "worker/postgres/store.py", "client/usage_events/contract.py"} <= set(MODULES)
    assert "worker/pipeline.py" in CORE
    assert "tests/unit/test_architecture.py" in TESTS


@pytest.mark.parametrize("path", CORE)
def test_the_core_knows_no_driver(path: str) -> None:
    """The stages import neither adapters nor the drivers behind them."""
    imported = imports(path)
    assert not packages(imported) & DRIVERS
    assert [module for module in imported if is_of(module, (*ADAPTERS, "worker.app", "worker.demo"))] == []


@pytest.mark.parametrize("path", [f"worker/{name}.py" for name in PURE])
def test_the_pure_stages_do_no_io(path: str) -> None:
    """Time, loop, environment and network are passed in or stay outside."""
    assert not packages(imports(path)) & {"asyncio", "time", "os", "socket", "structlog", "aiohttp", "random"}


@pytest.mark.parametrize("path", MODULES)
def test_adapters_are_imported_at_the_edge_only(path: str) -> None:
    """Postgres and RabbitMQ are wired by the composition root and the commands; nobody else knows them."""
    if not path.startswith(COMPOSERS):
        assert [module for module in imports(path) if is_of(module, ADAPTERS)] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith("worker/postgres/")])
def test_postgres_knows_no_broker(path: str) -> None:
    """An adapter does not know the other one."""
    imported = imports(path)
    assert not packages(imported) & {"aio_pika", "aiormq", "pamqp"}
    assert [module for module in imported if is_of(module, ("worker.rabbitmq", "worker.app", "worker.pipeline"))] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith("worker/rabbitmq/")])
def test_rabbitmq_knows_no_database(path: str) -> None:
    """The same the other way round."""
    imported = imports(path)
    assert "asyncpg" not in packages(imported)
    assert [module for module in imported if is_of(module, ("worker.postgres", "worker.app", "worker.pipeline"))] == []


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith("client/")])
def test_the_client_knows_no_worker(path: str) -> None:
    """What services install brings neither the worker nor its database driver nor its command line."""
    assert not packages(imports(path)) & FORBIDDEN_TO_CLIENT


def test_imports_make_no_cycle() -> None:
    """Every module of the worker can be understood after those that it imports."""
    names = {path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources(WORKER)}
    known = set(names.values())
    graph = {name: {one for one in imports(path) if one in known and one != name} for path, name in names.items()}
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & graph.keys()}
        assert leaves, f"these import each other: {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


@pytest.mark.parametrize("path", MODULES)
def test_files_are_short(path: str) -> None:
    """A file that grows past the limit has more than one responsibility."""
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) < FILE_LINES_MAX


@pytest.mark.parametrize("path", TESTS)
def test_files_of_tests_are_bounded(path: str) -> None:
    """Tests of one thing may be long, but nobody should have to look for one in thousands of lines."""
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) < TEST_FILE_LINES_MAX


@pytest.mark.parametrize("path", [*MODULES, *TESTS])
def test_functions_are_short(path: str) -> None:
    """A function fits a screen."""
    long = {
        function.name: function.end_lineno - function.lineno + 1
        for function in functions(path)
        if function.end_lineno is not None and function.end_lineno - function.lineno >= FUNCTION_LINES_MAX
    }
    assert long == {}


@pytest.mark.parametrize("path", [*MODULES, *TESTS])
def test_each_file_says_what_it_is_for(path: str) -> None:
    """Every module begins with a docstring."""
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", TESTS)
def test_each_test_says_what_it_shows(path: str) -> None:
    """Every test has a docstring: a failure is read by someone who did not write it."""
    silent = [one.name for one in functions(path) if one.name.startswith("test_") and not ast.get_docstring(one)]
    assert silent == []


def test_metric_names_stand_in_one_place() -> None:
    """Names of metrics are a promise: they are made in worker/metrics.py and nowhere else."""
    makers = [path for path in sources(WORKER) if "prometheus_client.Counter" in imports(path)]
    assert makers == ["worker/metrics.py"]
    named = [path for path in sources(WORKER) if "usage_worker_" in (ROOT / path).read_text(encoding="utf-8")]
    assert [path for path in named if not path.startswith("worker/demo/")] == []


def test_each_metric_is_explained() -> None:
    """Each metric has a help text, and no two of them share one."""
    from worker.metrics import Metrics

    texts = [metric.documentation for metric in Metrics().registry.collect() if not metric.name.endswith("_created")]
    assert all(texts)
    assert len(set(texts)) == len(texts)
