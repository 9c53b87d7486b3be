"""Who may import whom: techniques stand alone, the library and the machinery do not know each other."""

import grimp
import pytest

SHARED = {
    "_labels",
    "activations",
    "checkpoints",
    "data",
    "fingerprint",
    "layers",
    "models",
    "storage",
    "symmetry",
    "train",
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("layerlab", "bookkit", include_external_packages=True, cache_dir=None)


def imports(graph, *packages):
    """All (importer, imported) whose importer lies in one of the packages."""
    return {
        (module, imported)
        for module in graph.modules
        if module.partition(".")[0] in packages
        for imported in graph.find_modules_directly_imported_by(module)
    }


def technique(module):
    """The second part of a module of layerlab: `merging` for layerlab.merging.matching; "" for others."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "layerlab" else ""


def test_library_and_machinery_know_nothing_of_each_other(graph):
    found = imports(graph, "layerlab", "bookkit")
    assert len(found) > 20
    assert {
        (a, b) for a, b in found if {a.partition(".")[0], b.partition(".")[0]} == {"layerlab", "bookkit"}
    } == set()


def test_nothing_imports_from_the_tests(graph):
    assert {
        (a, b) for a, b in imports(graph, "layerlab", "bookkit") if b.partition(".")[0] == "tests"
    } == set()


def test_a_technique_imports_itself_and_what_all_share(graph):
    found = {(a, b) for a, b in imports(graph, "layerlab") if technique(a) and technique(b)}
    assert found
    assert {(a, b) for a, b in found if technique(b) not in SHARED | {technique(a)}} == set()


def test_the_library_draws_nothing_and_knows_no_notebook(graph):
    tools = {"IPython", "ipywidgets", "jupyter_book", "nbformat", "sphinx"}
    assert {(a, b) for a, b in imports(graph, "layerlab") if b.partition(".")[0] in tools} == set()
