// Bundles a handler's own tests for `node --test`: node tests.mjs DIR TOOLS
//
// They run in Node.js, on the handler's source. Prints a line for each bundle.

import { readdirSync, rmSync } from "node:fs";
import { join, relative } from "node:path";
import { options, tool } from "./bundle.mjs";

const [dir, tools] = process.argv.slice(2);

const TEST = /\.(test|spec)\.(js|mjs|ts|mts)$/;
/** Folders that have no tests of the plugin's own. */
const SKIPPED = new Set(["node_modules", "target", "dist"]);

function* tests(folder) {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
        const path = join(folder, entry.name);
        if (entry.isDirectory()) {
            if (!entry.name.startsWith(".") && !SKIPPED.has(entry.name)) yield* tests(path);
        } else if (TEST.test(entry.name)) {
            yield path;
        }
    }
}

const found = [...tests(dir)].sort();
const out = join(dir, ".slotd/test");
rmSync(out, { recursive: true, force: true });
if (found.length > 0) {
    const { build } = tool(tools, "esbuild");
    try {
        await build({
            ...options(dir),
            entryPoints: found,
            outbase: dir,
            outdir: out,
            outExtension: { ".js": ".mjs" },
            platform: "node",
            // What the plugin has of npm stays where it is.
            packages: "external",
            target: "node20",
        });
    } catch (error) {
        // esbuild has told its own errors already.
        if (error.errors === undefined) throw error;
        process.exit(1);
    }
}
for (const test of found) {
    console.log(join(out, relative(dir, test).replace(/\.[a-z]+$/, ".mjs")));
}
