"""The package @gridcast/client as npm makes it: strict types, publint, attw, its size, the code blocks of the documents that show
it, and the Angular example, compiled strictly.

Node and its packages come from the machine and from npm; where they are not available, these tests are skipped and say so.
"""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT
from tests.support.js_client import PACKAGE_DIR
from tests.support.npm import VERSIONS, NpmPackages

JUDGES = ["publint", "@arethetypeswrong/cli", "esbuild"]
FRAMEWORKS = ["@types/node", "@types/react", "react", "vue"]
EXAMPLE_DIR = PROJECT_ROOT / "clients" / "angular-example"
MAX_BYTES = {"index": 10_000, "live": 6_000}
"""Of each entry but that for RxJS: bundled, minified and gzipped, as an application ships it."""
NPM_TIMEOUT = 110
TSC = (
    "--strict --noEmit --noUnusedLocals --allowJs --checkJs "
    "--target es2022 --module esnext --moduleResolution bundler --jsx react-jsx"
)
OWN_LIBRARY = "--skipDefaultLibCheck"
"""TypeScript's own declarations of the DOM take 2 s of CPU to check; `npm pack` checks them once."""
LIBRARIES = "--lib es2022,dom,dom.iterable --types node --skipLibCheck"  # of the frameworks; ours is checked by itself


def run(folder: Path, *command: str) -> str:
    """Run a program of node_modules and return what it prints; fails with that where it fails."""
    program = folder / "node_modules" / ".bin" / command[0]
    path = str(program) if program.exists() else shutil.which(command[0]) or command[0]
    done = subprocess.run(
        [path, *command[1:]], cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of clients/js with what builds and judges it."""
    folder = tmp_path_factory.mktemp("package")
    npm.require(folder, ["rxjs", "typescript", *JUDGES])
    copied = shutil.ignore_patterns("node_modules", "types", "*.tgz")
    shutil.copytree(PACKAGE_DIR, folder, dirs_exist_ok=True, ignore=copied)
    return folder


@pytest.fixture(scope="module")
def tarball(package: Path) -> Path:
    """What npm would publish; its script makes the declarations."""
    (made,) = json.loads(run(package, "npm", "pack", "--json", "--loglevel=error").partition("[")[2].join(("[", "")))
    return package / str(made["filename"])


def install_tarball(folder: Path, tarball: Path) -> None:
    """Unpack it into node_modules, as npm does."""
    target = folder / "node_modules" / "@gridcast" / "client"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    subprocess.run(["tar", "-xzf", str(tarball), "-C", str(target), "--strip-components=1"], check=True)


def test_the_types_are_strict_and_complete(package: Path, tarball: Path) -> None:
    """The prepack script runs `tsc`: with a type error `npm pack` writes no tarball."""
    del tarball
    manifest = json.loads((package / "package.json").read_text("utf-8"))
    options = json.loads((package / "tsconfig.json").read_text("utf-8"))["compilerOptions"]
    assert manifest["scripts"]["prepack"] == "tsc"
    assert {"checkJs", "strict", "noUnusedLocals", "noUncheckedIndexedAccess"} <= {
        name for name in options if options[name]
    }
    declarations = list((package / "types").rglob("*.d.ts"))
    modules = (package / "src").rglob("*.js")
    assert {path.stem for path in modules} <= {path.name.removesuffix(".d.ts") for path in declarations}


def test_publint_finds_nothing(package: Path, tarball: Path) -> None:
    assert "All good" in run(package, "publint", "--strict", tarball.name)


def test_attw_finds_nothing(package: Path, tarball: Path) -> None:
    """ES modules only: they resolve for Node and for bundlers."""
    result = json.loads(run(package, "attw", tarball.name, "--profile", "esm-only", "--format", "json"))
    ignored = {"node10", "node16-cjs"}
    problems = [
        kind for kind, found in result.get("problems", {}).items() if {f["resolutionKind"] for f in found} - ignored
    ]
    assert problems == []


@pytest.mark.parametrize("entry", MAX_BYTES)
def test_entries_are_small_and_have_no_dependency(package: Path, entry: str) -> None:
    manifest = json.loads((package / "package.json").read_text("utf-8"))
    assert "dependencies" not in manifest
    run(
        package,
        "esbuild",
        f"src/{entry}.js",
        "--bundle",
        "--minify",
        "--format=esm",
        "--target=es2022",
        "--outfile=bundle.js",
    )
    size = len(gzip.compress((package / "bundle.js").read_bytes(), 9))
    assert size <= MAX_BYTES[entry]
    print(f"{entry}: {size} bytes, minified and gzipped")


PUBLISHED = re.compile(r"package/(?:(?:src|types)/.+\.(?:js|d\.ts)|LICENSE|README\.md|package\.json)$")


def test_the_package_contains_its_modules_and_nothing_else(tarball: Path) -> None:
    listed = subprocess.run(["tar", "-tzf", str(tarball)], capture_output=True, text=True, check=True).stdout.split()
    assert {"package/LICENSE", "package/README.md", "package/types/live.d.ts", "package/types/rxjs/index.d.ts"} <= set(
        listed
    )
    assert [name for name in listed if not PUBLISHED.match(name)] == []


def code_blocks(document: str, *languages: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks of a document."""
    text = (PROJECT_ROOT / document).read_text("utf-8")
    return [
        found for found in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if found[0] in languages
    ]


def test_code_blocks_of_documents_are_typed(npm: NpmPackages, tarball: Path, tmp_path: Path) -> None:
    """Each ts, tsx and js block, as a module of its own."""
    npm.require(tmp_path, ["rxjs", "typescript", *FRAMEWORKS])
    install_tarball(tmp_path, tarball)
    names = []
    for document in ("docs/clients.md", "clients/js/README.md"):
        for number, (language, text) in enumerate(code_blocks(document, "ts", "tsx", "js")):
            names.append(f"{Path(document).stem}{number}.{language}")
            (tmp_path / names[-1]).write_text(f"{text}\nexport {{}};\n", "utf-8")
    assert len(names) >= 8
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    run(tmp_path, "tsc", *TSC.split(), *LIBRARIES.split(), *names)


def test_wrong_use_is_a_type_error(npm: NpmPackages, tarball: Path, tmp_path: Path) -> None:
    """What the types are for: each of these lines is an error, and the ones before them are none."""
    npm.require(tmp_path, ["rxjs", "typescript"])
    install_tarball(tmp_path, tarball)
    program = """
import { type CloudEvent, Gridcast } from "@gridcast/client";
import { Live } from "@gridcast/client/live";
import { webSocket } from "@gridcast/client/rxjs";
const { events, files, uploads } = new Gridcast({ url: "http://a" });
events.on("file.created", ({ data }) => data.filename.length);
// @ts-expect-error a file has no such field
events.on("file.created", ({ data }) => data.nonsense);
events.on("invoice.paid", (event: CloudEvent<{ number: number }>) => event.data.number);
// @ts-expect-error its data is unknown
events.on("invoice.paid", (event) => event.data.number);
// @ts-expect-error a name is needed
void files.info({});
// @ts-expect-error not a file
uploads.add("text");
const live = new Live(new Gridcast({ url: "http://a" }));
void live.create({ filename: "a.mp4" }).then((stream) => live.publish(stream, { source: new Blob([]) }).done);
// @ts-expect-error a name is needed
void live.create({});
// @ts-expect-error a stream has a token
live.publish({ id: "a" }, { source: new Blob([]) });
// @ts-expect-error not for applications
new Gridcast({ url: "http://a" }).http;
// @ts-expect-error no such option
new Gridcast({ address: "http://a" });
webSocket("http://a").ofType("file.progress").subscribe(({ data }) => data.received);
// @ts-expect-error a number
webSocket("http://a").ofType("file.progress").subscribe(({ data }) => data.received.length);
"""
    (tmp_path / "program.ts").write_text(program, "utf-8")
    run(tmp_path, "tsc", *TSC.split(), "--lib", "es2022,dom", OWN_LIBRARY, "program.ts")


def test_the_angular_example_compiles_strictly(npm: NpmPackages, tarball: Path, tmp_path: Path) -> None:
    """By Angular's own compiler, templates included; beside it a copy with a wrong name in its template, which does not compile."""
    manifest = json.loads((EXAMPLE_DIR / "package.json").read_text("utf-8"))
    packages = {**manifest["dependencies"], **manifest["devDependencies"]}
    # What serves and bundles is not needed to compile; the client is the one of this tree.
    unneeded = {"@angular/cli", "@angular/build", "@gridcast/client"}
    needed = {name: version for name, version in packages.items() if name not in unneeded}
    assert needed == {name: VERSIONS[name] for name in needed}
    npm.require(tmp_path, needed)
    install_tarball(tmp_path, tarball)
    shutil.copy(EXAMPLE_DIR / "tsconfig.json", tmp_path)
    shutil.copytree(EXAMPLE_DIR / "src", tmp_path / "src")

    source = (tmp_path / "src" / "media.component.ts").read_text("utf-8")
    assert source.count("row.snapshot.filename") == 1
    wrong = source.replace("row.snapshot.filename", "row.snapshot.nonsense")
    (tmp_path / "src" / "wrong.component.ts").write_text(wrong, "utf-8")
    with pytest.raises(AssertionError) as failure:
        run(tmp_path, "ngc", "-p", "tsconfig.json", "--noEmit", OWN_LIBRARY)
    said = re.sub(r"\x1b\[\d+m", "", str(failure.value))
    (error,) = re.findall("^.*error.*$", said, re.MULTILINE)
    assert re.match(r"src/wrong\.component\.ts:.*'nonsense'", error), said
