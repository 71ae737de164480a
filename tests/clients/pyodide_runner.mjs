// Runs a Python program on Pyodide, which is CPython for WebAssembly. node pyodide_runner.mjs SITE_PACKAGES PROGRAM
import { readFileSync } from "node:fs";
import { loadPyodide } from "pyodide";

const [site, program] = process.argv.slice(2);
const python = await loadPyodide({ stdout: (line) => console.log(line), stderr: (line) => console.error(line) });
python.FS.mkdirTree("/site");
python.FS.mount(python.FS.filesystems.NODEFS, { root: site }, "/site");
try {
  python.runPython(readFileSync(program, "utf8"));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
