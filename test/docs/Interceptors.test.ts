/** The page on interceptors: its configurations work, and it leaves none of the kinds and findings out. */
import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import { readFileSync } from "node:fs"
import { parse } from "../../src/config/ConfigFile.ts"
import { keyReference } from "../../src/config/KeyReference.ts"

describe("docs/INTERCEPTORS.md", () => {
  const page = readFileSync(new URL("../../docs/INTERCEPTORS.md", import.meta.url), "utf8")
  const typeOf = (path: string) => keyReference.find((entry) => entry.path === path)?.type ?? ""

  it("has configurations that the gateway takes", () => {
    const blocks = Array.from(page.matchAll(/```yaml\n([\s\S]*?)```/g), ([, block = ""]) => block)
    assert.lengthOf(blocks, 5)
    for (const block of blocks) {
      const parsed = parse(block, "page", {})
      assert.isTrue(Result.isSuccess(parsed), Result.isFailure(parsed) ? parsed.failure.message : "")
    }
  })

  it("tells of every kind of interceptor, and of everything that pii finds", () => {
    const first = (table: RegExp) => Array.from(page.matchAll(table), ([, name]) => name)
    const kinds = typeOf("interceptors.<name>.type").split(", ")
    assert.deepStrictEqual(first(/^\| `([a-z-]+)` \| .* \| .* \| .* \|$/gm), kinds)
    const found = typeOf("interceptors.<name>.redact").replace("list of ", "").split(", ")
    assert.includeMembers(first(/^\| `(\w+)` \| [^|]* \|$/gm), [...found, "patterns"])
  })
})
