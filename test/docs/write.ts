/**
 * Writes into the pages what can be worked out: the outputs of the examples in README.md, docs/API.md and
 * docs/GOVERNANCE.md, the files that they show, the tables of docs/CONFIGURATION.md, the JSON Schema, and all of docs/PROVIDERS.md. Run it after a change that the tests of this folder complain about, and read the difference.
 */
import { Effect } from "effect"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import path from "node:path"
import { type Block, openCheckout, readPage, root } from "./Examples.ts"
import { jsonSchemaText } from "../../src/config/JsonSchema.ts"
import { keyReference, referenceRow } from "../../src/config/KeyReference.ts"
import { providersPage } from "./ProvidersPage.ts"

const widthOfLine = 120

/** JSON over as few lines as are wide enough. */
const pretty = (value: unknown, indent = ""): string => {
  const flat = JSON.stringify(value)
  if (typeof value !== "object" || value === null || indent.length + flat.length < widthOfLine) return spaced(value)
  const inner = `${indent}  `
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => inner + pretty(item, inner)).join(",\n")}\n${indent}]`
  }
  const members = Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${pretty(item, inner)}`)
  return `{\n${members.join(",\n")}\n${indent}}`
}

const spaced = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(spaced).join(", ")}]`
  if (typeof value !== "object" || value === null) return JSON.stringify(value)
  const members = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${spaced(item)}`)
  return members.length === 0 ? "{}" : `{ ${members.join(", ")} }`
}

for (const file of ["README.md", "docs/API.md", "docs/GOVERNANCE.md"]) {
  const page = readPage(file)
  const checkout = await openCheckout(page)
  try {
    const written: Array<{ readonly block: Block; readonly text: string }> = []
    for (const { block, name } of page.files) {
      const there = path.join(root, name)
      if (existsSync(there)) written.push({ block, text: readFileSync(there, "utf8").trimEnd() })
    }
    for (const example of page.examples) {
      const { output } = example
      // All of them are run, since later ones may build on what earlier ones did.
      const text = (await checkout.run(example)).replaceAll("\r", "").trim()
      if (output?.marker !== "output") continue
      written.push({ block: output, text: output.language === "json" ? pretty(JSON.parse(text)) : text })
    }
    const lines = readFileSync(path.join(root, file), "utf8").split("\n")
    // From the end, so that lines before stay where they are.
    for (const { block, text } of written.toSorted((a, b) => b.block.line - a.block.line)) {
      lines.splice(block.line, block.code === "\n" ? 0 : block.code.split("\n").length - 1, ...text.split("\n"))
    }
    writeFileSync(path.join(root, file), lines.join("\n"))
  } finally {
    await checkout.close()
  }
}
writeFileSync(path.join(root, "docs/PROVIDERS.md"), await Effect.runPromise(providersPage))

/** The rows of a table, by the first key in it: all keys that begin with it. */
const rowsOf = (section: string): ReadonlyArray<string> =>
  keyReference.filter(({ path: key }) => key.split(/[.[]/, 1)[0] === section).map(referenceRow)

const configuration = path.join(root, "docs/CONFIGURATION.md")
const firstRow = /^\| `([a-z_]+)` \|.*\| (?:yes|not yet) \|$/
const rewritten: Array<string> = []
let isInTable = false
for (const line of readFileSync(configuration, "utf8").split("\n")) {
  if (!line.startsWith("|")) isInTable = false
  if (isInTable) continue
  const section = firstRow.exec(line)?.[1]
  if (section === undefined) rewritten.push(line)
  else {
    rewritten.push(...rowsOf(section))
    isInTable = true
  }
}
writeFileSync(configuration, rewritten.join("\n"))
writeFileSync(path.join(root, "docs/gateway.schema.json"), jsonSchemaText())
