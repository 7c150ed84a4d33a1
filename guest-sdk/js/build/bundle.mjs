// What both the component and the tests are bundled with.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The folder of the SDK: of `package.json`, `src`, `wit`. */
export const SDK = dirname(dirname(fileURLToPath(import.meta.url)));

/** A tool that was fetched for slotd, not one of the plugin's own. */
export function tool(tools, name) {
    return createRequire(join(tools, "package.json"))(name);
}

export function options(dir) {
    const tsconfig = join(dir, "tsconfig.json");
    return {
        absWorkingDir: dir,
        bundle: true,
        format: "esm",
        charset: "utf8",
        // What the handler imports is this SDK, whatever else is called so.
        alias: {
            "slotd-guest": join(SDK, "src/index.js"),
            "slotd-guest/test": join(SDK, "src/test.js"),
            "slotd-guest/raw": join(SDK, "src/raw.js"),
        },
        ...(existsSync(tsconfig) ? { tsconfig } : {}),
        sourcemap: true,
        sourcesContent: false,
        legalComments: "none",
        logLevel: "warning",
    };
}

/** A source as its author knows it, from the plugin's folder; undefined for one of the SDK. */
export function sourceName(dir, path) {
    if (path.startsWith(SDK + sep)) return undefined;
    return relative(dir, path).split(sep).join("/");
}
