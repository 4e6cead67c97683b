/**
 * Checks that imports go only the ways that the architecture allows, so that `gateway` knows no plugin, no store and no
 * protocol, `wire` does no I/O, and an app that embeds the gateway pulls in no server. Run by `npm run check`.
 */
import { globSync, readFileSync } from "node:fs"
import path from "node:path"

const root = path.resolve(import.meta.dirname, "../../src")

/** The folders of `src/` that each may import from, beside itself. */
const allowed: Readonly<Record<string, ReadonlyArray<string>>> = {
  sdk: [],
  wire: ["sdk"],
  gateway: ["sdk"],
  modules: ["sdk"],
  client: ["sdk"],
  testing: ["sdk"],
  plugins: ["sdk", "wire"],
  server: ["sdk", "wire", "gateway"],
  config: ["sdk", "wire", "gateway", "modules", "plugins", "server"],
  "main.ts": ["sdk", "gateway", "config", "server", "modules", "plugins"],
  "index.ts": ["sdk", "wire", "gateway", "modules", "plugins", "server", "client", "config"]
}

/** Packages that a folder may import; a folder that is not listed may import any. */
const packages: Readonly<Record<string, RegExp>> = {
  sdk: /^effect(\/|$)/,
  // It runs in browsers, too.
  client: /^effect(\/|$)/,
  // Hashing and base64 are computations, not input or output.
  wire: /^(effect$|effect\/encoding$|node:(buffer|crypto)$)/
}

const importPattern = /(?:from|import)\s+"([^"]+)"/g

const folderOf = (file: string) => path.relative(root, file).split(path.sep)[0] ?? ""

const problems: Array<string> = []
for (const name of globSync("**/*.ts", { cwd: root })) {
  const file = path.join(root, name)
  const folder = folderOf(file)
  const may = allowed[folder]
  if (may === undefined) {
    problems.push(`src/${name}: the folder "${folder}" has no place in the architecture`)
    continue
  }
  for (const [, target = ""] of readFileSync(file, "utf8").matchAll(importPattern)) {
    if (target.startsWith(".")) {
      const to = folderOf(path.resolve(path.dirname(file), target))
      if (to !== folder && !may.includes(to)) problems.push(`src/${name}: ${folder} must not import ${to} (${target})`)
    } else if (packages[folder]?.test(target) === false) {
      problems.push(`src/${name}: ${folder} must not import the package ${target}`)
    }
  }
}

if (problems.length > 0) {
  process.stderr.write(`${problems.join("\n")}\n`)
  process.exitCode = 1
}
