"""How the kernels' library is compiled, and how it gets into what pip installs."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import edgerank.kernels
from edgerank.kernels import build as kernels
from edgerank.kernels import toolchain
from tests.support import ROOT

HOST = toolchain.host_target()
pytestmark = pytest.mark.skipif(HOST is None, reason="there are no kernels for this machine")
LIBRARY = toolchain.TARGETS[HOST].library if HOST else ""
MODULES = {"edgerank/kernels/build.py", "edgerank/kernels/toolchain.py"}
ABSENT = f"edgerank/kernels/{LIBRARY}.absent"  # says why there is no library
WITHOUT = "edgerank uses ONNX Runtime's stock operators."

STUB = """
#include <vector>
extern "C" {
__attribute__((visibility("default"))) int RegisterCustomOps() { return 17; }
int edgerank_of_another_file();
__attribute__((visibility("default"))) int edgerank_sum() {
  std::vector<int> numbers(3, edgerank_of_another_file());
  return numbers[0] + numbers[1] + numbers[2];
}
}
"""
OTHER = """
extern "C" int edgerank_of_another_file() {
#if defined(EDGERANK_WITHOUT_AVX2)
  return 1;
#else
  return 2;
#endif
}
"""
# notes how it is called; fails at some flags, and at sources with #error as compilers do
FAKE = """
import json, pathlib, sys
arguments = sys.argv[1:]
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as file:
    file.write(json.dumps(arguments) + "\\n")
unknown = set(arguments) & set((here / "unknown").read_text().split())
if unknown:
    sys.exit(f"c++: error: unrecognized command-line option {unknown.pop()!r}")
for argument in arguments:
    if argument.endswith(".cpp") and "#error" in pathlib.Path(argument).read_text():
        sys.exit(f"In file included from here:\\n{argument}:1:2: error: #error broken\\nnote: more")
pathlib.Path(arguments[arguments.index("-o") + 1]).write_bytes(b"made")
"""


class FakeCompiler:
    """A compiler that makes files with four bytes, and remembers its command lines."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "compiler.py").write_text(FAKE)
        (directory / "unknown").write_text("")
        (directory / "calls").write_text("")
        self.directory = directory
        self.command = [sys.executable, str(directory / "compiler.py")]

    def forget(self) -> None:
        (self.directory / "calls").write_text("")

    def does_not_know(self, *flags: str) -> None:
        (self.directory / "unknown").write_text(" ".join(flags))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.directory / "calls").read_text().splitlines()]

    def flags_of(self, name: str) -> list[str]:
        """The command line that compiled a source."""
        (call,) = [call for call in self.calls() if any(part.endswith(f"/{name}") for part in call)]
        return call


@pytest.fixture
def fake(tmp_path):
    return FakeCompiler(tmp_path / "compiler")


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def sources(tmp_path):
    """Sources of a small library, with one for each of three instruction sets."""
    directory = tmp_path / "src"
    directory.mkdir()
    (directory / "stub.cpp").write_text(STUB)
    (directory / "other.cpp").write_text(OTHER)
    for name in ("avx2", "avx_vnni", "dotprod"):
        (directory / f"instruction_set_{name}.cpp").write_text("")
    return directory


@pytest.fixture
def compile_stub(sources, fake, tmp_path):
    def compile_it(**options):
        options = {"target": "x86_64-linux", "compiler": fake.command, **options}
        return kernels.build(output=tmp_path / "made", sources=sources, **options)

    return compile_it


# Compiling


def test_a_real_compiler_makes_a_library_that_exports_no_more_than_it_should(sources, tmp_path):
    if toolchain.find_compiler() is None:
        pytest.skip("there is no C++ compiler")
    built = kernels.build(output=tmp_path, sources=sources, werror=True)
    assert built.library == tmp_path / LIBRARY
    library = ctypes.CDLL(str(built.library))
    assert library.RegisterCustomOps() == 17
    assert library.edgerank_sum() == (6 if HOST.startswith("x86_64") else 3)
    if HOST.endswith("linux"):
        linked = built.library.read_bytes()
        assert b"libstdc++.so" not in linked
        with pytest.raises(AttributeError):
            library._Znwm  # noqa: B018  operator new, of the C++ library inside


def test_an_instruction_set_has_flags_of_its_own(compile_stub, fake):
    compile_stub()
    assert {"-mavx2", "-mfma"} <= set(fake.flags_of("instruction_set_avx2.cpp"))
    assert "-mavxvnni" in fake.flags_of("instruction_set_avx_vnni.cpp")
    assert not [flag for flag in fake.flags_of("stub.cpp") if flag.startswith("-m")]
    compiled = {part for call in fake.calls() for part in call if part.endswith(".cpp")}
    assert "instruction_set_dotprod.cpp" not in map(os.path.basename, compiled)


def test_an_instruction_set_that_the_compiler_does_not_know_is_left_out(compile_stub, fake):
    fake.does_not_know("-mavxvnni")
    built = compile_stub()
    assert built.library.read_bytes() == b"made"
    assert built.message.endswith(", without avx_vnni, avx512, avx512_vnni, avx512_bf16, amx.")
    macros = [part for part in fake.flags_of("stub.cpp") if part.startswith("-D")]
    assert macros == [
        f"-DEDGERANK_WITHOUT_{name}"
        for name in ("AVX_VNNI", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX")
    ]


def test_flags_that_zig_spells_in_another_way_are_found(compile_stub, fake):
    compile_stub(target="aarch64-linux")
    assert "-march=armv8.2-a+dotprod" in fake.flags_of("instruction_set_dotprod.cpp")
    fake.forget()
    fake.does_not_know("-march=armv8.2-a+dotprod")
    compile_stub(target="aarch64-linux", werror=True)
    assert "-mcpu=generic+v8_2a+dotprod" in fake.flags_of("instruction_set_dotprod.cpp")


def test_a_source_of_an_unknown_instruction_set_is_an_error(compile_stub, sources):
    (sources / "instruction_set_mmx.cpp").write_text("")
    with pytest.raises(
        toolchain.BuildError, match=r"instruction_set_mmx.cpp: toolchain.py has no flags"
    ):
        compile_stub()


def test_every_source_of_an_instruction_set_has_flags():
    names = [path.stem for path in (ROOT / "edgerank/kernels/src").glob("instruction_set_*.cpp")]
    known = {
        f"instruction_set_{name}" for sets in toolchain.INSTRUCTION_SETS.values() for name in sets
    }
    assert names
    assert set(names) <= known


def test_sanitizers_are_for_compiling_and_linking(compile_stub, fake):
    compile_stub(sanitize="address,undefined")
    linking = fake.calls()[-1]
    assert "-fsanitize=address,undefined" in fake.flags_of("stub.cpp")
    assert "-fsanitize=address,undefined" in linking
    assert "-static-libstdc++" not in linking  # the sanitizer's library needs the shared one


# Compiling again


def test_nothing_is_compiled_twice(compile_stub, fake):
    first = compile_stub()
    fake.forget()
    assert compile_stub().library == first.library
    assert compile_stub().message == "libedgerank_kernels.so is up to date."
    assert fake.calls() == []


@pytest.mark.parametrize("name", ["stub.cpp", "instruction_set_dotprod.cpp", "new.h"])
def test_a_source_that_changed_is_compiled(compile_stub, fake, sources, name):
    compile_stub()
    fake.forget()
    with (sources / name).open("a") as file:
        file.write("// changed\n")
    compile_stub()
    assert fake.flags_of("stub.cpp")


@pytest.mark.parametrize(
    "options",
    [
        {"target": "aarch64-linux"},
        {"sanitize": "address"},
        {"werror": True},  # or else a warning would be seen by none
    ],
)
def test_other_options_compile_again(compile_stub, fake, options):
    compile_stub()
    fake.forget()
    compile_stub(**options)
    assert fake.flags_of("stub.cpp")


def test_another_compiler_compiles_again(compile_stub, fake):
    compile_stub()
    fake.forget()
    compile_stub(compiler=[*fake.command, "-v"])
    assert "-v" in fake.flags_of("stub.cpp")


def test_a_library_that_compiled_without_warnings_does_for_those_who_allow_them(compile_stub, fake):
    compile_stub(werror=True)
    fake.forget()
    compile_stub()
    assert fake.calls() == []


def test_a_failed_compilation_leaves_no_library_of_older_sources(compile_stub, sources, tmp_path):
    library = compile_stub().library
    (sources / "stub.cpp").write_text("#error broken")
    with pytest.raises(toolchain.BuildError, match="#error broken"):
        compile_stub()
    assert not library.exists()


def test_without_a_compiler_a_library_stays_only_if_it_is_of_the_sources(
    sources, fake, tmp_path, no_compiler
):
    def compile_it(compiler=None):
        return kernels.build(compiler=compiler, output=tmp_path / "made", sources=sources)

    library = compile_it(fake.command).library
    assert compile_it().library == library
    (sources / "stub.cpp").write_text("// changed")
    assert compile_it() == kernels.Built(None, f"No C++ compiler found: {WITHOUT}")
    assert not library.exists()
    assert kernels.absence_of(library).read_text() == "there was no C++ compiler"
    assert compile_it(fake.command).library == library
    assert not kernels.absence_of(library).exists()


# The command


def run_command(*arguments):
    return kernels.main(["--compiler", shlex.join(arguments[0]), *arguments[1:]])


def test_the_command_says_in_one_line_what_it_built(fake, tmp_path, capsys):
    arguments = ["--target", "aarch64-macos", "--output", str(tmp_path / "made")]
    assert run_command(fake.command, *arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("Built libedgerank_kernels.dylib with python")
    assert said.count("\n") == 1
    assert (tmp_path / "made/libedgerank_kernels.dylib").exists()


def test_the_command_shows_what_the_compiler_said_and_fails(fake, tmp_path, capsys):
    fake.does_not_know("-std=c++17")
    assert run_command(fake.command, "--output", str(tmp_path)) == 1
    assert "unrecognized command-line option '-std=c++17'" in capsys.readouterr().err
    assert run_command([str(tmp_path / "none")], "--output", str(tmp_path)) == 1
    assert "none cannot be run: No such file or directory" in capsys.readouterr().err


def test_the_command_without_a_compiler_is_no_failure(tmp_path, capsys, no_compiler):
    assert kernels.main(["--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"No C++ compiler found: {WITHOUT}\n"


@pytest.mark.parametrize("options", [["-S"], ["-S", "-I"]])
def test_the_command_runs_by_its_path_where_no_package_is_installed(options, tmp_path):
    command = [sys.executable, *options, ROOT / "edgerank/kernels/build.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: build.py")


def test_the_compiler_is_cxx_or_else_the_first_on_the_path(tmp_path, monkeypatch, no_compiler):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("clang++", "g++"):
        (tmp_path / name).touch(mode=0o755)
    assert toolchain.find_compiler() == ["g++"]
    monkeypatch.setenv("CXX", "ccache clang++")
    assert toolchain.find_compiler() == ["ccache", "clang++"]


def test_an_installation_without_sources_says_how_to_get_them(tmp_path):
    with pytest.raises(toolchain.BuildError, match="no sources of the kernels"):
        kernels.build(sources=tmp_path / "src")


def test_the_library_is_where_sessions_look_for_it():
    assert kernels.HERE / LIBRARY == edgerank.kernels.LIBRARY


def test_another_platform_needs_ziglang(monkeypatch):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(toolchain.BuildError, match="needs ziglang"):
        kernels.build("aarch64-linux")
    with pytest.raises(toolchain.BuildError, match="'vax' is not a target; choose x86_64-linux"):
        kernels.build("vax")


# Packaging


@pytest.fixture
def project(sources, tmp_path, monkeypatch):
    """A checkout of edgerank with nothing but its packaging and the small library's sources."""
    directory = tmp_path / "project"
    package = directory / "edgerank/kernels"
    package.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", ".gitignore"):
        shutil.copy(ROOT / name, directory)
    for name in ("build.py", "toolchain.py", "hatch_build.py"):
        shutil.copy(ROOT / "edgerank/kernels" / name, package)
    shutil.copytree(sources, package / "src")
    (directory / "edgerank/__init__.py").touch()
    (directory / "quantize").mkdir()
    (directory / "quantize/__init__.py").touch()
    for name in [name for name in sys.modules if name.startswith("edgerank_kernels")]:
        monkeypatch.delitem(sys.modules, name)  # those of another project
    monkeypatch.chdir(directory)
    monkeypatch.delenv("EDGERANK_KERNELS_TARGET", raising=False)
    return directory


@pytest.fixture
def make(project):
    """Let hatchling make something of the project: its name, and the files of the kernels."""
    hatchling = pytest.importorskip("hatchling.build")

    def make_it(what: str) -> tuple[str, set[str]]:
        name = getattr(hatchling, f"build_{what}")(str(project / "dist"))
        if what == "sdist":
            with tarfile.open(project / "dist" / name) as archive:
                names = [member.partition("/")[2] for member in archive.getnames()]
        else:
            with zipfile.ZipFile(project / "dist" / name) as archive:
                names = archive.namelist()
        return name, {name for name in names if name.startswith("edgerank/kernels/")}

    return make_it


@pytest.fixture
def use_fake(fake, monkeypatch):
    monkeypatch.setenv("CXX", shlex.join(fake.command))


def test_a_wheel_has_the_library_without_its_sources_and_is_for_one_platform(
    make, use_fake, project
):
    name, files = make("wheel")
    assert files == {f"edgerank/kernels/{LIBRARY}", *MODULES}
    python, abi, platform = name.removesuffix(".whl").split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform.endswith(os.uname().machine)
    assert "manylinux" not in platform  # it may need libraries as new as this system's
    with zipfile.ZipFile(project / "dist" / name) as archive:
        assert b"Root-Is-Purelib: false" in archive.read("edgerank-0.1.0.dist-info/WHEEL")


def install_editable(project: Path) -> dict[str, object]:
    """Run the hook as for `pip install -e`, and return what it adds to the wheel."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    data = {"force_include": {}}
    hooks = wheel.WheelBuilder(str(project)).get_build_hooks(str(project / "dist"))
    hooks["custom"].initialize("editable", data)
    return data


def test_an_editable_installation_has_the_library_among_the_sources(use_fake, project):
    assert install_editable(project) == {"force_include": {}}
    assert (project / "edgerank/kernels" / LIBRARY).read_bytes() == b"made"


def test_without_a_compiler_a_wheel_is_for_any_platform(make, capfd, project, no_compiler):
    name, files = make("wheel")
    assert (name, files) == ("edgerank-0.1.0-py3-none-any.whl", {*MODULES, ABSENT})
    assert capfd.readouterr().err.splitlines() == [f"No C++ compiler found: {WITHOUT}"]
    with zipfile.ZipFile(project / "dist" / name) as archive:
        assert archive.read(ABSENT) == b"there was no C++ compiler"
    assert install_editable(project) == {"force_include": {}}
    assert (project / ABSENT).exists()


def test_a_compiler_that_fails_fails_no_installation(make, capfd, use_fake, project):
    broken = project / "edgerank/kernels/src/stub.cpp"
    broken.write_text("#error broken")
    name, files = make("wheel")
    assert (name, files) == ("edgerank-0.1.0-py3-none-any.whl", {*MODULES, ABSENT})
    with zipfile.ZipFile(project / "dist" / name) as archive:
        reason = archive.read(ABSENT).decode()
    assert reason == f"the compiler failed: {broken}:1:2: error: #error broken"
    (said,) = capfd.readouterr().err.splitlines()
    assert said == (
        f"The kernels were not compiled ({broken}:1:2: error: #error broken): {WITHOUT}"
    )


def test_a_library_that_cannot_be_written_fails_no_installation(make, capfd, use_fake, project):
    in_its_place = project / "edgerank/kernels" / LIBRARY
    in_its_place.mkdir()
    assert make("wheel") == ("edgerank-0.1.0-py3-none-any.whl", MODULES)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("The kernels were not compiled ([Errno ")
    assert said.endswith(f"'{in_its_place}'): {WITHOUT}")


@pytest.mark.parametrize(
    ("target", "platform", "library"),
    [
        ("x86_64-linux", "manylinux_2_17_x86_64", "libedgerank_kernels.so"),
        ("aarch64-linux", "manylinux_2_17_aarch64", "libedgerank_kernels.so"),
        ("aarch64-macos", "macosx_11_0_arm64", "libedgerank_kernels.dylib"),
        ("x86_64-windows", "win_amd64", "edgerank_kernels.dll"),
    ],
)
def test_a_wheel_for_another_platform(make, monkeypatch, project, fake, target, platform, library):
    zig = project.parent / "modules/ziglang"  # a package of that name, with the compiler in it
    zig.mkdir(parents=True)
    for name in ("calls", "unknown"):
        shutil.copy(fake.directory / name, zig)
    shutil.copy(fake.directory / "compiler.py", zig / "__main__.py")
    (zig / "__init__.py").touch()
    monkeypatch.syspath_prepend(zig.parent)
    monkeypatch.setenv("PYTHONPATH", str(zig.parent))
    monkeypatch.setenv("EDGERANK_KERNELS_TARGET", target)
    name, files = make("wheel")
    assert name == f"edgerank-0.1.0-py3-none-{platform}.whl"
    assert files == {f"edgerank/kernels/{library}", *MODULES}
    assert not list((project / "edgerank/kernels").glob("*edgerank_kernels*"))
    calls = [json.loads(line) for line in (zig / "calls").read_text().splitlines()]
    assert all(call[:2] == ["c++", "-target"] for call in calls)


def test_a_wheel_for_a_platform_that_was_asked_for_is_never_without_kernels(make, monkeypatch):
    monkeypatch.setenv("EDGERANK_KERNELS_TARGET", "vax")
    with pytest.raises(Exception, match="'vax' is not a target"):
        make("wheel")


def test_a_source_distribution_has_the_sources_and_no_library(make, use_fake, project, sources):
    install_editable(project)
    assert (project / "edgerank/kernels" / LIBRARY).exists()
    _, files = make("sdist")
    expected = {f"edgerank/kernels/src/{path.name}" for path in sources.iterdir()}
    assert files == expected | MODULES | {"edgerank/kernels/hatch_build.py"}
