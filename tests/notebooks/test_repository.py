"""What the repository says about itself holds: commands, links, workflows, citation."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "CHANGELOG.md",
    ".github/PULL_REQUEST_TEMPLATE.md",
]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[0-9]*.yml"))


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def parsed(path: str | Path) -> dict:
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def targets() -> set[str]:
    """The Makefile's targets that a user may name."""
    return set(re.findall(r"^([a-z][a-z-]*)\s*:(?!=)", read("Makefile"), flags=re.MULTILINE))


def code(document: str) -> str:
    """The commands of a Markdown text: its fenced blocks and its code spans, one a line."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", document, flags=re.MULTILINE | re.DOTALL))
    return "\n".join(fenced + spans)


def made(commands: str) -> set[str]:
    """The targets that shell commands give to make, after variables such as BOOK_SEED=7."""
    return set(re.findall(r"^\s*(?:[A-Z_]+=\S+ )*make ([a-z-]+)", commands, flags=re.MULTILINE))


def steps(workflow: Path) -> list[dict]:
    return [step for job in parsed(workflow)["jobs"].values() for step in job["steps"]]


def commands(workflow: Path) -> set[str]:
    """The targets that a workflow makes."""
    return made("\n".join(step.get("run", "") for step in steps(workflow)))


def test_the_readme_names_the_two_commands():
    assert {"book", "test", "help"} <= made(code(read("README.md")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_targets_that_exist(document):
    assert made(code(read(document))) <= targets()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_within_the_repository_lead_somewhere(document):
    folder = (ROOT / document).parent
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", read(document))
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_changelog_has_a_place_for_what_comes_next():
    assert "## [Unreleased]" in read("CHANGELOG.md")


def test_the_citation_can_be_read():
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])
    assert citation["version"] == tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert citation["repository-code"] == parsed("_config.yml")["repository"]["url"]
    assert citation["url"] in read("README.md")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_do_what_a_user_could_do(workflow):
    text = parsed(workflow)
    assert text["name"]
    assert text["permissions"] == {"contents": "read"}, "a job that needs more asks for it itself"
    assert all(job["runs-on"] for job in text["jobs"].values())
    assert commands(workflow) <= targets()
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        if "/upload-" in step.get("uses", ""):
            assert step["with"]["include-hidden-files"], (
                "an upload leaves hidden files out unless told not to"
            )


def test_pull_requests_are_judged_by_the_two_commands_and_the_week_by_more():
    book, weekly = (ROOT / ".github/workflows" / name for name in ("book.yml", "weekly.yml"))
    assert {"push", "pull_request"} <= set(parsed(book)[True])  # in YAML 1.1 the word `on` is true
    assert {"book", "test"} <= commands(book)
    assert "schedule" in parsed(weekly)[True]
    assert {"book", "test", "oracles"} <= commands(weekly)
    assert any("BOOK_SEED=" in step.get("run", "") for step in steps(weekly))


def test_the_hooks_are_there_and_keep_the_ids_of_cells():
    hooks = {
        hook["id"]: hook for repo in parsed(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    }
    assert set(hooks) == {"nbstripout", "ruff", "ruff-format", "codespell", "bookkit"}
    assert "--keep-id" in hooks["nbstripout"]["entry"]
    assert "jupyter" in hooks["ruff"]["types_or"]
    assert hooks["bookkit"]["entry"].endswith("python -m bookkit check")


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_well_formed(form):
    text = parsed(form)
    assert text["name"]
    assert text["description"]
    fields = [field for field in text["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_a_failed_claim_is_reported_with_its_seed_and_its_result():
    form = parsed(".github/ISSUE_TEMPLATE/2-claim-failed.yml")
    required = {field["id"] for field in form["body"] if field.get("validations", {}).get("required")}
    assert {"claim", "seed", "result"} <= required


def test_the_wheel_carries_every_claim_and_no_data():
    """Outside the repository, as in Colab, a chapter finds its claims in the package."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = sorted(file.parent.name for file in (ROOT / "chapters").glob("*/claims.yaml"))
    assert wheel["force-include"] == {
        f"chapters/{part}/claims.yaml": f"bookkit/_claims/{part}.yaml" for part in parts
    }
    carried = [file for folder in wheel["packages"] for file in (ROOT / folder).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in carried if file.suffix not in (".py", ".pyc")) < 1_000_000
