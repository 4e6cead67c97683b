/** README.md, docs/API.md and docs/GOVERNANCE.md show only what works: their examples are run against a gateway started with `npm start`. */
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { existsSync, readFileSync } from "node:fs"
import path from "node:path"
import { parse } from "../../src/config/ConfigFile.ts"
import { type Checkout, missingLines, openCheckout, readPage, root, settled } from "./Examples.ts"

const jsonOf = (text: string): unknown => JSON.parse(settled(text))

describe.each(["README.md", "docs/API.md", "docs/GOVERNANCE.md"])("%s", (file) => {
  const page = readPage(file)
  let checkout: Checkout
  beforeAll(async () => {
    checkout = await openCheckout(page)
  })
  afterAll(() => checkout.close())

  it.each(page.examples.map((example) => [`${file}:${example.line}`, example] as const))(
    "%s runs",
    async (_, example) => {
      const { output } = example
      assert.isDefined(output, "the example's output is not told")
      if (output === undefined) return
      const printed = await checkout.run(example)
      if (output.marker === "output: some") assert.deepStrictEqual(missingLines(output.code, printed), [], printed)
      else if (output.language === "json") assert.deepStrictEqual(jsonOf(printed), jsonOf(output.code))
      else assert.strictEqual(settled(printed), settled(output.code))
    }
  )

  it("has TypeScript that the type checker accepts", async () => {
    assert.strictEqual(await checkout.typeErrors(page), "")
  })

  it("shows files as they are", () => {
    for (const { block, name } of page.files) {
      const there = path.join(root, name)
      if (existsSync(there)) assert.strictEqual(block.code, readFileSync(there, "utf8"), name)
    }
  })

  it("has configurations that the gateway takes", () => {
    // The environment that a page's configurations name.
    const environment = {
      GATEWAY_KEY_SHA256: "0".repeat(64),
      OPENAI_API_KEY: "a",
      GROQ_API_KEY: "b",
      ANTHROPIC_API_KEY: "c"
    }
    for (const { code, line } of page.yaml) {
      const parsed = parse(code, `${file}:${line}`, environment)
      assert.isTrue(Result.isSuccess(parsed), Result.isFailure(parsed) ? parsed.failure.message : "")
    }
  })
})

const prose = [
  "README.md",
  "CHANGELOG.md",
  "docs/API.md",
  "docs/ARCHITECTURE.md",
  "docs/CONFIGURATION.md",
  "docs/GOVERNANCE.md",
  "docs/INTERCEPTORS.md",
  "docs/OPERATIONS.md",
  "docs/PROVIDERS.md",
  "docs/RESILIENCE.md",
  "src/plugins/providers/README.md"
]

describe.each(prose)("%s", (file) => {
  const text = readFileSync(path.join(root, file), "utf8")

  it("links to what is there", () => {
    for (const [, target = "", anchor] of text.matchAll(/\]\(([^)#:\s]*)(?:#([^)]*))?\)/g)) {
      const there = target === "" ? path.join(root, file) : path.resolve(root, path.dirname(file), target)
      assert.isTrue(existsSync(there), `it links to ${target}`)
      if (anchor !== undefined) assert.include(anchorsOf(readFileSync(there, "utf8")), anchor, `in ${target}`)
    }
  })

  it("names only files that are there", () => {
    for (const [, name = ""] of text.matchAll(/`((?:src|test|docs|scratchpad)\/[^\s`*<>…]+)`/g)) {
      assert.isTrue(existsSync(path.join(root, name)), `it names ${name}`)
    }
  })
})

/** Headings as the targets of links, in GitHub's way. */
const anchorsOf = (text: string): ReadonlyArray<string> =>
  Array.from(
    text.matchAll(/^#+ (.*)$/gm),
    ([, heading = ""]) => heading.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")
  )

describe("docs/ARCHITECTURE.md", () => {
  const text = readFileSync(path.join(root, "docs/ARCHITECTURE.md"), "utf8")
  const check = readFileSync(path.join(root, "test/architecture/imports.ts"), "utf8")

  it.each(["sdk", "wire", "gateway", "modules", "plugins", "server"])(
    "tells what %s may import, as it is enforced",
    (folder) => {
      const row = new RegExp(`^\\| \`src/${folder}\` \\|.*\\| (.*) \\|$`, "m").exec(text)?.[1] ?? ""
      const enforced = new RegExp(`^  ${folder}: \\[(.*)\\],?$`, "m").exec(check)?.[1]
      const told = Array.from(row.matchAll(/`(\w+)`/g), ([, name]) => `"${name}"`).join(", ")
      assert.strictEqual(told, enforced)
    }
  )
})

describe("missingLines", () => {
  it("finds lines that are missing or out of order", () => {
    assert.deepStrictEqual(missingLines("a\nb", "x\na\ny\nb\n"), [])
    assert.deepStrictEqual(missingLines("a\nc", "a\nb"), ["c"])
    assert.deepStrictEqual(missingLines("b\na", "a\nb"), ["a"])
  })
})
