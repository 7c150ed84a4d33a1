// Makes a component of a handler: node component.mjs DIR ENTRY TOOLS > FILE
//
// DIR is the plugin's folder, ENTRY its module from there, TOOLS where esbuild and componentize-qjs
// were fetched to. What either says goes to standard error as it is.

import { join, resolve } from "node:path";
import { options, SDK, sourceName, tool } from "./bundle.mjs";

const [dir, entry, tools] = process.argv.slice(2);

/** The module that the component is made of: the handler, behind the SDK. */
const ENTRY = `
import { component } from ${JSON.stringify(join(SDK, "src/wasm.js"))};
import * as module from ${JSON.stringify(resolve(dir, entry))};
export const { handle, query, migrate } = component(module.default);
`;

async function bundle() {
    const { build } = tool(tools, "esbuild");
    try {
        const built = await build({
            ...options(dir),
            stdin: { contents: ENTRY, resolveDir: dir, sourcefile: "component" },
            outfile: join(dir, "component.js"),
            write: false,
            platform: "neutral",
            // As for a browser, where a package has a form for one: QuickJS has no more of Node.js.
            mainFields: ["browser", "module", "main"],
            conditions: ["browser", "import", "default"],
            target: "es2023",
            external: ["slotd:*", "wasi:*"],
        });
        const [map, code] = ["component.js.map", "component.js"].map((name) =>
            built.outputFiles.find((file) => file.path === join(dir, name)).text);
        return { code, map: JSON.parse(map) };
    } catch (error) {
        // esbuild has told its own errors already.
        if (error.errors === undefined) throw error;
        process.exit(1);
    }
}

/** What a trace needs of a source map. */
function compact(map) {
    const sources = map.sources.map((source) => {
        if (source === "component") return "";
        return sourceName(dir, resolve(dir, source)) ?? "";
    });
    return { sources, mappings: map.mappings };
}

const { code, map } = await bundle();
const traces = compact(map);
// Behind the code, so that its lines stay where the map says.
const source = `${code.replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n")}globalThis.__slotdSetMap(${JSON.stringify(traces)});\n`;
const { componentize } = tool(tools, "componentize-qjs");
try {
    const { component } = await componentize({
        witPath: join(SDK, "wit"),
        jsSource: source,
        // The host calls a handler, and waits: there is nothing for it to await.
        sync: true,
    });
    process.stdout.write(component);
} catch (error) {
    const { setMap, place } = await import("../src/trace.js");
    setMap(traces);
    const text = String(error?.message ?? error);
    process.stderr.write(`${text.replace(/\(?[^\s()]*user\.js:(\d+):(\d+)\)?/g, (all, line, column) => place(line, column) ?? all).trim()}\n`);
    process.exit(1);
}
