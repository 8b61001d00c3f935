// node tests/run_wasm.mjs PROGRAM.wasm ARGUMENT...: runs a program for WASI in this folder. Its memory must be there
// from the start: node:wasi goes on using the old one when it grows.
import { readFile } from 'node:fs/promises';
import { WASI } from 'node:wasi';

const [program, ...args] = process.argv.slice(2);
const env = { POLAR_TEST_QUICK: '1' };
const preopens = { '/': '.', '/tmp': '/tmp' };
const wasi = new WASI({ version: 'preview1', args: [program, ...args], env, preopens, returnOnExit: true });
const module = await WebAssembly.compile(await readFile(program));
process.exit(wasi.start(await WebAssembly.instantiate(module, { wasi_snapshot_preview1: wasi.wasiImport })));
