// Checks the types, and makes what is used of the sources: `node build.mjs [--tools DIR] [--out DIR]`. DIR of the tools has the
// node_modules of package-lock.json; both are this folder's own by default.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const here = dirname(fileURLToPath(import.meta.url));
const { values } = parseArgs({ options: { tools: { type: "string" }, out: { type: "string" } } });
const modules = resolve(values.tools ?? here, "node_modules");
const out = resolve(values.out ?? join(here, "dist"));
const { build } = createRequire(join(modules, "from.js"))("esbuild");

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

/** tsc resolves packages from the sources' folder, so it is told where they are. */
const config = join(out, "tsconfig.json");
const paths = { react: [join(modules, "@types/react")] };
const checked = { extends: join(here, "tsconfig.json"), include: ["src", "test", "conformance"].map((dir) => join(here, dir)) };
const base = { typeRoots: [join(modules, "@types")], paths, rootDir: here };
const tsc = (compilerOptions, more = {}) => {
  writeFileSync(config, JSON.stringify({ ...checked, ...more, compilerOptions: { ...base, ...compilerOptions } }));
  const { status } = spawnSync(process.execPath, [join(modules, "typescript/bin/tsc"), "--project", config], { stdio: "inherit" });
  if (status !== 0) process.exit(1);
};
tsc({ noEmit: true });
tsc(
  { declaration: true, emitDeclarationOnly: true, outDir: join(out, "types"), rootDir: join(here, "src") },
  { include: [join(here, "src")] },
);

/** What is shown in documents has to be right, too. Blocks without imports go on from the first ones. */
const documents = ["README.md", "../../README.md", "../../docs/clients.md"].map((name) => join(here, name)).filter(existsSync);
const pages = join(out, "documents");
mkdirSync(pages);
const before = `import { SlotdError, connect, type Session } from "slotd-client";
declare const slotd: ReturnType<typeof connect>, room: Session, controller: AbortController;
`;
documents.forEach((document, n) => {
  const blocks = readFileSync(document, "utf8").matchAll(/^```(tsx?)\n([^]*?)^```$/gm);
  for (const [m, [, kind, code]] of [...blocks].entries()) {
    writeFileSync(join(pages, `${n}-${m}.${kind}`), code.startsWith("import ") ? code : before + code);
  }
});
writeFileSync(join(pages, "globals.d.ts"), "declare function fetchToken(): Promise<string>;\n");
const packages = { "slotd-client": [join(here, "src/index.ts")], "slotd-client/react": [join(here, "src/react.ts")] };
const types = { ...paths, "react/*": [join(modules, "@types/react/*")], ...packages };
tsc({ noEmit: true, jsx: "react-jsx", noUnusedLocals: false, paths: types, rootDir: "/" }, { include: [pages] });
rmSync(pages, { recursive: true });
rmSync(config);

const common = { bundle: true, format: "esm", target: "es2022", nodePaths: [modules], logLevel: "warning", absWorkingDir: here };
await build({ ...common, entryPoints: ["src/index.ts"], outfile: join(out, "index.js") });
// For pages: one file.
await build({ ...common, entryPoints: ["src/index.ts"], outfile: join(out, "slotd.js"), minify: true });
await build({ ...common, entryPoints: ["src/react.ts"], outfile: join(out, "react.js"), external: ["react"] });
const node = { ...common, platform: "node", sourcemap: "inline" };
await build({ ...node, entryPoints: ["conformance/driver.ts"], outfile: join(out, "driver.mjs") });
const tests = readdirSync(join(here, "test")).filter((name) => name.endsWith(".test.ts"));
await build({
  ...node,
  entryPoints: tests.map((name) => join("test", name)),
  outdir: join(out, "test"),
  outExtension: { ".js": ".mjs" },
  // React's own files are for CommonJS.
  banner: { js: `import { createRequire } from "node:module"; const require = createRequire(import.meta.url);` },
  define: { "process.env.NODE_ENV": `"development"` },
});
cpSync(join(here, "package.json"), join(out, "package.json"));
